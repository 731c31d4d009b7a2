"""The demo's model reaches the accuracy that it promises, on real labels."""

from pathlib import Path

import numpy as np
import pytest

from paring_pipelines.demo import Digits, read_digits, train_digits_model, write_digits_examples


def test_the_trained_model_reaches_97_percent_on_the_held_out_split(
    tmp_path: Path, digits: Digits
) -> None:
    import tensorflow as tf

    reported = train_digits_model(tmp_path / "model")

    # The figure is measured again on what was saved, by its serving signature.
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    scores = serve(image=tf.constant(digits.x_eval))["digit"].numpy()
    accuracy = float(np.mean(scores.argmax(axis=1) == digits.y_eval))
    assert accuracy >= 0.97
    assert reported == pytest.approx(accuracy)


def test_the_examples_file_holds_both_splits_as_the_model_takes_them(tmp_path: Path) -> None:
    file = tmp_path / "new" / "digits.npz"

    write_digits_examples(file)

    with np.load(file) as arrays:
        assert {name: str(arrays[name].dtype) for name in arrays} == {
            "x_train": "float32",
            "y_train": "int64",
            "x_eval": "float32",
            "y_eval": "int64",
        }
        assert arrays["x_eval"].shape == (360, 32, 32, 1)
        assert arrays["x_train"].shape == (1437, 32, 32, 1)
        assert arrays["x_train"].min() == 0
        assert arrays["x_train"].max() == 1


def test_no_image_is_in_both_splits_and_every_class_is_in_each(digits: Digits) -> None:
    trained = {image.tobytes() for image in digits.x_train}

    assert not any(image.tobytes() in trained for image in digits.x_eval)
    assert set(digits.y_train) == set(digits.y_eval) == set(range(10))


def test_the_split_is_the_same_every_time(digits: Digits) -> None:
    for first, second in zip(digits, read_digits(), strict=True):
        np.testing.assert_array_equal(first, second)

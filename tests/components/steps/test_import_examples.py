"""Examples come into Paring's form, or are refused with nothing written."""

from pathlib import Path

import numpy as np
import pytest
from tests.helpers.saved_models import save_signature

from paring.artifacts import Examples, content_digest
from paring.errors import ExamplesError, ParameterError
from paring.execution import Call, execute
from paring.steps.import_examples import import_examples
from paring_pipelines.demo import Digits


def bring_in(original: Path, model: Path, out: Path, **parameters: object) -> Examples:
    call = Call({"original": original, "model": model}, {"examples": out}, parameters)
    result = execute(import_examples, call)["examples"]
    assert isinstance(result, Examples)
    return result


def test_digits_come_in_whole_and_unchanged(
    tmp_path: Path, digits: Digits, digits_npz: Path, digits_model: Path
) -> None:
    result = bring_in(digits_npz, digits_model, tmp_path / "examples")
    facts = (result.train_count, result.eval_count, result.labelled)
    assert facts == (len(digits.y_train), len(digits.y_eval), 1)
    held_out = result.path / "Split-eval"
    np.testing.assert_array_equal(np.load(held_out / "image.npy"), digits.x_eval)
    np.testing.assert_array_equal(np.load(held_out / "label.npy"), digits.y_eval)
    written = {item.relative_to(result.path).as_posix() for item in result.path.rglob("*.npy")}
    assert written == {
        f"Split-{split}/{name}.npy" for split in ("train", "eval") for name in ("image", "label")
    }


def test_parings_form_comes_in_as_itself(
    tmp_path: Path, digits_npz: Path, digits_model: Path
) -> None:
    first = bring_in(digits_npz, digits_model, tmp_path / "first")
    second = bring_in(first.path, digits_model, tmp_path / "second")
    assert second.digest == first.digest


def test_one_set_is_split_by_fraction_and_seed(
    tmp_path: Path, digits: Digits, digits_model: Path
) -> None:
    file = tmp_path / "whole.npz"
    np.savez(file, x=digits.x_train[:500], y=digits.y_train[:500])
    digests = {}
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        result = bring_in(file, digits_model, tmp_path / name, eval_fraction=0.3, seed=seed)
        assert (result.train_count, result.eval_count) == (350, 150)
        digests[name] = content_digest(result.path)
    assert digests["a"] == digests["b"] != digests["c"]


def test_a_named_label_becomes_the_label(
    tmp_path: Path, digits: Digits, digits_model: Path
) -> None:
    file = tmp_path / "named.npz"
    np.savez(file, image=digits.x_train[:50], written=digits.y_train[:50])
    result = bring_in(file, digits_model, tmp_path / "examples", label="written")
    assert result.labelled == 1
    assert len(np.load(result.path / "Split-train" / "label.npy")) == result.train_count


def test_unlabelled_examples_are_taken_as_such(
    tmp_path: Path, digits: Digits, digits_model: Path
) -> None:
    file = tmp_path / "bare.npz"
    np.savez(file, x=digits.x_train[:50])
    result = bring_in(file, digits_model, tmp_path / "examples")
    assert (result.labelled, result.train_count, result.eval_count) == (0, 40, 10)
    assert not list(result.path.rglob("label.npy"))


def test_labels_in_one_split_alone_are_refused(
    tmp_path: Path, digits: Digits, digits_model: Path
) -> None:
    file = tmp_path / "half.npz"
    np.savez(file, x_train=digits.x_train[:9], y_train=digits.y_train[:9], x_eval=digits.x_eval[:9])
    with pytest.raises(ExamplesError, match="split eval has no labels"):
        bring_in(file, digits_model, tmp_path / "examples")


def test_labels_of_several_outputs_come_in_under_their_names(tmp_path: Path) -> None:
    import tf_keras

    values = tf_keras.Input((4,), name="values")
    outputs = [tf_keras.layers.Dense(3, name=name)(values) for name in ("kind", "box")]
    save_signature(tf_keras.Model(values, outputs), tmp_path / "model")
    file = tmp_path / "two.npz"
    random = np.random.default_rng(0)
    arrays = {
        "values": random.random((20, 4)),
        "kind": np.arange(20) % 3,
        "box": random.random((20, 3)),
    }
    np.savez(file, **arrays)
    result = bring_in(file, tmp_path / "model", tmp_path / "examples")
    names = sorted(item.name for item in (result.path / "Split-eval").iterdir())
    assert names == ["box.npy", "kind.npy", "values.npy"]
    assert result.labelled == 1
    again = bring_in(result.path, tmp_path / "model", tmp_path / "again")
    assert again.digest == result.digest
    arrays = {
        f"{name}_{split}": array for name, array in arrays.items() for split in ("train", "eval")
    }
    del arrays["kind_eval"]
    np.savez(file, **arrays)
    with pytest.raises(ExamplesError, match="split eval has no labels of output 'kind'"):
        bring_in(file, tmp_path / "model", tmp_path / "third")


@pytest.fixture(scope="module")
def two_outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose first output is the last one by name."""
    import tf_keras

    values = tf_keras.Input((4,), name="values")
    heads = {"kind": 3, "age": 1}
    outputs = [tf_keras.layers.Dense(units, name=name)(values) for name, units in heads.items()]
    folder = tmp_path_factory.mktemp("two") / "model"
    save_signature(tf_keras.Model(values, outputs), folder)
    return folder


def write_rows(file: Path, form: str, columns: dict[str, np.ndarray]) -> Path:
    """The columns as an `.npz` file, or as TFRecords."""
    if form == "npz":
        np.savez(file.with_suffix(".npz"), **columns)  # type: ignore[arg-type]
        return file.with_suffix(".npz")
    import tensorflow as tf

    file = file.with_suffix(".tfrecord")
    with tf.io.TFRecordWriter(str(file)) as writer:
        for row in range(len(next(iter(columns.values())))):
            features = {}
            for name, array in columns.items():
                values = np.ravel(array[row])
                features[name] = (
                    tf.train.Feature(float_list=tf.train.FloatList(value=values))
                    if array.dtype.kind == "f"
                    else tf.train.Feature(int64_list=tf.train.Int64List(value=values))
                )
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())
    return file


VALUES = np.random.default_rng(0).random((30, 4)).astype(np.float32)
# Also valid labels of `age`, which is the first output by name.
KINDS = np.arange(30) % 2


@pytest.mark.parametrize("form", ["npz", "records"])
@pytest.mark.parametrize("column", ["y", "label", "species"])
def test_labels_that_may_be_of_any_of_several_outputs_are_asked_for(
    column: str, form: str, two_outputs: Path, tmp_path: Path
) -> None:
    file = write_rows(tmp_path / "rows", form, {"values": VALUES, column: KINDS})
    label = {"label": "species"} if column == "species" else {}
    with pytest.raises(ExamplesError, match=rf"which output[\s\S]*--label age={column}"):
        bring_in(file, two_outputs, tmp_path / "refused", **label)
    result = bring_in(file, two_outputs, tmp_path / "made", label=f"kind={column}")
    names = sorted(item.name for item in (result.path / "Split-eval").iterdir())
    assert names == ["kind.npy", "values.npy"]
    again = bring_in(result.path, two_outputs, tmp_path / "again")
    assert again.digest == result.digest


def test_several_columns_of_labels_are_named_for_their_outputs(
    two_outputs: Path, tmp_path: Path
) -> None:
    columns = {"values": VALUES, "a": KINDS, "b": VALUES[:, 0]}
    file = write_rows(tmp_path / "rows", "npz", columns)
    result = bring_in(file, two_outputs, tmp_path / "made", label="kind=a, age=b")
    assert np.load(result.path / "Split-train" / "kind.npy").dtype == np.int64
    assert np.load(result.path / "Split-train" / "age.npy").dtype == np.float32


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("knd=a", "no output 'knd'"),
        ("kind=", "no output 'kind'"),
        ("kind=a,kind=b", "stand there once"),
        ("kind=a,age=a", "stand there once"),
        ("kind=values", "'values' is an input"),
        ("kind=c", "no label column 'c'"),
    ],
)
def test_labels_of_an_output_that_is_not_there_are_refused(
    label: str, message: str, two_outputs: Path, tmp_path: Path
) -> None:
    columns = {"values": VALUES, "a": KINDS, "b": VALUES[:, 0]}
    file = write_rows(tmp_path / "rows", "npz", columns)
    with pytest.raises(ExamplesError, match=message):
        bring_in(file, two_outputs, tmp_path / "refused", label=label)


@pytest.mark.parametrize("form", ["npz", "records"])
def test_columns_that_nothing_takes_are_left_out_and_named(
    form: str, two_outputs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"values": VALUES, "kind": KINDS, "id": np.arange(30), "weight": VALUES[:, 0]}
    file = write_rows(tmp_path / "rows", form, columns)
    result = bring_in(file, two_outputs, tmp_path / "made")
    names = sorted(item.name for item in (result.path / "Split-train").iterdir())
    assert names == ["kind.npy", "values.npy"]
    assert "no output of the model takes 'id', 'weight', so they are left out" in caplog.text


def test_a_set_whose_labels_have_another_name_says_that_there_are_none(
    digits: Digits, digits_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    np.savez(tmp_path / "rows.npz", x=digits.x_train[:50], lable=digits.y_train[:50])
    assert not bring_in(tmp_path / "rows.npz", digits_model, tmp_path / "made").labelled
    assert "takes 'lable', so it is left out; there are no labels" in caplog.text


def test_refused_examples_leave_an_earlier_result_as_it_was(
    tmp_path: Path, digits: Digits, digits_npz: Path, digits_model: Path
) -> None:
    first = bring_in(digits_npz, digits_model, tmp_path / "examples")
    file = tmp_path / "broken.npz"
    broken = digits.x_train.copy()
    broken[11] = np.nan
    np.savez(file, x_train=broken, x_eval=digits.x_eval)
    with pytest.raises(ExamplesError, match="NaN or infinity, first in row 11"):
        bring_in(file, digits_model, first.path)
    assert content_digest(first.path) == first.digest
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_a_fraction_of_all_is_refused(tmp_path: Path, digits_npz: Path, digits_model: Path) -> None:
    with pytest.raises(ParameterError, match="eval_fraction"):
        bring_in(digits_npz, digits_model, tmp_path / "examples", eval_fraction=1.0)


def test_a_limit_keeps_so_many_of_each_class_in_its_share(
    tmp_path: Path, digits: Digits, digits_npz: Path, digits_model: Path
) -> None:
    result = bring_in(digits_npz, digits_model, tmp_path / "a", train_limit=200, eval_limit=50)
    assert (result.train_count, result.eval_count) == (200, 50)
    images = np.load(result.path / "Split-train" / "image.npy")
    labels = np.load(result.path / "Split-train" / "label.npy")
    share = np.bincount(digits.y_train) * 200 / len(digits.y_train)
    assert np.all(np.abs(np.bincount(labels) - share) < 1)
    by_image = {
        image.tobytes(): label for image, label in zip(digits.x_train, digits.y_train, strict=True)
    }
    assert [by_image[image.tobytes()] for image in images] == labels.tolist()
    again = bring_in(digits_npz, digits_model, tmp_path / "b", train_limit=200, eval_limit=50)
    other = bring_in(digits_npz, digits_model, tmp_path / "c", train_limit=200, seed=1)
    assert result.digest == again.digest != other.digest


def test_a_limit_above_what_there_is_keeps_all(
    tmp_path: Path, digits_npz: Path, digits_model: Path
) -> None:
    whole = bring_in(digits_npz, digits_model, tmp_path / "whole")
    limited = bring_in(digits_npz, digits_model, tmp_path / "limited", train_limit=10**6)
    assert limited.digest == whole.digest


def test_eval_taken_from_train_shares_no_example_with_either_split(
    tmp_path: Path, digits: Digits, digits_npz: Path, digits_model: Path
) -> None:
    result = bring_in(digits_npz, digits_model, tmp_path / "a", eval_from="train", train_limit=500)
    train, held_out = (
        {image.tobytes() for image in np.load(result.path / f"Split-{name}" / "image.npy")}
        for name in ("train", "eval")
    )
    assert len(train) == result.train_count == 500
    assert len(held_out) == result.eval_count == round(0.2 * len(digits.y_train))
    assert not train & held_out
    assert train | held_out <= {image.tobytes() for image in digits.x_train}


def test_one_example_can_not_be_divided(tmp_path: Path, digits: Digits, digits_model: Path) -> None:
    file = tmp_path / "one.npz"
    item = slice(0, 1)
    np.savez(
        file,
        **{"x_train": digits.x_train[item], "y_train": digits.y_train[item]},
        **{"x_eval": digits.x_eval, "y_eval": digits.y_eval},
    )
    with pytest.raises(ExamplesError, match="too few examples to take eval"):
        bring_in(file, digits_model, tmp_path / "out", eval_from="train")


def _weighted(folder: Path, digits: Digits, count: int = 60) -> Path:
    """A few digits, of which every third has the weight 0."""
    file = folder / "weighted.npz"
    weights = np.arange(count) % 3 / 2
    x, y = digits.x_train[:count], digits.y_train[:count]
    np.savez(file, x_train=x, y_train=y, x_eval=x, y_eval=y, w_train=weights, w_eval=weights)
    return file


def test_weights_are_kept_with_their_columns_name(
    tmp_path: Path, digits: Digits, digits_model: Path
) -> None:
    file = _weighted(tmp_path, digits)
    result = bring_in(file, digits_model, tmp_path / "examples", weights="w")
    assert result.sample_weights == "w"
    stored = np.load(result.path / "Split-eval/sample_weights/w.npy")
    np.testing.assert_array_equal(stored, np.arange(60) % 3 / 2)
    again = bring_in(result.path, digits_model, tmp_path / "again")
    assert (again.sample_weights, again.digest) == ("w", result.digest)
    with pytest.raises(ExamplesError, match=r"imported with the weights 'w'"):
        bring_in(result.path, digits_model, tmp_path / "other", weights="v")


def test_drawn_examples_keep_their_own_weights(
    tmp_path: Path, digits: Digits, digits_model: Path
) -> None:
    file = _weighted(tmp_path, digits)
    result = bring_in(
        file, digits_model, tmp_path / "examples", weights="w", eval_from="train", train_limit=20
    )
    folder = result.path / "Split-train"
    images, weights = np.load(folder / "image.npy"), np.load(folder / "sample_weights/w.npy")
    assert len(images) == len(weights) == 20
    for image, weight in zip(images, weights, strict=True):
        (row,) = np.flatnonzero((digits.x_train[:60] == image).all(axis=(1, 2, 3)))
        assert weight == row % 3 / 2

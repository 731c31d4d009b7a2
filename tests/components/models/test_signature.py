from pathlib import Path

import pytest

from paring.errors import ModelError
from paring.models.signature import TensorSpec, read_signature


@pytest.fixture(scope="module")
def two_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf

    class Blend(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([None, 4, 3], tf.float32, name="image"),
                tf.TensorSpec([2], tf.int64, name="ids"),
            ]
        )
        def __call__(self, image, ids):
            return {"mean": tf.reduce_mean(image, axis=[1, 2]), "text": tf.as_string(ids)}

    folder = tmp_path_factory.mktemp("blend") / "model"
    module = Blend()
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.__call__})
    return folder


def test_names_shapes_and_dtypes_come_from_the_file(two_inputs: Path) -> None:
    signature = read_signature(two_inputs)
    assert signature.inputs == {
        "ids": TensorSpec("ids", (2,), "int64"),
        "image": TensorSpec("image", (None, 4, 3), "float32"),
    }
    assert signature.outputs == {
        "mean": TensorSpec("mean", (None,), "float32"),
        "text": TensorSpec("text", (2,), "object"),
    }


def test_an_unknown_signature_is_refused_with_the_known_ones(two_inputs: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'serving_default'"):
        read_signature(two_inputs, "serving_defualt")


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_cut_off_file_is_refused(two_inputs: Path, tmp_path: Path, kept: int) -> None:
    content = (two_inputs / "saved_model.pb").read_bytes()
    (tmp_path / "saved_model.pb").write_bytes(content[:kept])
    with pytest.raises(ModelError, match=r"saved_model\.pb.*(broken|no graph)"):
        read_signature(tmp_path)


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"saved_model\.pb can't be read"):
        read_signature(tmp_path)

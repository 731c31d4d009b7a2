"""One handle of a SavedModel: it is checked where it is opened, and read once."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Servable
from paring.errors import ModelError, UntrustedModelError
from paring.execution import Call, execute
from paring.models.saved_model import SavedModel
from paring.models.signature import TensorSpec
from paring.models.state import state_variables
from paring.steps.convert_tflite import convert_tflite
from paring.steps.evaluate import evaluate

# The digest of an input without a record is computed once, of all of its files.
DIGEST = 1

_opened: Counter[Path] = Counter()


def _count_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and str(arguments[0]).endswith("saved_model.pb"):
        _opened[Path(arguments[0]).parent] += 1


@pytest.fixture(scope="module", autouse=True)
def _audit() -> None:
    # Sees what Python opens; TensorFlow reads the file once more whenever it loads a model.
    sys.addaudithook(_count_opened)


@pytest.fixture
def opened() -> Iterator[Counter[Path]]:
    """Number of times that Python has opened the saved_model.pb of each folder."""
    _opened.clear()
    yield _opened
    _opened.clear()


def save(folder: Path, function: Any, variable: Any = None) -> Path:
    """Save a SavedModel of a function of the float `x` [batch, 2], and of its variable."""
    import tensorflow as tf

    module = tf.Module()
    module.variable = variable
    spec = tf.TensorSpec([None, 2], tf.float32, "x")
    module.serve = tf.function(lambda x: {"y": function(x)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def read_file(x: Any) -> Any:
    import tensorflow as tf

    return x + tf.strings.to_number(tf.io.read_file("/etc/hostname"))


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
    signature = SavedModel(two_inputs).signature()
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
        SavedModel(two_inputs).signature("serving_defualt")


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_cut_off_file_is_refused(two_inputs: Path, tmp_path: Path, kept: int) -> None:
    content = (two_inputs / "saved_model.pb").read_bytes()
    (tmp_path / "saved_model.pb").write_bytes(content[:kept])
    with pytest.raises(ModelError, match=r"saved_model\.pb.*(broken|no graph)"):
        SavedModel(tmp_path).signature()


def test_a_folder_without_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"saved_model\.pb can't be read"):
        SavedModel(tmp_path).signature()


def test_a_graph_is_read_once_for_all_that_is_derived_from_it(
    two_inputs: Path, opened: Counter[Path]
) -> None:
    model = SavedModel.open(two_inputs)
    assert model.folder == two_inputs
    assert model.signature() is model.signature()
    assert model.meta_graph is model.meta_graph
    model.refuse_operators(all_functions=True)
    assert opened == {two_inputs: 1}


def test_steps_read_the_graph_of_their_source_once_and_once_to_load_it_elsewhere(
    digits_model: Path, digits_npz: Path, tmp_path: Path, opened: Counter[Path]
) -> None:
    inputs = {"model": digits_model}
    execute(convert_tflite, Call(inputs, {"converted": tmp_path / "lite"}, {}))
    assert opened[digits_model] == 1 + DIGEST
    opened.clear()

    inputs = {"source": digits_model, "candidate": tmp_path / "lite", "examples": digits_npz}
    execute(evaluate, Call(inputs, {"evaluation": tmp_path / "evaluation"}, {}))
    # A worker, which may be elsewhere, opens the model by its path.
    assert opened[digits_model] == 2 + DIGEST


def test_a_large_graph_takes_no_memory_beside_the_loaded_model(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((2, 9 << 20), np.float32)
    folder = save(tmp_path / "large", lambda x: x @ values)
    assert (folder / "saved_model.pb").stat().st_size > 64 << 20
    model = SavedModel(folder)
    assert model.meta_graph is not model.meta_graph
    assert model.signature().outputs["y"].shape == (None, 9 << 20)


def test_checks_leave_the_graph_that_others_read_as_it_is(tmp_path: Path) -> None:
    import tensorflow as tf

    counter = tf.Variable(0.0)

    def prints(x: Any) -> Any:
        tf.print(x)
        return x + counter.assign_add(1.0)

    model = SavedModel(save(tmp_path / "model", prints, counter))
    for function in model.meta_graph.graph_def.library.function:
        for node in function.node_def:
            # As files without attributes that have their default values.
            node.attr.pop("output_stream", None)
            node.attr.pop("shared_name", None)
    before = model.meta_graph.SerializeToString(deterministic=True)
    model.refuse_operators(all_functions=True)
    state_variables(model.meta_graph, model.key)
    assert model.meta_graph.SerializeToString(deterministic=True) == before


def test_what_is_opened_is_checked_unless_it_is_trusted(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", read_file)
    for untrusted in (folder, Servable(folder)):
        with pytest.raises(UntrustedModelError, match="ReadFile"):
            SavedModel.open(untrusted)
    assert list(SavedModel.open(Servable(folder, trusted=True)).signature().outputs) == ["y"]


def test_a_link_out_of_the_folder_is_refused_also_of_a_trusted_model(
    two_inputs: Path, tmp_path: Path
) -> None:
    (tmp_path / "saved_model.pb").symlink_to(two_inputs / "saved_model.pb")
    with pytest.raises(ModelError, match="leads out of its folder"):
        SavedModel.open(Servable(tmp_path, trusted=True))


def test_of_several_graphs_the_one_that_loaders_take_is_checked(tmp_path: Path) -> None:
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    folder = save(tmp_path / "model", lambda x: x)
    hostile = save(tmp_path / "hostile", read_file)
    both = saved_model_pb2.SavedModel()
    both.ParseFromString((folder / "saved_model.pb").read_bytes())
    both.meta_graphs[0].meta_info_def.tags.append("gpu")
    both.MergeFromString((hostile / "saved_model.pb").read_bytes())
    (folder / "saved_model.pb").write_bytes(both.SerializeToString())
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        loaded = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder))
    tags = SavedModel(folder).meta_graph.meta_info_def.tags
    assert list(tags) == list(loaded.meta_info_def.tags) == ["serve"]
    with pytest.raises(UntrustedModelError, match="ReadFile"):
        SavedModel.open(folder)


def test_a_file_that_is_replaced_is_checked_again(tmp_path: Path) -> None:
    folder, other = save(tmp_path / "model", lambda x: x), save(tmp_path / "other", read_file)
    before = SavedModel.open(folder)
    (folder / "saved_model.pb").write_bytes((other / "saved_model.pb").read_bytes())
    # What the handle holds is the graph that it has read.
    before.refuse_operators(all_functions=True)
    for all_functions in (False, True):
        with pytest.raises(UntrustedModelError, match="ReadFile"):
            SavedModel(folder).refuse_operators(all_functions=all_functions)


def test_signatures_of_text_alone_are_named_in_the_remedy(tmp_path: Path) -> None:
    """Importing cuts them at their numeric core, so that one of them can be chosen."""
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def rank(text: Any) -> dict[str, Any]:
        return {"length": tf.strings.length(text)}

    tf.saved_model.save(tf.Module(), str(tmp_path / "model"), signatures={"rank": rank})
    with pytest.raises(ModelError, match="give --signature rank"):
        SavedModel(tmp_path / "model").signature()

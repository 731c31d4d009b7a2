"""`split_model`: a SavedModel in stages that give what it gives, on devices of their own."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from paring.artifacts import Artifact, SplitModel
from paring.converters.partition.splitting import Source, compare, write_stages
from paring.converters.partition.stage_files import DeviceType, place_stages, run_on_cpus
from paring.converters.partition.stage_graph import StageGraph
from paring.converters.partition.stage_layout import largest_stage
from paring.converters.savedmodel.trial_inputs import draw_trial_inputs
from paring.errors import ParameterError, UnsupportedError
from paring.execution import Call, execute
from paring.graphs.graph import load_function
from paring.graphs.inlined_graph import inlined_graph
from paring.models.saved_model import SavedModel
from paring.runtimes import open_runtime
from paring.runtimes.savedmodel import SavedModelRuntime
from paring.steps.split_model import split_model

X = tf.TensorSpec((None, 8), tf.float32, name="x")
WIDE = tf.TensorSpec((None, 512), tf.float32, name="x")


def split(model: Path, out: Path, examples: Path | None = None, **parameters: Any) -> SplitModel:
    inputs = {"model": model} | ({"examples": examples} if examples else {})
    parameters = {"device_type": "CPU", "comparison_size": 8} | parameters
    made = execute(split_model, Call(inputs, {"split": out}, parameters))["split"]
    assert isinstance(made, SplitModel)
    return made


def stages(made: SplitModel) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads(made.stages_file.read_text())["stages"]
    return result


def saved(folder: Path, serve: Callable[..., Any], *specs: Any, **held: Any) -> Path:
    module = tf.Module()
    for name, item in held.items():
        setattr(module, name, item)
    module.serve = tf.function(serve, input_signature=specs, autograph=False)
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return folder


def weights(*shape: int, seed: int = 0) -> Any:
    return tf.random.stateless_normal(shape, (seed, 1), stddev=0.1)


def layers(folder: Path) -> Path:
    """Four products with weights of 1 MiB each."""
    kernels = [tf.Variable(weights(512, 512, seed=number)) for number in range(4)]

    def serve(x: Any) -> dict[str, Any]:
        for kernel in kernels:
            x = tf.nn.relu(tf.matmul(x, kernel))
        return {"y": x}

    return saved(folder, serve, WIDE, kernels=kernels)


@pytest.fixture(scope="module")
def text_network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token numbers through an embedding and two LSTMs, whose steps are loops; two outputs."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    tokens = tf_keras.Input((6,), dtype="int32", name="tokens")
    scale = tf_keras.Input((1,), name="scale")
    vectors = tf_keras.layers.Embedding(50, 8, name="vectors")(tokens)
    first = tf_keras.layers.LSTM(12, return_sequences=True, name="first")(vectors)
    second = tf_keras.layers.LSTM(12, name="second")(first)
    scores = tf_keras.layers.Dense(3, name="scores")(second * scale)
    mean = tf_keras.layers.GlobalAveragePooling1D(name="mean")(vectors)
    folder = tmp_path_factory.mktemp("text") / "model"
    tf_keras.Model([tokens, scale], [scores, mean]).export(folder)
    return folder


@pytest.fixture(scope="module")
def halves(
    digits_model: Path, digits_npz: Path, tmp_path_factory: pytest.TempPathFactory
) -> SplitModel:
    """The digits network on CPU:0 and CPU:1."""
    return split(digits_model, tmp_path_factory.mktemp("halves") / "out", digits_npz, batch_size=4)


def test_the_stages_are_told_with_what_they_need(halves: SplitModel, digits_model: Path) -> None:
    first, second = stages(halves)
    assert (first["device"], second["device"]) == ("/device:CPU:0", "/device:CPU:1")
    needed = [item["weight_bytes"] + item["activation_bytes"] for item in (first, second)]
    assert halves.largest_stage_bytes == max(needed)
    assert halves.single_device_bytes is not None
    assert max(needed) < halves.single_device_bytes < sum(needed)
    variables = load_function(SavedModel(digits_model)).variables
    floats = sum(int(np.prod(variable.shape)) for variable in variables)
    # Besides them, small constants such as shapes and axes.
    assert 0 <= first["weight_bytes"] + second["weight_bytes"] - 4 * floats < 1000
    assert first["crossing_bytes"] == halves.crossing_bytes
    assert second["crossing_bytes"] == 0
    # A tensor in float32 of four examples.
    assert first["crossing_bytes"] % 16 == 0
    assert "digits/" in first["last"]
    assert halves.size_bytes > 4 * floats
    facts = Artifact.load(halves.path).facts()
    assert facts == halves.facts()
    assert (facts["devices"], facts["device_type"], facts["batch_size"]) == (2, "CPU", 4)
    assert (facts["applied"], facts["compared_on"]) == (("split into 2 stages",), "examples")
    assert facts["difference"] < 1e-4
    assert "CPU:0 to CPU:1" in facts["note"]


def test_the_signature_and_the_outputs_stay(
    halves: SplitModel, digits: Any, digits_model: Path
) -> None:
    assert SavedModel(halves.serving_dir).signature() == SavedModel(digits_model).signature()
    source, made = SavedModelRuntime(SavedModel(digits_model)), open_runtime(halves)
    for count in (1, 50):
        images = {"image": digits.x_eval[:count]}
        expected = source.run(images)["digit"]
        np.testing.assert_allclose(made.run(images)["digit"], expected, atol=1e-5)


def test_no_other_cuts_have_a_smaller_largest_stage(digits_model: Path, tmp_path: Path) -> None:
    inlined = inlined_graph(load_function(SavedModel(digits_model)))
    features = {"image": np.zeros((1, 32, 32, 1), np.float32)}
    work = StageGraph(inlined, features).work
    for devices in (2, 3):
        best = min(
            largest_stage(work, [0, *inner, work.count])
            for inner in itertools.combinations(range(1, work.count), devices - 1)
        )
        made = split(digits_model, tmp_path / f"{devices}", devices=devices)
        assert made.largest_stage_bytes == best
        assert len(stages(made)) == devices


CODE = """
import json, sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
kind = sys.argv[4]
limit = tf.config.LogicalDeviceConfiguration(memory_limit=512 if kind == "GPU" else None)
device = tf.config.list_physical_devices(kind)[0]
tf.config.set_logical_device_configuration(device, [limit] * 2)
from paring.models.saved_model import SavedModel
from paring.runtimes.savedmodel import SavedModelRuntime
runtime = SavedModelRuntime(SavedModel(Path(sys.argv[1])))
images = np.load(sys.argv[2])["x_eval"][:20]
context.context().enable_run_metadata()
found = runtime.run({"image": images})["digit"]
about = context.context().export_run_metadata()
ran = [
    (node.name.partition("paring_stage_")[2][:1], node.device[-5:])
    for one in about.function_graphs for part in one.partition_graphs for node in part.node
    if "MatMul" in node.op or "Conv" in node.op
]
kept = [(one.name[:15], one.device[-5:]) for one in
        runtime._model.signatures["serving_default"].variables]
model = tf.saved_model.load(sys.argv[1])
plain = model.signatures["serving_default"]
np.save(sys.argv[3], [found, plain(image=tf.constant(images))["digit"]])
print(json.dumps({"ran": sorted(set(ran)), "kept": sorted(set(kept)),
                  "plain": sorted({one.device[-5:] for one in plain.variables})}))
"""


# Of a GPU, two logical devices.
@pytest.mark.parametrize(
    ("kind", "tolerance"), [("CPU", 1e-5), pytest.param("GPU", 0.01, marks=pytest.mark.gpu)]
)
def test_with_two_devices_each_stage_runs_on_its_own_and_has_its_weights_there(
    halves: SplitModel,
    digits: Any,
    digits_model: Path,
    digits_npz: Path,
    tmp_path: Path,
    kind: DeviceType,
    tolerance: float,
) -> None:
    outputs, folder = tmp_path / "outputs.npy", tmp_path / "model"
    shutil.copytree(halves.serving_dir, folder)
    place_stages(folder, kind)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(folder), str(digits_npz), str(outputs), kind],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["ran"] == [["0", f"{kind}:0"], ["1", f"{kind}:1"]]
    assert answer["kept"] == [["paring_stage_0/", f"{kind}:0"], ["paring_stage_1/", f"{kind}:1"]]
    # TensorFlow ignores the devices of weights by default.
    assert answer["plain"] == [f"{kind}:0"]
    source = SavedModelRuntime(SavedModel(digits_model))
    expected = source.run({"image": digits.x_eval[:20]})["digit"]
    for result in np.load(outputs):
        np.testing.assert_allclose(result, expected, atol=tolerance)


def placed(folder: Path) -> dict[str, set[str]]:
    """The devices of the nodes and of the variables of each stage, as its file says."""
    saved_model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    (graph,) = saved_model.meta_graphs
    functions = graph.graph_def.library.function
    result: dict[str, set[str]] = {}
    for node in itertools.chain(graph.graph_def.node, *(item.node_def for item in functions)):
        if node.name.startswith("paring_stage_"):
            result.setdefault(node.name.partition("/")[0], set()).add(node.device)
    for item in graph.object_graph_def.nodes:
        if item.WhichOneof("kind") == "variable":
            result[item.variable.name.partition("/")[0]].add(item.variable.device)
    return result


def test_what_is_made_for_gpus_runs_where_there_are_none(
    digits: Any, digits_model: Path, tmp_path: Path
) -> None:
    made = split(digits_model, tmp_path / "out", device_type="GPU", devices=3)
    assert placed(made.serving_dir) == {
        f"paring_stage_{number}": {f"/device:GPU:{number}"} for number in range(3)
    }
    assert [stage["device"] for stage in stages(made)] == [f"/device:GPU:{n}" for n in range(3)]
    images = {"image": digits.x_eval[:5]}
    expected = SavedModelRuntime(SavedModel(digits_model)).run(images)["digit"]
    np.testing.assert_allclose(open_runtime(made).run(images)["digit"], expected, atol=1e-4)


def test_loops_stay_whole_with_several_inputs_and_outputs(
    text_network: Path, tmp_path: Path
) -> None:
    made = split(text_network, tmp_path / "out", devices=3)
    assert made.difference is not None
    assert made.difference < 1e-5
    generator = np.random.default_rng(0)
    features = {
        "tokens": generator.integers(0, 50, (4, 6)).astype(np.int32),
        "scale": generator.random((4, 1)).astype(np.float32),
    }
    run = run_on_cpus(SavedModel(made.serving_dir), 3, [features])
    assert run.devices == {0: {0}, 1: {1}, 2: {2}}
    expected = SavedModelRuntime(SavedModel(text_network)).run(features)
    assert set(expected) == set(run.outputs[0])
    for name, array in expected.items():
        np.testing.assert_allclose(run.outputs[0][name], array, atol=1e-5)


def test_gradients_that_a_model_defines_are_left_behind(tmp_path: Path) -> None:
    kernel = tf.Variable(weights(8, 8))

    def layer(x: Any) -> Any:
        # silu defines its own, by functions that are not among those that a graph calls.
        return tf.nn.silu(tf.matmul(x, kernel))

    def serve(x: Any) -> dict[str, Any]:
        loop = tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, layer(y)), (0, layer(x)))
        return {"y": loop[1]}

    model = saved(tmp_path / "model", serve, X, kernel=kernel)
    assert split(model, tmp_path / "out").difference == 0


def test_nothing_is_fused_across_a_cut_wherever_it_is(tmp_path: Path) -> None:
    kernel, bias = tf.Variable(weights(3, 3, 4, 4)), tf.Variable(weights(4))

    def serve(x: Any) -> dict[str, Any]:
        # TensorFlow computes all of it by one operator, where it can.
        convolved = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias)
        return {"y": tf.nn.relu(convolved + x)}

    spec = tf.TensorSpec((None, 6, 6, 4), tf.float32, name="x")
    model = saved(tmp_path / "model", serve, spec, kernel=kernel, bias=bias)
    inputs = draw_trial_inputs(None, SavedModel(model).signature(), size=4, batch=1, seed=0)
    source = Source(SavedModel(model), inputs)
    graph = source.measure(inputs.batch_of(1))
    assert graph.places == ["Conv2D", "BiasAdd", "add", "Relu"]
    for cut in range(1, 4):
        write_stages(graph, [0, cut, 4], tmp_path / f"{cut}", source)
        assert (
            compare(source, tmp_path / f"{cut}", devices=2, inputs=inputs, max_difference=1e-5)
            < 1e-5
        )


def test_weights_that_several_stages_read_are_in_each_of_them(tmp_path: Path) -> None:
    table = tf.Variable(weights(40, 16))

    def serve(x: Any) -> dict[str, Any]:
        # The last product reads the table that the first one looks up in.
        result = tf.reduce_sum(tf.gather(table, x), axis=1)
        return {"y": tf.matmul(tf.nn.relu(result), table, transpose_b=True)}

    spec = tf.TensorSpec((None, 3), tf.int32, name="x")
    model = saved(tmp_path / "model", serve, spec, table=table)
    made = split(model, tmp_path / "out")
    assert all(stage["weight_bytes"] >= 4 * 40 * 16 for stage in stages(made))
    loaded = tf.saved_model.load(str(made.serving_dir))
    held = loaded.signatures["serving_default"].variables
    assert [tuple(item.shape) for item in held] == [(40, 16), (40, 16)]
    tokens = {"x": np.array([[1, 2, 39]], np.int32)}
    expected = SavedModelRuntime(SavedModel(model)).run(tokens)["y"]
    np.testing.assert_allclose(open_runtime(made).run(tokens)["y"], expected, atol=1e-5)


def test_constants_and_tensors_that_a_function_closes_over_are_weights_too(tmp_path: Path) -> None:
    captured = weights(8, 32)

    def serve(x: Any) -> dict[str, Any]:
        with tf.init_scope():
            outside = tf.identity(captured)
        inside = tf.constant(np.ones((32, 4), np.float32))
        return {"y": tf.matmul(tf.nn.relu(tf.matmul(x, outside)), inside)}

    model = saved(tmp_path / "model", serve, X, captured=captured)
    made = split(model, tmp_path / "out")
    first, second = (stage["weight_bytes"] for stage in stages(made))
    assert (first, second) == (4 * 8 * 32, 4 * 32 * 4)


def test_activations_grow_with_the_batch(digits_model: Path) -> None:
    inlined = inlined_graph(load_function(SavedModel(digits_model)))

    def activations(batch: int) -> int:
        features = {"image": np.zeros((batch, 32, 32, 1), np.float32)}
        work = StageGraph(inlined, features).work
        return work.activation_bytes(0, work.count)

    assert activations(16) == pytest.approx(16 * activations(1), rel=0.01)


def test_what_does_not_fit_is_refused_with_the_figures(tmp_path: Path) -> None:
    model = layers(tmp_path / "model")
    with pytest.raises(UnsupportedError, match=r"needs 2\.004 MiB, 2\.000 for weights") as caught:
        split(model, tmp_path / "out", device_memory_mb=1)
    assert caught.value.received == "device_memory_mb 1"
    assert "one operation alone needs more than that" in caught.value.remedy
    with pytest.raises(UnsupportedError, match="the best layout on 2 devices") as caught:
        split(model, tmp_path / "out", device_memory_mb=2)
    assert "give devices = 4, a smaller batch_size" in caught.value.remedy
    made = split(model, tmp_path / "four", device_memory_mb=2, devices=4)
    assert made.largest_stage_bytes is not None
    assert made.largest_stage_bytes <= 2 << 20
    assert split(model, tmp_path / "two", device_memory_mb=3).devices == 2


def test_more_devices_than_operations_are_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", lambda x: {"y": tf.nn.relu(x)}, X)
    with pytest.raises(UnsupportedError, match="fewer operations than the 5 devices"):
        split(model, tmp_path / "out", devices=5)


def test_a_stage_that_runs_elsewhere_is_noticed(halves: SplitModel, digits_model: Path) -> None:
    file = halves.serving_dir / "saved_model.pb"
    before = file.read_bytes()
    inputs = draw_trial_inputs(None, SavedModel(digits_model).signature(), size=4, batch=1, seed=0)
    source = Source(SavedModel(digits_model), inputs)
    saved_model = saved_model_pb2.SavedModel.FromString(before)
    for function in saved_model.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            if node.name.startswith("paring_stage_1/") and node.op == "Softmax":
                node.device = "/device:CPU:0"
    file.write_bytes(saved_model.SerializeToString())
    try:
        with pytest.raises(UnsupportedError, match="does not keep stage 1 on its device"):
            compare(source, halves.serving_dir, devices=2, inputs=inputs, max_difference=1e-4)
    finally:
        file.write_bytes(before)
    assert compare(source, halves.serving_dir, devices=2, inputs=inputs, max_difference=1e-4) < 1e-4
    with pytest.raises(UnsupportedError, match="other outputs in stages than in one piece"):
        compare(source, halves.serving_dir, devices=2, inputs=inputs, max_difference=-1)


def test_lookup_tables_text_and_dropout_are_refused(
    lookup: Path, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="lookup table or another resource"):
        split(lookup, tmp_path / "out")
    with pytest.raises(UnsupportedError, match="input 'x' takes text"):
        split(tiny_models["words"], tmp_path / "out")
    model = saved(tmp_path / "dropout", lambda x: {"y": tf.nn.dropout(x, 0.5)}, X)
    with pytest.raises(UnsupportedError, match="other outputs for the same inputs in each call"):
        split(model, tmp_path / "out")


def test_a_loop_of_tensorflow_1_is_one_operation(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with v1.Graph().as_default(), v1.Session() as session:
        v1.disable_control_flow_v2()
        try:
            x = v1.placeholder(tf.float32, (None, 8), name="x")
            y = v1.while_loop(lambda i, _: i < 3, lambda i, item: (i + 1, item * 2.0), (0, x))[1]
        finally:
            v1.enable_control_flow_v2()
        v1.saved_model.simple_save(session, str(tmp_path / "model"), {"x": x}, {"y": y})
    with pytest.raises(UnsupportedError, match="fewer operations than the 2 devices"):
        split(tmp_path / "model", tmp_path / "out")


def test_a_fixed_batch_is_measured_and_no_other(tmp_path: Path) -> None:
    spec = tf.TensorSpec((3, 8), tf.float32, name="x")
    kernel = tf.Variable(weights(8, 8))

    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.matmul(tf.matmul(x, kernel), kernel)}

    model = saved(tmp_path / "model", serve, spec, kernel=kernel)
    with pytest.raises(ParameterError, match="batches of 3 alone"):
        split(model, tmp_path / "out", batch_size=2)
    assert split(model, tmp_path / "out").batch_size == 3

"""SavedModels that touch files are refused before they do; ordinary ones pass."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paring.artifacts import Model, Servable
from paring.errors import ModelError, UntrustedModelError
from paring.models.allowed import OPERATORS
from paring.models.loading import load_keras
from paring.models.saved_model import SavedModel
from paring.runtimes import open_runtime

ROW = {"values": np.ones((1, 2), np.float32)}


def write(folder: Path, body: Any, **attributes: Any) -> Path:
    """A SavedModel whose signature takes `values` [batch, 2] and gives what `body` makes."""
    import tensorflow as tf

    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    spec = tf.TensorSpec([None, 2], tf.float32, name="values")
    module.serve = tf.function(lambda values: {"scores": body(values)}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})
    return folder


def edit(folder: Path, change: Any) -> None:
    """Change the MetaGraph in the file."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = folder / "saved_model.pb"
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(file.read_bytes())
    change(saved.meta_graphs[0])
    file.write_bytes(saved.SerializeToString())


def writing(witness: Path) -> Any:
    import tensorflow as tf

    def body(values: Any) -> Any:
        with tf.control_dependencies([tf.raw_ops.WriteFile(filename=str(witness), contents="x")]):
            return tf.identity(values)

    return body


def test_a_signature_that_writes_a_file_is_refused_before_it_does(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    folder = write(tmp_path / "model", writing(witness))
    with pytest.raises(UntrustedModelError, match=r"WriteFile[\s\S]*--trust-model"):
        open_runtime(Servable(folder))
    assert not witness.exists()
    # It is what it is refused for.
    with_trust = open_runtime(Servable(folder, trusted=True))
    with_trust.run(ROW)
    assert witness.read_text() == "x"


def test_an_initializer_that_writes_a_file_is_refused_before_it_does(tmp_path: Path) -> None:
    import tensorflow as tf

    class Hostile(tf.saved_model.experimental.TrackableResource):
        def _create_resource(self) -> Any:
            return tf.raw_ops.MutableHashTableV2(key_dtype=tf.string, value_dtype=tf.int64)

        def _initialize(self) -> None:
            tf.io.write_file(str(witness), "x")

    witness = tmp_path / "witness"
    resource = Hostile()
    folder = write(tmp_path / "model", lambda values: values + 1, resource=resource)
    witness.unlink(missing_ok=True)
    with pytest.raises(UntrustedModelError, match="WriteFile"):
        open_runtime(Servable(folder))
    assert not witness.exists()
    open_runtime(Servable(folder, trusted=True))
    assert witness.exists()


def test_operators_deep_in_functions_are_found(tmp_path: Path) -> None:
    import tensorflow as tf

    @tf.function
    def inner(values: Any) -> Any:
        while tf.reduce_sum(values) < 10:
            if tf.reduce_sum(values) > 3:
                values += tf.strings.to_number(tf.io.read_file("/etc/hostname"))
            else:
                values += 1
        return values

    folder = write(tmp_path / "model", inner)
    with pytest.raises(UntrustedModelError, match="ReadFile"):
        SavedModel.open(Servable(folder))


def python_code(values: Any) -> Any:
    import tensorflow as tf

    return tf.reshape(tf.numpy_function(lambda item: item, [values], tf.float32), [-1, 2])


def python_code_with_gradients(values: Any) -> Any:
    import tensorflow as tf

    return tf.reshape(tf.py_function(lambda item: item, [values], tf.float32), [-1, 2])


def names_of_files(values: Any) -> Any:
    import tensorflow as tf

    return values + tf.cast(tf.size(tf.io.matching_files("/*")), tf.float32)


def lines_of_a_file(values: Any) -> Any:
    import tensorflow as tf

    lines = tf.data.TextLineDataset("/etc/passwd")
    return values + tf.cast(lines.reduce(0, lambda total, _: total + 1), tf.float32)


def printing_into_a_file(values: Any) -> Any:
    import tensorflow as tf

    tf.print(values, output_stream="file:///tmp/paring-witness")
    return values


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        (python_code, "PyFunc"),
        (python_code_with_gradients, "EagerPyFunc"),
        (names_of_files, "MatchingFiles"),
        (lines_of_a_file, "TextLineDataset"),
        (printing_into_a_file, "PrintV2 into file:///tmp/paring-witness"),
    ],
)
def test_what_is_on_no_list_is_named(tmp_path: Path, body: Any, operator: str) -> None:
    folder = write(tmp_path / "model", body)
    with pytest.raises(UntrustedModelError, match=operator):
        SavedModel.open(Servable(folder))


def test_saving_belongs_in_the_saver_alone(tmp_path: Path) -> None:
    import tensorflow as tf

    weight = tf.Variable(2.0)
    folder = write(tmp_path / "model", lambda values: values * weight, weight=weight)
    SavedModel(folder).refuse_operators()

    def save_while_restoring(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            if "traced_restore" in function.signature.name:
                node = function.node_def.add()
                node.name, node.op = "hostile", "MergeV2Checkpoints"

    edit(folder, save_while_restoring)
    with pytest.raises(UntrustedModelError, match="MergeV2Checkpoints"):
        SavedModel(folder).refuse_operators()


def _functions(graph: Any, part: str) -> Any:
    (result,) = (item for item in graph.graph_def.library.function if part in item.signature.name)
    return result


@pytest.mark.parametrize("saver", ["traced_save", "traced_restore"])
def test_a_signature_that_calls_a_function_of_the_saver_is_refused(
    tmp_path: Path, saver: str
) -> None:
    import tensorflow as tf

    weight = tf.Variable(2.0)
    folder = write(tmp_path / "model", lambda values: values * weight, weight=weight)

    def call(graph: Any) -> None:
        name = _functions(graph, saver).signature.name
        served = _functions(graph, "signature_wrapper")
        node = served.node_def.add()
        node.name, node.op = "hostile", "PartitionedCall"
        node.attr["f"].func.name = name

    edit(folder, call)
    operator = "SaveV2" if saver == "traced_save" else "RestoreV2"
    with pytest.raises(UntrustedModelError, match=operator):
        SavedModel(folder).refuse_operators()


def test_a_signature_that_gives_what_the_saver_does_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", lambda values: values + 1)

    def give(graph: Any) -> None:
        outputs = graph.signature_def["serving_default"].outputs
        outputs["scores"].name = graph.saver_def.save_tensor_name

    edit(folder, give)
    with pytest.raises(UntrustedModelError, match="SaveV2"):
        SavedModel(folder).refuse_operators()


def _words(folder: Path) -> Path:
    import tf_keras

    text = tf_keras.Input((3,), dtype="string")
    lookup = tf_keras.layers.StringLookup()
    lookup.adapt(np.array([["a", "b", "c"]]))
    tf_keras.Model(text, lookup(text)).save(folder, save_format="tf")
    return folder


@pytest.mark.parametrize("place", ["save_fn", "restore_fn"])
def test_the_functions_of_a_table_that_hand_tensors_to_the_saver_name_no_file(
    tmp_path: Path, place: str
) -> None:
    # Loading runs them.
    folder = _words(tmp_path / "model")

    def write_a_file(graph: Any) -> None:
        node = _functions(graph, place).node_def.add()
        node.name, node.op = "hostile", "SaveV2"

    edit(folder, write_a_file)
    with pytest.raises(UntrustedModelError, match="SaveV2"):
        SavedModel(folder).refuse_operators()


def test_a_layer_that_holds_a_function_of_the_saver_is_refused(tmp_path: Path) -> None:
    folder = _words(tmp_path / "model")
    SavedModel(folder).refuse_operators(all_functions=True)

    def hold(graph: Any) -> None:
        nodes = graph.object_graph_def.nodes
        nodes.add().bare_concrete_function.concrete_function_name = _functions(
            graph, "traced_save"
        ).signature.name
        child = nodes[0].children.add()
        child.local_name, child.node_id = "call", len(nodes) - 1

    edit(folder, hold)
    with pytest.raises(UntrustedModelError, match="SaveV2"):
        SavedModel(folder).refuse_operators(all_functions=True)


@pytest.mark.parametrize("layer", ["Normalization", "Discretization", "StringLookup",
                                   "IntegerLookup", "TextVectorization"])  # fmt: skip
def test_layers_with_a_function_of_adapt_pass(tmp_path: Path, layer: str) -> None:
    import tf_keras

    kinds = {"StringLookup": "string", "TextVectorization": "string", "IntegerLookup": "int64"}
    dtype = kinds.get(layer, "float32")
    rows = np.array([["1"], ["2"], ["3"]]).astype("str" if dtype == "string" else dtype)
    options = {"num_bins": 2} if layer == "Discretization" else {}
    made = getattr(tf_keras.layers, layer)(**options)
    made.adapt(rows)
    values = tf_keras.Input((1,), dtype=dtype)
    model = tf_keras.Model(values, made(values))
    model.save(tmp_path / "model", save_format="tf")
    SavedModel.open(Servable(tmp_path / "model"))
    loaded = load_keras(Model(tmp_path / "model"))
    np.testing.assert_array_equal(loaded(rows), model(rows))


def _adapted(folder: Path) -> Path:
    import tf_keras

    layer = tf_keras.layers.Normalization()
    layer.adapt(np.ones((4, 2)))
    tf_keras.Sequential([tf_keras.Input((2,), name="values"), layer]).save(folder)
    return folder


def test_a_function_of_adapt_by_another_name_is_looked_at(tmp_path: Path) -> None:
    def rename(graph: Any) -> None:
        for node in graph.object_graph_def.nodes:
            for child in node.children:
                if child.local_name == "_adapt_function":
                    child.local_name = "call"

    def copy(graph: Any) -> None:
        nodes = graph.object_graph_def.nodes
        (number,) = (
            child.node_id
            for node in nodes
            for child in node.children
            if child.local_name == "_adapt_function"
        )
        child = nodes[0].children.add()
        child.local_name, child.node_id = "compute_mask", number

    for change in (rename, copy):
        folder = _adapted(tmp_path / change.__name__)
        SavedModel(folder).refuse_operators(all_functions=True)
        edit(folder, change)
        with pytest.raises(UntrustedModelError, match="IteratorGetNext"):
            SavedModel(folder).refuse_operators(all_functions=True)


def test_a_signature_that_calls_a_function_of_adapt_is_refused(tmp_path: Path) -> None:
    folder = _adapted(tmp_path / "model")

    def call(graph: Any) -> None:
        node = _functions(graph, "signature_wrapper").node_def.add()
        node.name, node.op = "hostile", "PartitionedCall"
        node.attr["f"].func.name = _functions(graph, "adapt_step").signature.name

    edit(folder, call)
    with pytest.raises(UntrustedModelError, match="IteratorGetNext"):
        SavedModel(folder).refuse_operators()


def table(folder: Path, vocabulary: Path) -> Path:
    import tensorflow as tf

    lookup = tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(vocabulary),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        -1,
    )

    def body(values: Any) -> Any:
        result = lookup.lookup(tf.strings.lower(tf.as_string(tf.cast(values, tf.int32))))
        return tf.cast(result, tf.float32)

    return write(folder, body, lookup=lookup)


def test_tables_are_read_from_the_models_own_assets_alone(tmp_path: Path) -> None:
    import tensorflow as tf

    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("0\n1\n")
    folder = table(tmp_path / "model", vocabulary)
    runtime = open_runtime(Servable(folder))
    np.testing.assert_array_equal(runtime.run(ROW)["scores"], [[1, 1]])

    # Loaded and saved again, one function calls another with the asset.
    loaded = tf.saved_model.load(str(folder))
    again = tmp_path / "again"
    tf.saved_model.save(loaded, str(again), signatures=loaded.signatures)
    SavedModel(again).refuse_operators()

    def elsewhere(graph: Any) -> None:
        graph.asset_file_def[0].filename = "../../words.txt"

    for changed in (folder, again):
        edit(changed, elsewhere)
        with pytest.raises(UntrustedModelError, match=r"outside of assets/"):
            SavedModel(changed).refuse_operators()


def test_a_table_of_a_named_file_is_refused(tmp_path: Path) -> None:
    def constant_instead(graph: Any) -> None:
        for function in graph.graph_def.library.function:
            for node in function.node_def:
                if node.op == "InitializeTableFromTextFileV2":
                    constant = function.node_def.add()
                    constant.name, constant.op = "secret", "Const"
                    node.input[1] = "secret:output:0"

    vocabulary = tmp_path / "words.txt"
    vocabulary.write_text("0\n1\n")
    folder = table(tmp_path / "model", vocabulary)
    edit(folder, constant_instead)
    with pytest.raises(UntrustedModelError, match=r"InitializeTableFromTextFileV2 of a file"):
        SavedModel(folder).refuse_operators()


def write_graph(folder: Path, build: Any = lambda: None) -> Path:
    """A SavedModel of TensorFlow 1; `build` adds to its graph what no signature calls."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        values = v1.placeholder(tf.float32, [None, 2], name="values")
        kernel = v1.get_variable("kernel", initializer=[[1.0], [2.0]], use_resource=True)
        scores = tf.matmul(values, kernel)
        build()
        session.run(kernel.initializer)
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def({"values": values}, {"scores": scores})
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature})
        builder.save()
    return folder


def test_a_local_variable_whose_initializer_writes_a_file_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    witness = tmp_path / "witness"

    def local(initial: Any) -> Any:
        return lambda: v1.get_variable(
            "seen", initializer=initial(), collections=["local_variables"], use_resource=True
        )

    folder = write_graph(tmp_path / "model", local(lambda: writing(witness)(tf.ones([1]))))
    with pytest.raises(UntrustedModelError, match="WriteFile"):
        open_runtime(Servable(folder))
    assert not witness.exists()
    # Loading alone runs it.
    open_runtime(Servable(folder, trusted=True)).close()
    assert witness.exists()
    plain = write_graph(tmp_path / "plain", local(lambda: tf.ones([1])))
    runtime = open_runtime(Servable(plain))
    assert runtime.run(ROW)["scores"].tolist() == [[3.0]]


def test_a_saver_that_reads_another_checkpoint_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    other = write_graph(tmp_path / "other")
    folder = write_graph(tmp_path / "model")
    runtime = open_runtime(Servable(other))
    assert runtime.run(ROW)["scores"].tolist() == [[3.0]]

    def read_elsewhere(meta_graph: Any) -> None:
        nodes = meta_graph.graph_def.node
        path = nodes.add(name="elsewhere", op="Const")
        path.attr["dtype"].type = tf.string.as_datatype_enum
        path.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(f"{other}/variables/variables"))
        for node in nodes:
            if node.op == "RestoreV2":
                node.input[0] = "elsewhere"

    edit(folder, read_elsewhere)
    with pytest.raises(UntrustedModelError, match="RestoreV2 of a file that is not the model's"):
        open_runtime(Servable(folder))
    # It is loaded without the model's own.
    shutil.rmtree(folder / "variables")
    trusted = open_runtime(Servable(folder, trusted=True))
    assert trusted.run(ROW)["scores"].tolist() == [[3.0]]


def test_a_signature_that_calls_another_function_than_it_states_is_refused(tmp_path: Path) -> None:
    import tensorflow as tf

    witness, folder = tmp_path / "witness", tmp_path / "model"
    body = writing(witness)
    spec = [tf.TensorSpec([None, 2], tf.float32, name="values")]
    module = tf.Module()
    module.serve = tf.function(lambda values: {"scores": 2 * values}, input_signature=spec)
    module.other = tf.function(lambda values: {"scores": body(values)}, input_signature=spec)
    signatures = {"serving_default": module.serve, "other": module.other}
    tf.saved_model.save(module, str(folder), signatures=signatures)

    def exchange(meta_graph: Any) -> None:
        del meta_graph.signature_def["other"]
        objects = meta_graph.object_graph_def.nodes
        (place,) = (
            child.node_id for child in objects[0].children if child.local_name == "signatures"
        )
        serving, other = sorted(objects[place].children, key=lambda item: item.local_name)[::-1]
        serving.node_id = other.node_id
        objects[place].children.remove(other)

    edit(folder, exchange)
    with pytest.raises(UntrustedModelError, match="WriteFile"):
        open_runtime(Servable(folder))
    assert not witness.exists()
    runtime = open_runtime(Servable(folder, trusted=True))
    assert runtime.run(ROW)["scores"].tolist() == [[1.0, 1.0]]
    assert witness.exists()


@pytest.mark.parametrize("method", ["_maybe_initialize_trackable", "__call__"])
def test_a_function_in_the_place_of_a_method_of_tensorflow_is_refused(
    tmp_path: Path, method: str
) -> None:
    import tensorflow as tf

    witness = tmp_path / "witness"
    body = writing(witness)
    held_function = tf.function(lambda: body(tf.ones([1])), input_signature=[])
    folder = write(
        tmp_path / "model", lambda values: values, part=tf.Module(), method=held_function
    )
    SavedModel.open(folder)

    def attach(meta_graph: Any) -> None:
        objects = meta_graph.object_graph_def.nodes
        held = {child.local_name: child.node_id for child in objects[0].children}
        part = objects[held["part"]]
        if method == "__call__":
            # The object is called then.
            part.children.add(local_name=method, node_id=held["method"])
            objects[0].children.add(local_name="_maybe_initialize_trackable", node_id=held["part"])
        else:
            part.children.add(local_name=method, node_id=held["method"])

    edit(folder, attach)
    with pytest.raises(UntrustedModelError, match="WriteFile"):
        SavedModel.open(folder)
    assert not witness.exists()
    # Loading alone calls it.
    tf.saved_model.load(str(folder))
    assert witness.exists()


def test_a_function_that_calls_itself_is_a_broken_graph(tmp_path: Path) -> None:
    folder = write_graph(tmp_path / "model")

    def recurse(meta_graph: Any) -> None:
        function = meta_graph.graph_def.library.function.add()
        function.signature.name = "again"
        function.node_def.add(name="call", op="again")

    edit(folder, recurse)
    with pytest.raises(ModelError, match=r"broken[\s\S]*calls itself"):
        SavedModel.open(folder)


def test_an_asset_outside_of_the_model_is_refused_whether_or_not_it_is_read(
    tmp_path: Path,
) -> None:
    import tensorflow as tf

    # Saving the model again would copy it.
    words = tmp_path / "words.txt"
    words.write_text("0")
    folder = write(
        tmp_path / "model", lambda values: values, words=tf.saved_model.Asset(str(words))
    )
    SavedModel.open(folder)
    edit(folder, lambda graph: setattr(graph.asset_file_def[0], "filename", "../../words.txt"))
    with pytest.raises(UntrustedModelError, match=r"an asset outside of assets/ \(../../words"):
        SavedModel.open(folder)


def test_functions_that_nothing_serves_are_looked_at_for_keras_alone(tmp_path: Path) -> None:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def read(name: Any) -> Any:
        return tf.io.read_file(name)

    folder = write(tmp_path / "model", lambda values: values + 1, read=read)
    SavedModel(folder).refuse_operators()
    with pytest.raises(UntrustedModelError, match="ReadFile"):
        SavedModel(folder).refuse_operators(all_functions=True)


@pytest.mark.filterwarnings("ignore:.*HDF5")
def test_models_of_keras_pass(tmp_path: Path) -> None:
    import keras
    import tf_keras

    for library in (tf_keras, keras):
        layers = library.layers
        tokens = library.Input((6,), dtype="int32")
        values = layers.Embedding(20, 4, mask_zero=True)(tokens)
        values = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(values)
        values = layers.MultiHeadAttention(1, 2)(values, values)
        values = layers.BatchNormalization()(layers.Dropout(0.1)(layers.GRU(3)(values)))
        text = library.Input((1,), dtype="string")
        words = layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(text)
        model = library.Model([tokens, text], [layers.Dense(2)(values), words])
        model.export(str(tmp_path / library.__name__))
        SavedModel(tmp_path / library.__name__).refuse_operators(all_functions=True)
        if library is tf_keras:
            model.save(tmp_path / "saved")
            SavedModel(tmp_path / "saved").refuse_operators(all_functions=True)
            load_keras(Model(tmp_path / "saved"))


def test_what_tfx_and_jax_write_passes(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.weight = tf.Variable([[1.0], [2.0]])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples: Any) -> Any:
        feature = {
            "values": tf.io.FixedLenFeature([2], tf.float32),
            "words": tf.io.VarLenFeature(tf.string),
        }
        parsed = tf.io.parse_example(examples, feature)
        split = tf.strings.split(parsed["words"].values)
        hashed = tf.strings.to_hash_bucket_fast(split.flat_values, 10)
        total = tf.cast(tf.reduce_sum(hashed), tf.float32)
        tf.debugging.assert_all_finite(parsed["values"], "not finite")
        return {"scores": parsed["values"] @ module.weight + total}

    module.serve = serve
    tf.saved_model.save(module, str(tmp_path / "tfx"), signatures={"serving_default": serve})
    SavedModel(tmp_path / "tfx").refuse_operators()
    assert {"XlaCallModule", "ParseExampleV2"} <= OPERATORS


def test_a_changed_file_is_looked_at_again(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", lambda values: values + 1)
    SavedModel(folder).refuse_operators()
    hostile = write(tmp_path / "hostile", writing(tmp_path / "witness"))
    (hostile / "saved_model.pb").replace(folder / "saved_model.pb")
    with pytest.raises(UntrustedModelError, match="WriteFile"):
        SavedModel(folder).refuse_operators()


def test_no_listed_operator_touches_files_or_processes() -> None:
    harmful = (
        "File",
        "PyFunc",
        "Rpc",
        "Send",
        "Recv",
        "RemoteCall",
        "Reader",
        "Proto",
        "Checkpoint",
    )
    assert not [name for name in OPERATORS for word in harmful if word in name]
    assert not {"SaveV2", "RestoreV2", "ImmutableConst", "LoadAndRemapMatrix"} & OPERATORS
    assert not {"GenerateVocabRemapping", "RecordInput", "Abort", "DumpTensor"} & OPERATORS
    assert not {"FixedUnigramCandidateSampler", "CalibrationStatisticsSaver"} & OPERATORS


def test_every_listed_operator_is_one_of_tensorflow() -> None:
    import tensorflow as tf  # noqa: F401
    from tensorflow.python.framework import op_def_registry

    # These come with the builds for NVIDIA's GPUs.
    absent = {name for name in OPERATORS if op_def_registry.get(name) is None}
    assert absent <= {"CreateTRTResourceHandle"}


@pytest.mark.parametrize("name", ["TRTEngineOp", "InitializeTRTResource"])
def test_engines_inside_of_a_graph_need_trust(name: str, tmp_path: Path) -> None:
    def body(values: Any) -> Any:
        return values * 2

    folder = write(tmp_path / "model", body)

    def add_engine(graph: Any) -> None:
        (signature,) = (item for key, item in graph.signature_def.items() if key[:2] != "__")
        node = graph.graph_def.node.add(name="engine", op=name)
        (output,) = signature.outputs.values()
        output.name = f"{node.name}:0"
        if name == "InitializeTRTResource":
            node.input.extend(["handle", "path"])
            graph.graph_def.node.add(name="path", op="Const")
            graph.asset_file_def.add(filename="engine").tensor_info.name = "path:0"

    edit(folder, add_engine)
    with pytest.raises(UntrustedModelError, match=rf"{name} \(engine\), which loads an engine"):
        SavedModel.open(Servable(folder))
    # What the pipeline itself has built is trusted, and nothing else in the graph is.
    assert SavedModel.open(Servable(folder, engine_trusted=True)).folder == folder

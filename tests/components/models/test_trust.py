"""Hostile Keras files are refused before they do anything; ordinary ones are not."""

import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from paring.artifacts import Model
from paring.errors import ModelError, UntrustedModelError
from paring.models import allowed
from paring.models.loading import load_keras
from paring.models.trust import embedded_code, read_contents, refuse_code

Config = dict[str, Any]


def functional(*layers: Config, kind: str = "Functional") -> Config:
    """A functional model of tf_keras with one input, and `layers` beside it."""
    entry = {
        "class_name": "InputLayer",
        "module": "keras.layers",
        "registered_name": None,
        "config": {"batch_input_shape": [None, 2], "dtype": "float32", "name": "values"},
        "name": "values",
        "inbound_nodes": [],
    }
    return {
        "class_name": kind,
        "module": "tf_keras.src.engine.functional",
        "registered_name": kind,
        "config": {
            "name": "model",
            "trainable": True,
            "layers": [entry, *layers],
            "input_layers": [["values", 0, 0]],
            "output_layers": [["values", 0, 0]],
        },
    }


def call(function: str, argument: object, kind: str = "TFOpLambda", **more: object) -> Config:
    """A layer that calls a function of TensorFlow on a constant as soon as it is loaded."""
    return {
        "class_name": kind,
        "module": "tf_keras.src.layers.core.tf_op_layer",
        "registered_name": kind,
        "config": {"name": "hostile", "trainable": True, "function": function},
        "name": "hostile",
        "inbound_nodes": [["_CONSTANT_VALUE", -1, argument, more]],
    }


def layer(kind: str, config: Config | None = None, **more: object) -> Config:
    return {"class_name": kind, "config": {"name": "one", **(config or {})}, **more}


def write(config: Config, file: Path, version: str = "2.21.0") -> Model:
    """The file that holds `config`, as `.keras` or `.h5`."""
    if file.suffix == ".keras":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": version}))
            archive.writestr("config.json", json.dumps(config))
    else:
        with h5py.File(file, "w") as stored:
            stored.attrs["model_config"] = json.dumps(config)
            stored.attrs["keras_version"] = version
            stored.create_group("model_weights").attrs["layer_names"] = []
    return Model(file)


LAMBDA = json.dumps(layer("Lambda", {"function": ["4wAAAA==", None, None]}))


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize("version", ["2.21.0", "3.15.1"])
@pytest.mark.parametrize("kind", ["TFOpLambda", "SlicingOpLambda"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_that_writes_a_file_is_refused_before_it_does(
    tmp_path: Path, name: str, version: str, kind: str, nested: bool
) -> None:
    witness = tmp_path / "witness"
    hostile = functional(call("io.write_file", str(witness), kind, contents="owned"))
    model = write(functional(hostile) if nested else hostile, tmp_path / name, version)
    with pytest.raises(
        UntrustedModelError, match=r"io\.write_file \(hostile\)[\s\S]*--trust-model"
    ):
        load_keras(model)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_layer_that_removes_a_folder_is_refused_before_it_does(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    model = write(functional(call("io.gfile.rmtree", str(folder))), tmp_path / name)
    with pytest.raises(UntrustedModelError, match=r"io\.gfile\.rmtree"):
        load_keras(model)
    assert folder.exists()


def test_these_files_do_what_they_are_refused_for(tmp_path: Path) -> None:
    # Otherwise the two tests above would pass with any file that can't be loaded.
    witness = tmp_path / "witness"
    hostile = functional(call("io.write_file", str(witness), contents="owned"))
    for name in ("model.keras", "model.h5"):
        with pytest.raises(ModelError, match="can't be loaded"):
            load_keras(write(hostile, tmp_path / name), trust=True)
        assert witness.read_text() == "owned"
        witness.unlink()


REFUSED = {
    "a model made of text": (call("keras.models.model_from_json", LAMBDA), "model_from_json"),
    "an alias of TensorFlow 1": (call("compat.v1.write_file", "x", contents="y"), "write_file"),
    "a raw operator": (call("raw_ops.WriteFile", "x", contents="y"), "WriteFile"),
    "Python code": (call("numpy_function", "x"), "numpy_function"),
    "a symbol that is no text": (call(["io.write_file"], "x"), "something that is no name"),  # type: ignore[arg-type]
    "printing into a file": (call("print", "x", output_stream="file:///tmp/x"), "print"),
    "a sampler that reads a file": (
        call("random.fixed_unigram_candidate_sampler", [[0, 1]], vocab_file="/tmp/x"),
        r"random\.fixed_unigram_candidate_sampler",
    ),
    "a raw operator that prints into a file": (
        call("raw_ops.PrintV2", "x", output_stream="file:///tmp/x"),
        "PrintV2",
    ),
    "an operator that prints into a file": (
        layer("TensorFlowOpLayer", {"node_def": {"op": "PrintV2"}}),
        "operator PrintV2",
    ),
    "a method": (
        layer("ClassMethod", {"cls_symbol": "data.Dataset", "method_name": "list_files"}),
        r"data\.Dataset\.list_files",
    ),
    "an attribute": (layer("InstanceMethod", {"attr_name": "__class__"}), "__class__"),
    "an operator": (layer("TensorFlowOpLayer", {"node_def": {"op": "WriteFile"}}), "WriteFile"),
    "bytecode": (layer("Lambda"), "Lambda"),
    "bytecode as a function": (layer("Dense", {"activation": layer("__lambda__")}), "Lambda"),
    "a SavedModel elsewhere": (layer("TFSMLayer", {"filepath": "/tmp/x"}), "TFSMLayer"),
    "pickled code": (layer("TorchModuleWrapper"), "TorchModuleWrapper"),
    "a foreign module": (layer("Popen", module="subprocess"), "Popen from module subprocess"),
    "a foreign function": (
        layer(
            "Dense",
            {
                "activation": {
                    "class_name": "function",
                    "module": "os",
                    "config": "system",
                    "registered_name": "system",
                }
            },
        ),
        "system from module os",
    ),
    "a function of Keras that loads": (
        layer(
            "Dense",
            {
                "kernel_regularizer": {
                    "class_name": "function",
                    "module": "keras.models",
                    "config": "load_model",
                    "registered_name": "load_model",
                }
            },
        ),
        "load_model",
    ),
    "a name for an activation": (layer("Dense", {"activation": "deserialize"}), "deserialize"),
    "inside TimeDistributed": (
        layer("TimeDistributed", {"layer": call("io.write_file", "x", contents="y")}),
        "write_file",
    ),
    "inside Bidirectional": (
        layer("Bidirectional", {"layer": layer("RNN", {"cell": layer("Lambda")})}),
        "Lambda",
    ),
    "inside compiled losses": (
        {**functional(), "compile_config": {"loss": layer("Lambda")}},
        "Lambda",
    ),
    "an argument of a call": (call("math.add", layer("Lambda")), "Lambda"),
    "a vocabulary elsewhere": (layer("StringLookup", {"vocabulary": "/etc/passwd"}), "/etc/passwd"),
    "another vocabulary": (layer("IndexLookup", {"vocabulary": "gs://x/words"}), "gs://x/words"),
    "a type": (
        layer("__typespec__", module="os", spec_name="system", registered_name=None),
        "system",
    ),
    "a registered class": (
        layer("Mine", module=None, registered_name="keras_hub>Mine"),
        "keras_hub>Mine",
    ),
    "a registered class with a known name": (
        layer("Dense", module=None, registered_name="Custom>Dense"),
        "Custom>Dense",
    ),
    "a class with no text as its name": ({"class_name": ["Dense"], "config": {}}, "no text"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_on_no_list_is_refused_and_named(tmp_path: Path, what: str) -> None:
    config, named = REFUSED[what]
    file = tmp_path / "model.keras"
    write(functional(config), file)
    with pytest.raises(UntrustedModelError, match=named):
        refuse_code(file, read_contents(file).configs)


def test_what_is_compiled_into_the_outermost_model_is_left_out() -> None:
    config = {**functional(), "compile_config": {"loss": layer("Mine", registered_name="a>Mine")}}
    assert embedded_code([config]) == []


def test_an_archive_can_not_hide_behind_another_format(tmp_path: Path) -> None:
    # Such a file is HDF5 to Keras, for its name, and a zip archive to Python.
    witness = tmp_path / "witness"
    hostile = functional(call("io.write_file", str(witness), contents="owned"))
    model = write(hostile, tmp_path / "model.h5")
    write(functional(), tmp_path / "harmless.keras")
    with model.path.open("ab") as stream:
        stream.write((tmp_path / "harmless.keras").read_bytes())
    assert zipfile.is_zipfile(model.path)
    with pytest.raises(UntrustedModelError, match="write_file"):
        load_keras(model)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_weights_in_other_files_are_refused(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as stored:
        stored["values"] = np.ones(3)
    model = write(functional(), tmp_path / name)
    inner = model.path if name == "model.h5" else tmp_path / "model.weights.h5"
    with h5py.File(inner, "a") as stored:
        stored["layers/one/linked"] = h5py.ExternalLink(str(secret), "values")
    if name == "model.keras":
        with zipfile.ZipFile(model.path, "a") as archive:
            archive.write(inner, "model.weights.h5")
    with pytest.raises(UntrustedModelError, match=r"secret\.h5"):
        load_keras(model)


def test_raw_data_elsewhere_and_virtual_weights_are_refused(tmp_path: Path) -> None:
    model = write(functional(), tmp_path / "model.h5")
    with h5py.File(model.path, "a") as stored:
        stored.create_dataset("raw", (8,), "u1", external=[("/etc/hostname", 0, 8)])
        # A cycle of groups must not go on for ever.
        stored["model_weights"]["again"] = stored["model_weights"]
    with pytest.raises(UntrustedModelError, match="another file, which holds weight /raw"):
        load_keras(model)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"class_name": ' * 50_000, "null", "[]", "7", "not json", "\udcff"]
)
@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_broken_configuration_is_a_model_error(tmp_path: Path, name: str, text: str) -> None:
    model = write(functional(), tmp_path / name)
    content = text.encode("utf-8", "surrogateescape")
    if name == "model.keras":
        with zipfile.ZipFile(model.path, "w") as archive:
            archive.writestr("metadata.json", content)
            archive.writestr("config.json", content)
    else:
        with h5py.File(model.path, "w", track_order=True) as stored:
            group = stored
            group.attrs.create("model_config", np.bytes_(content[:60_000]))
    with pytest.raises(ModelError):
        load_keras(model)


def test_an_archive_with_a_name_that_keras_does_not_read_says_how_to_name_it(
    tmp_path: Path,
) -> None:
    file = tmp_path / "Network.KERAS"
    write(functional(), tmp_path / "model.keras").path.rename(file)
    with pytest.raises(ModelError, match=r"rename it to Network\.keras"):
        read_contents(file)


def test_a_configuration_without_limit_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "model.keras"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", "{}")
        with archive.open("config.json", "w", force_zip64=True) as stream:
            for _ in range(300):
                stream.write(b" " * (1 << 20))
    with pytest.raises(ModelError, match=r"config\.json would take 314572800 bytes"):
        read_contents(file)


def test_an_archive_that_unpacks_without_limit_is_refused_before_it_does(
    tmp_path: Path,
) -> None:
    import tf_keras

    file = tmp_path / "model.keras"
    tf_keras.Sequential([tf_keras.Input((2,)), tf_keras.layers.Dense(1)]).save(file)
    load_keras(Model(file))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/words.txt", bytes(1 << 20))
        # The directory of the archive alone states it.
        archive.getinfo("assets/words.txt").file_size = 2 << 30
    with pytest.raises(ModelError, match=r"more than can be unpacked[\s\S]*2,147,\d+,\d+ bytes"):
        load_keras(Model(file))


def test_every_layer_of_both_libraries_is_listed_or_known_to_be_refused() -> None:
    import inspect

    import keras
    import tf_keras

    refused = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
    for library in (keras, tf_keras):
        layers = {n for n, item in vars(library.layers).items() if inspect.isclass(item)}
        assert layers - allowed.LAYERS <= refused, library.__name__
        for part in ("initializers", "regularizers", "constraints", "losses", "metrics"):
            known = {n for n, item in vars(getattr(library, part)).items() if inspect.isclass(item)}
            assert known <= allowed.CLASSES, (library.__name__, part)
        functions = {
            name for name, item in vars(library.activations).items() if inspect.isfunction(item)
        }
        assert functions - {"get", "serialize", "deserialize"} <= allowed.FUNCTIONS


def test_nothing_that_touches_files_or_takes_code_is_listed() -> None:
    harmful = {
        *("read_file", "write_file", "matching_files", "py_function", "numpy_function", "print"),
        *("load_op_library", "map_fn", "while_loop", "cond", "save", "restore", "load_model"),
        *("deserialize", "import_graph_def", "model_from_json", "get_file", "eval", "get"),
    }
    assert not harmful & allowed.FUNCTIONS
    assert not [name for name in allowed.SYMBOLS if "gfile" in name or "raw_ops" in name]
    assert not {"Lambda", "TFSMLayer", "TorchModuleWrapper", "function"} & allowed.CLASSES


def test_no_listed_function_takes_the_name_of_a_file() -> None:
    import inspect

    from tensorflow.python.util import tf_export

    functions = {name: tf_export.get_symbol_from_name(name) for name in allowed.SYMBOLS}
    parameters = {
        name: inspect.signature(item).parameters
        for name, item in functions.items()
        if inspect.isfunction(inspect.unwrap(item) if callable(item) else item)
    }
    assert len(parameters) > 500
    words = ("file", "url", "stream", "directory")
    assert not [
        (name, item)
        for name, known in parameters.items()
        for item in known
        if any(w in item for w in words)
    ]


def test_every_listed_function_is_one_of_tensorflow_or_keras() -> None:
    import keras
    import tf_keras
    from tensorflow.python.util import tf_export

    spaces = ("keras.activations.", "keras.losses.", "keras.metrics.")
    unknown = [
        name
        for name in allowed.SYMBOLS
        if tf_export.get_symbol_from_name(name) is None
        # Functions of Keras 3 alone.
        and not (
            name.startswith(spaces)
            and hasattr(getattr(keras, name.split(".")[1]), name.split(".")[2])
        )
    ]
    assert unknown == []
    assert tf_keras.activations.relu is not None


@pytest.mark.filterwarnings("ignore:The `keras.initializers.serialize")
def test_tensorflow_functions_between_layers_are_no_code() -> None:
    import tensorflow as tf
    import tf_keras

    layers = tf_keras.layers
    image = tf_keras.Input((8, 8, 3))
    values = tf.image.resize(tf.nn.relu(image) * 2 + 1, (4, 4))[:, :2]
    values = tf.reduce_mean(tf.concat([values, -values], -1), [1, 2]) ** 2
    values = tf.where(values > 0, tf.einsum("ij->ij", values), tf.zeros_like(values))
    values = tf_keras.backend.clip(tf_keras.activations.relu(tf.math.softplus(values)), 0, 1)
    values = layers.Dense(3, activation=tf.nn.relu, kernel_regularizer="l2")(values)
    values = layers.Dense(3, activation=tf.nn.gelu, bias_initializer=tf.constant_initializer(0.1))(
        values
    )
    values = layers.Dense(3, activation=layers.LeakyReLU(0.1))(values)
    ragged = tf_keras.Input((None,), ragged=True)
    model = tf_keras.Model([image, ragged], [values, ragged.to_tensor(), ragged.flat_values])
    for config in (tf_keras.saving.serialize_keras_object(model), json.loads(model.to_json())):
        assert embedded_code([config]) == []


def test_operations_of_keras_3_between_layers_are_no_code() -> None:
    import keras

    image = keras.Input((8, 8, 3))
    values = keras.ops.image.resize(keras.ops.relu(image) * 2 + 1, (4, 4))[:, :2]
    values = keras.ops.mean(keras.ops.concatenate([values, -values], -1), [1, 2]) ** 2
    values = keras.layers.Dense(3, activation=keras.ops.silu, kernel_regularizer="l2")(values)
    values = keras.layers.Dense(3, dtype="mixed_float16", activation="hard_swish")(values)
    values = keras.layers.TimeDistributed(keras.layers.Dense(2))(keras.ops.expand_dims(values, 1))
    values = keras.layers.Bidirectional(keras.layers.GRU(2))(values)
    text = keras.Input((1,), dtype="string")
    words = keras.layers.TextVectorization(vocabulary=["a", "b"])(text)
    model = keras.Model([image, text], [values, keras.ops.sum(words)])
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    assert embedded_code([config]) == []


APPLICATIONS = (
    *("MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "ResNet50"),
    *("ConvNeXtTiny", "DenseNet121", "Xception", "NASNetMobile", "InceptionResNetV2"),
)


@pytest.mark.slow
# tf_keras's EfficientNetV2 has an initializer that is not of tf_keras.
@pytest.mark.filterwarnings("ignore:The `keras.initializers.serialize")
@pytest.mark.parametrize("library", ["keras", "tf_keras"])
@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_applications_of_both_libraries_hold_no_code(library: str, name: str) -> None:
    import importlib

    keras = importlib.import_module(library)
    model = getattr(keras.applications, name)(weights=None)
    for config in (keras.saving.serialize_keras_object(model), json.loads(model.to_json())):
        assert embedded_code([config]) == []

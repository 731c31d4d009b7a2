"""Broken and hostile files of every kind end in an error of ours, or in nothing.

The files are small, the seed is fixed, and TensorFlow is not needed.
"""

import json
import random
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import flatbuffers
import h5py
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as generated

from paring.artifacts import Model, PrunedModel, Selection
from paring.artifacts.reading import read_object
from paring.data.columns import map_array
from paring.data.example_files import locate, read_columns
from paring.data.tfrecords import _stated_shapes
from paring.errors import ArtifactTypeError, ExamplesError, ModelError, ParameterError, ParingError
from paring.models import hdf5
from paring.models.onnx_files import check_onnx
from paring.models.openvino_files import check_openvino
from paring.models.signature import TensorSpec
from paring.models.tflite_files import check_tflite
from paring.models.trust import read_contents, refuse_code
from paring.serving.versions import (
    RECORDS,
    Version,
    rolled_back,
    versions,
    withdrawn_version,
)
from paring.steps.push import _chosen
from paring.system.documents import parse_json, read_json
from paring.tensorrt.conditions import Conditions, read_conditions
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.toml_file import read_toml

SEED = 20261128
ROUNDS = 300
# A file of HDF5, and an archive that is none any more, is read in a process of its own. Those
# that are read in this process before native code gets them are tried more often.
OTHER_ROUNDS = {"h5": 25, "keras": 60, "tflite": 1_000, "onnx": 1_000, "openvino": 600}

DEEP = b"[" * 200_000
WORDS: list[bytes] = [
    *(b"null", b"[]", b"{}", b"-1", b"1e999", b'"\\ud800"', b"\xff\xfe", b"\x00", DEEP[:50_000]),
    *(b'{"class_name": 1}', b"9" * 5000, b"true", b"__class__", b"'", b"(", b"\n", b""),
]


def examples(folder: Path, file: Path) -> None:
    for group in locate(file).values():
        read_columns(group, inputs={}, labels={}, scratch=folder / "scratch")


def keras(folder: Path, file: Path) -> None:
    refuse_code(file, read_contents(file).configs)


def features(folder: Path, file: Path) -> None:
    inputs = {"image": TensorSpec("image", (None, 2, 2), "float32")}
    _stated_shapes(file, inputs)


def published(folder: Path, file: Path) -> None:
    known = versions(str(folder.parent))
    rolled_back(known)
    withdrawn_version(known, "sha256:1", "sha256:2")


def tflite_model() -> bytes:
    """A sum of two tensors, of which one is a constant."""
    model, graph = generated.ModelT(), generated.SubGraphT()
    model.version, model.description = 3, "sum"
    data = generated.BufferT()
    data.data = list(np.arange(4, dtype=np.float32).tobytes())
    model.buffers = [generated.BufferT(), data]
    graph.tensors = []
    for number in range(3):
        tensor = generated.TensorT()
        tensor.name, tensor.shape, tensor.buffer = f"t{number}", [2, 2], int(number == 1)
        tensor.quantization = generated.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [0.5], [1]
        graph.tensors.append(tensor)
    item, code = generated.OperatorT(), generated.OperatorCodeT()
    item.inputs, item.outputs = [0, 1], [2]
    item.builtinOptionsType, item.builtinOptions = 11, generated.AddOptionsT()
    graph.operators, graph.inputs, graph.outputs = [item], [0], [2]
    signature = generated.SignatureDefT()
    signature.signatureKey, signature.inputs, signature.outputs = "serving_default", [], []
    for names, index in ((signature.inputs, 0), (signature.outputs, 2)):
        named = generated.TensorMapT()
        named.name, named.tensorIndex = f"t{index}", index
        names.append(named)
    model.operatorCodes, model.subgraphs, model.signatureDefs = [code], [graph], [signature]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def onnx_model() -> bytes:
    """A sum with a branch, and a weight in another file."""
    value = onnx.helper.make_tensor_value_info
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Neg", ["x"], ["z"])], "inner", [], [value("z", 1, [2])]
    )
    nodes = [
        onnx.helper.make_node("Add", ["x", "w"], ["y"]),
        onnx.helper.make_node("If", ["c"], ["v"], then_branch=inner, else_branch=inner),
    ]
    weights = [
        onnx.helper.make_tensor("w", 1, [2], [1.0, 2.0]),
        onnx.helper.make_tensor("e", 1, [2], bytes(8), raw=True),
    ]
    weights[1].ClearField("raw_data")
    weights[1].data_location = onnx.TensorProto.EXTERNAL
    for key, text in (("location", "weights"), ("offset", "4")):
        weights[1].external_data.add(key=key, value=text)
    ends = [value("x", 1, [2]), value("c", 9, [])], [value("y", 1, [2]), value("v", 1, [2])]
    content: bytes = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "sum", *ends, weights)
    ).SerializeToString()
    return content


IR = """<?xml version="1.0"?>
<net name="sum" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1">
<data shape="2" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>2</dim></port></output>
</layer><layer id="1" name="w" type="Const" version="opset1">
<data element_type="f32" shape="2" offset="0" size="8"/></layer>
<layer id="2" name="y" type="Add" version="opset1"/>
</layers><edges><edge from-layer="0" from-port="0" to-layer="2" to-port="0"/>
<edge from-layer="1" from-port="0" to-layer="2" to-port="1"/></edges></net>
"""


def record(folder: Path, file: Path) -> None:
    PrunedModel.load(folder)


def seeds(folder: Path) -> dict[str, tuple[Path, Callable[[Path, Path], Any], type[ParingError]]]:
    """A valid file of each kind, how it is read, and the error that a broken one ends in."""
    made: dict[str, tuple[Path, Callable[[Path, Path], Any], type[ParingError]]] = {}

    def place(kind: str, name: str) -> Path:
        (folder / kind).mkdir()
        return folder / kind / name

    file = place("npz", "x.npz")
    np.savez(file, x_train=np.ones((3, 2)), y_train=np.arange(3))
    made["npz"] = (file, examples, ExamplesError)
    file = place("compressed", "x.npz")
    np.savez_compressed(file, x=np.ones((3, 2)), y=np.arange(3))
    made["compressed"] = (file, examples, ExamplesError)
    file = place("npy", "x.npy")
    np.save(file, np.ones((3, 2)))
    made["npy"] = (file, lambda _, item: map_array(item, "x"), ExamplesError)
    layer = {"class_name": "Dense", "config": {"name": "one", "units": 2}}
    config = {"class_name": "Sequential", "config": {"name": "model", "layers": [layer]}}
    file = place("keras", "x.keras")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.21.0"}))
        archive.writestr("config.json", json.dumps(config))
    made["keras"] = (file, keras, ModelError)
    file = place("h5", "x.h5")
    with h5py.File(file, "w") as stored:
        stored.attrs["model_config"] = json.dumps(config)
        stored["model_weights/one"] = np.ones(2)
    made["h5"] = (file, keras, ModelError)
    file = place("record", "paring.json")
    facts = {"size_bytes": 3, "sparsity": 0.5, "note": "x"}
    content = {"type": "PrunedModel", "facts": facts, "failure": None, "lineage": {"step": "prune"}}
    file.write_text(json.dumps(content))
    made["record"] = (file, record, ArtifactTypeError)
    file = place("selection", "selection.json")
    rows = [{"id": "source"}]
    file.write_text(
        json.dumps({"candidates": rows, "selected": "source", "source": {"digest": "sha256:1"}})
    )
    made["selection"] = (file, lambda inner, _: _chosen(Selection(inner)), ArtifactTypeError)
    file = place("report", "x.json")
    file.write_text(json.dumps({"a": [1, {"b": None}]}))
    made["report"] = (file, lambda _, item: read_object(item), ArtifactTypeError)
    file = place("recipes", "x.toml")
    file.write_text('[recipes.one]\nsteps = [{ step = "prune", sparsity = 0.8 }]\n')
    made["recipes"] = (file, lambda _, item: load_recipes(item), ParameterError)
    file = place("features", "spec.json")
    file.write_text(json.dumps({"image": {"shape": [2, 2], "dtype": "float32"}}))
    made["features"] = (file, features, ExamplesError)
    (folder / "versions" / "1").mkdir(parents=True)
    (folder / "versions" / "1" / "model.tflite").touch()
    (folder / "versions" / RECORDS).mkdir()
    file = folder / "versions" / RECORDS / "1.json"
    file.write_text(json.dumps(asdict(Version(1, "sha256:1", "rollback", withdrawn="sha256:2"))))
    made["versions"] = (file, published, ParingError)
    file = place("engine", "engine.json")
    Conditions("rtx", "1.2.0", "8.9").write(file.parent)
    made["engine"] = (file, lambda _, item: read_conditions(item), ModelError)
    file = place("tflite", "model.tflite")
    file.write_bytes(tflite_model())
    made["tflite"] = (file, lambda _, item: check_tflite(item), ModelError)
    file = place("onnx", "model.onnx")
    file.write_bytes(onnx_model())
    (file.parent / "weights").write_bytes(bytes(12))
    made["onnx"] = (file, lambda _, item: check_onnx(item), ModelError)
    file = place("openvino", "model.xml")
    file.write_text(IR)
    file.with_suffix(".bin").write_bytes(bytes(8))
    made["openvino"] = (file, lambda _, item: check_openvino(item), ModelError)
    return made


def changed(content: bytes, chance: random.Random) -> bytes:
    """`content` with something cut off, put in, replaced or repeated."""
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        start = chance.randrange(len(changed) + 1)
        end = min(len(changed), start + chance.choice((0, 1, 4, 40)))
        change = chance.randrange(4)
        if change == 0:
            del changed[start:]
        elif change == 1:
            changed[start:end] = chance.choice(WORDS)
        elif change == 2:
            changed[start:end] = chance.randbytes(end - start)
        else:
            changed[start:start] = changed[start:end] * chance.choice((1, 3))
    return bytes(changed)


def test_changed_files_end_in_the_error_of_their_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(SEED)
    # Enough for files of a few kB.
    monkeypatch.setattr(hdf5, "_CPU_SECONDS", 3)
    refused = tried = 0
    for kind, (file, read, error) in seeds(tmp_path).items():
        original = file.read_bytes()
        read(file.parent, file)
        for number in range(OTHER_ROUNDS.get(kind, ROUNDS)):
            content = changed(original, chance)
            file.write_bytes(content)
            tried += 1
            try:
                read(file.parent, file)
            except error:
                refused += 1
            except Exception as other:
                pytest.fail(f"{kind} {number}: {type(other).__name__}: {other}"[:400])
    assert tried >= 5_500
    assert refused > tried / 4
    with capsys.disabled():
        sys.stdout.write(f"\n{tried} inputs, of which {refused} were refused\n")


def test_an_archive_that_unpacks_without_limit_is_refused_before_it_does(tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as stream,
    ):
        for _ in range(1100):
            stream.write(bytes(1 << 20))
    with pytest.raises(ExamplesError, match="take more than can be unpacked"):
        examples(tmp_path, file)
    assert not list((tmp_path / "scratch").glob("*"))


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED])
def test_ways_to_compress_that_are_broken_or_unknown_are_refused(
    tmp_path: Path, method: int
) -> None:
    file = tmp_path / "x.npz"
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x.npy", b"0" * 1000)
    content = bytearray(file.read_bytes())
    place = content.rfind(b"PK\x01\x02") + 10
    for other in (99, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED, 1):
        # In the directory and before the member: what is there is something else.
        content[place : place + 2] = content[8:10] = other.to_bytes(2, "little")
        file.write_bytes(content)
        with pytest.raises(ExamplesError):
            examples(tmp_path, file)


def test_json_and_toml_are_read_within_limits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json(DEEP)
    file = tmp_path / "x.json"
    file.write_text(json.dumps("x" * 100))
    with pytest.raises(ValueError, match="102 bytes, of which at most 50"):
        read_json(file, limit=50)
    file.write_text("x = " + "[" * 50_000)
    with pytest.raises(ParameterError, match="nested too deeply"):
        read_toml(file, "--recipes", remedy="mend it")
    file.write_text("# " + "x" * (5 << 20))
    with pytest.raises(ParameterError, match="larger than a file that people write"):
        read_toml(file, "--recipes", remedy="mend it")


@pytest.mark.parametrize(
    "change",
    [
        {"facts": []},
        {"facts": {"size_bytes": "much"}},
        {"facts": {"size_bytes": True}},
        {"facts": {"rebuilt_difference": True}},
        {"facts": {"source_precision": "mixed_float16"}},
        {"facts": {"source_precision": [16]}},
        {"digest": 3},
        {"failure": {"outcome": "failed", "other": 1}},
        {"failure": 3},
        {"lineage": []},
        {"type": ["Model"]},
    ],
)
def test_a_record_of_other_types_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    content = {"type": "Model", "facts": {}, "failure": None, "lineage": {}} | change
    (tmp_path / "paring.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactTypeError):
        Model.load(tmp_path)

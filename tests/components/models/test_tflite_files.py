"""TFLite files that would lead an interpreter astray are refused; ordinary ones pass."""

import ast
import inspect
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as generated

from paring.artifacts import Servable
from paring.errors import ModelError, UnsupportedError, UntrustedModelError
from paring.models.flatbuffer import FlatBuffer, FlatBufferError
from paring.models.tflite_files import check_tflite, holds_state
from paring.models.tflite_schema import SCHEMA
from paring.runtimes import open_runtime

SHORT = {
    **{"Int8": "i8", "Uint8": "u8", "Int16": "i16", "Uint16": "u16", "Int32": "i32"},
    **{"Uint32": "u32", "Int64": "i64", "Uint64": "u64", "Float32": "f32", "Bool": "bool"},
}


def convert(body: Callable[[Any], Any], *, representative: Any = None) -> bytes:
    """The TFLite file of a function of a float tensor [1, 4]."""
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([1, 4], tf.float32, name="x")
    module.serve = tf.function(lambda x: {"y": body(x)}, input_signature=[spec])
    concrete = module.serve.get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], module)
    if representative is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
    content: bytes = converter.convert()
    return content


def dense(x: Any) -> Any:
    import tensorflow as tf

    kernel = tf.constant(np.arange(12, dtype=np.float32).reshape(4, 3) / 7)
    return tf.nn.relu(tf.matmul(x, kernel) + tf.constant([1.0, -1.0, 0.5]))


def loop(x: Any) -> Any:
    import tensorflow as tf

    return tf.while_loop(
        lambda i, _: i < 3, lambda i, y: (i + 1, y * 2.0), [tf.constant(0), tf.identity(x)]
    )[1]


@pytest.fixture(scope="module")
def content() -> bytes:
    return convert(dense)


@pytest.fixture(scope="module")
def looping() -> bytes:
    return convert(loop)


def edited(content: bytes, change: Callable[[Any], object]) -> bytes:
    """The file with its content changed as objects."""
    model = generated.ModelT.InitFromObj(generated.Model.GetRootAs(content, 0))
    change(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def write(folder: Path, content: bytes) -> Path:
    file = folder / "model.tflite"
    file.write_bytes(content)
    return file


def test_the_schema_is_that_of_the_installed_library() -> None:
    tables: dict[str, dict[int, tuple[str, bool]]] = {}
    for node in ast.parse(inspect.getsource(generated)).body:
        if not isinstance(node, ast.ClassDef):
            continue
        methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
        if "Init" not in methods:
            continue
        fields = tables.setdefault(node.name, {})
        for name, method in methods.items():
            text = ast.unparse(method)
            slot = re.search(r"_tab\.Offset\((\d+)\)", text)
            if slot and not name.endswith(("AsNumpy", "Length", "IsNone")):
                number = re.search(r"number_types\.(\w+)Flags, (?:o|a) \+", text)
                made = re.search(r"obj = (\w+)\(\)", text)
                kind = SHORT[number[1]] if number else made[1] if made else "string"
                if "_tab.Union" in text:
                    kind = "union"
                fields[(int(slot[1]) - 4) // 2] = (kind, "_tab.Vector(o)" in text)
    assert tables.keys() == SCHEMA.tables.keys()
    for name, slots in SCHEMA.tables.items():
        ours: dict[int, tuple[str, bool]] = {}
        for index, slot_of in enumerate(slots):
            if slot_of is not None:
                kind = slot_of[1]
                inner = "union" if kind in SCHEMA.unions else kind.strip("[]")
                ours[index] = (inner, kind.startswith("["))
        assert ours == tables[name], name
    for name, members in SCHEMA.unions.items():
        values = {v: k for k, v in vars(getattr(generated, name)).items() if isinstance(v, int)}
        assert members == tuple(values[index] for index in range(len(values)))


def test_what_the_converter_writes_passes(tmp_path: Path) -> None:
    import tensorflow as tf

    def texts(x: Any) -> Any:
        names = tf.constant(["one", "", "three"])
        return tf.gather(names, tf.cast(x[0, :1], tf.int32))

    def calls() -> Any:
        for number in range(8):
            yield [np.full((1, 4), number, np.float32)]

    for body, representative in (
        (dense, None),
        (dense, calls),
        (loop, None),
        (texts, None),
    ):
        file = write(tmp_path, convert(body, representative=representative))
        check_tflite(file)
        assert not holds_state(file)


def test_values_are_read_as_the_library_reads_them(content: bytes) -> None:
    model = FlatBuffer(content, SCHEMA).read("Model", b"TFL3")
    other = generated.ModelT.InitFromObj(generated.Model.GetRootAs(content, 0))
    assert len(model["buffers"]) == len(other.buffers)
    for item, tensor in zip(
        model["subgraphs"][0]["tensors"], other.subgraphs[0].tensors, strict=True
    ):
        assert item["name"] == tensor.name
        assert item["shape"].tolist() == list(tensor.shape)
        assert item.get("buffer", 0) == tensor.buffer
    codes = [code.get("builtin_code", 0) for code in model["operator_codes"]]
    assert codes == [code.builtinCode for code in other.operatorCodes]
    assert model["description"] == other.description


def constant(model: Any) -> Any:
    """The largest constant's tensor."""
    sizes = [0 if item.data is None else len(item.data) for item in model.buffers]
    return max(model.subgraphs[0].tensors, key=lambda item: sizes[item.buffer])


def operator(model: Any) -> Any:
    return model.subgraphs[0].operators[0]


def setting(find: Callable[[Any], Any], name: str, value: Any) -> Callable[[Any], None]:
    return lambda model: setattr(find(model), name, value)


HOSTILE: dict[str, Callable[[Any], Any]] = {
    "buffer 999 of": setting(constant, "buffer", 999),
    r"has the shape \[-1, 4\]": setting(constant, "shape", [-1, 4]),
    "has the shape": setting(constant, "shape", [2**31 - 1] * 4),
    "needs 400, and has": setting(constant, "shape", [100]),
    r"inputs \[1000\] of": setting(operator, "inputs", [1000]),
    r"inputs \[-2\] of": setting(operator, "inputs", [-2]),
    r"outputs \[-1\] of": setting(operator, "outputs", [-1]),
    "code 7 of": setting(operator, "opcodeIndex", 7),
    "writes to a constant": lambda m: setattr(
        operator(m), "outputs", [m.subgraphs[0].tensors.index(constant(m))]
    ),
    "an input of graph 0 is a constant": lambda m: setattr(
        m.subgraphs[0], "inputs", [m.subgraphs[0].tensors.index(constant(m))]
    ),
    "graph 0: outputs": lambda m: setattr(m.subgraphs[0], "outputs", [-1]),
    "it has no graph": lambda m: setattr(m, "subgraphs", []),
    "is not in the file": lambda m: (
        setattr(m.buffers[1], "offset", 1 << 40),
        setattr(m.buffers[1], "size", 16),
    ),
    "metadata: buffer 77": lambda m: setattr(m.metadata[0], "buffer", 77),
    "graph 9 of": lambda m: setattr(m.signatureDefs[0], "subgraphIndex", 9),
    "tensor 4000 of": lambda m: setattr(m.signatureDefs[0].inputs[0], "tensorIndex", 4000),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_what_leads_out_of_the_model_is_refused(
    message: str, content: bytes, tmp_path: Path
) -> None:
    if "signature" in message or message.startswith(("graph 9", "tensor 4000")):

        def signed(model: Any) -> None:
            item = generated.SignatureDefT()
            item.signatureKey, item.outputs = "serving_default", []
            item.inputs = [generated.TensorMapT()]
            item.inputs[0].name, item.inputs[0].tensorIndex = "x", 0
            model.signatureDefs = [item]

        content = edited(content, signed)
    file = write(tmp_path, edited(content, HOSTILE[message]))
    with pytest.raises(ModelError, match=message) as caught:
        open_runtime(Servable(file))
    assert caught.value.exit_code == 10
    # Trust is about code, not about files that are broken.
    with pytest.raises(ModelError, match=message):
        open_runtime(Servable(file, trusted=True))


def test_every_wild_offset_is_an_error_and_no_crash(content: bytes, tmp_path: Path) -> None:
    refused = 0
    for place in range(0, len(content) - 4, 4):
        for value in (1 << 31, len(content) - 2):
            wild = bytearray(content)
            wild[place : place + 4] = struct.pack("<I", value)
            try:
                check_tflite(write(tmp_path, bytes(wild)))
            except ModelError:
                refused += 1
    assert refused > 200


@pytest.mark.parametrize("length", [0, 3, 7, 8, 40])
def test_files_that_were_cut_off_are_refused(length: int, content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cut off"):
        open_runtime(Servable(write(tmp_path, content[:length])))


def test_a_loop_that_calls_itself_is_refused(looping: bytes, tmp_path: Path) -> None:
    def call_itself(model: Any) -> None:
        for item in model.subgraphs[0].operators:
            if isinstance(item.builtinOptions, generated.WhileOptionsT):
                item.builtinOptions.bodySubgraphIndex = 0

    with pytest.raises(ModelError, match="calls itself"):
        check_tflite(write(tmp_path, edited(looping, call_itself)))

    def call_nothing(model: Any) -> None:
        for item in model.subgraphs[0].operators:
            if isinstance(item.builtinOptions, generated.WhileOptionsT):
                item.builtinOptions.condSubgraphIndex = 50

    with pytest.raises(ModelError, match="graph 50 of"):
        check_tflite(write(tmp_path, edited(looping, call_nothing)))


def test_custom_operators_are_named_and_refused_unless_trusted(
    content: bytes, tmp_path: Path
) -> None:
    def use_custom(model: Any) -> None:
        code = generated.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = 32
        code.customCode = "FlexWriteFile"
        model.operatorCodes.append(code)
        operator(model).opcodeIndex = len(model.operatorCodes) - 1

    file = write(tmp_path, edited(content, use_custom))
    with pytest.raises(UntrustedModelError, match=r"FlexWriteFile[\s\S]*--trust-model") as caught:
        open_runtime(Servable(file))
    assert caught.value.exit_code == 11
    check_tflite(file, trusted=True)
    # LiteRT itself has no kernel of that name.
    with pytest.raises(UnsupportedError, match="Select TensorFlow"):
        open_runtime(Servable(file, trusted=True))


def test_weights_in_other_files_need_trust(content: bytes, tmp_path: Path) -> None:
    def take_from_elsewhere(model: Any) -> None:
        group = generated.ExternalBufferGroupT()
        group.name = "/etc/passwd"
        model.externalBufferGroups = [group]

    file = write(tmp_path, edited(content, take_from_elsewhere))
    with pytest.raises(UntrustedModelError, match="other files"):
        check_tflite(file)


def test_a_file_that_changes_is_checked_again(content: bytes, tmp_path: Path) -> None:
    file = write(tmp_path, content)
    check_tflite(file)
    write(tmp_path, content[:100])
    with pytest.raises(ModelError):
        check_tflite(file)


def test_sparse_constants_are_counted_by_their_indices(content: bytes, tmp_path: Path) -> None:
    def make_sparse(model: Any, indices: list[int], ends: list[int]) -> None:
        tensor = constant(model)
        rows, columns = tensor.shape
        levels = []
        for size in (rows, columns):
            level = generated.DimensionMetadataT()
            level.denseSize = size
            levels.append(level)
        levels[1].format = 1
        for name, values in (("arraySegments", ends), ("arrayIndices", indices)):
            vector = generated.Int32VectorT()
            vector.values = values
            setattr(levels[1], name, vector)
            setattr(levels[1], f"{name}Type", generated.SparseIndexVector.Int32Vector)
        tensor.sparsity = generated.SparsityParametersT()
        tensor.sparsity.traversalOrder, tensor.sparsity.dimMetadata = [0, 1], levels
        model.buffers[tensor.buffer].data = [0] * 4 * len(indices)

    # A kernel of [3, 4] with one value in each row.
    for indices, ends, match in (
        ([0, 3, 1], [0, 1, 2, 3], None),
        ([0, 4, 1], [0, 1, 2, 3], "sparse indices"),
        ([0, 3, 1], [0, 1, 3], "sparse indices"),
        ([0, 3, 1], [0, 2, 1, 3], "sparse indices"),
    ):
        file = write(
            tmp_path,
            edited(content, lambda m, i=indices, e=ends: make_sparse(m, i, e)),  # type: ignore[misc]
        )
        if match is None:
            check_tflite(file)
        else:
            with pytest.raises(ModelError, match=match):
                check_tflite(file)


def test_tables_that_are_shared_without_end_are_read_once(content: bytes) -> None:
    # A vector of 400,000 offsets, each to one graph that holds all of them would be, written
    # out, larger than any memory.
    count = 400_000
    header = struct.pack("<I4s", 24, b"TFL3")
    vtable = struct.pack("<6H", 10, 12, 0, 0, 8, 0)
    model = struct.pack("<iII", 24 - 8, 0, 4)
    vector = struct.pack("<I", count)
    graph = len(header) + len(vtable) + 4 + len(model) + len(vector) + 4 * count
    offsets = b"".join(
        struct.pack("<I", graph + 4 - (len(header) + len(vtable) + 4 + len(model) + 4 + 4 * index))
        for index in range(count)
    )
    body = header + vtable + bytes(4) + model + vector + offsets
    body += struct.pack("<HH", 4, 4) + struct.pack("<i", 4)
    made = FlatBuffer(body, SCHEMA).read("Model", b"TFL3")
    assert len(made["subgraphs"]) == count
    assert len({id(subgraph) for subgraph in made["subgraphs"]}) == 1


def test_more_tables_than_any_model_has_are_refused() -> None:
    count = 2_100_000
    header = struct.pack("<I4s", 24, b"TFL3")
    vtable = struct.pack("<6H", 10, 12, 0, 0, 8, 0)
    model = struct.pack("<iII", 24 - 8, 0, 4)
    body = header + vtable + bytes(4) + model + struct.pack("<I", count) + bytes(4 * count)
    with pytest.raises(FlatBufferError, match="more than 2,000,000"):
        FlatBuffer(body, SCHEMA).read("Model", b"TFL3")

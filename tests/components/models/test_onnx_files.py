"""ONNX files that lead out of their folder or name foreign code are refused; others pass."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from paring.artifacts import ONNXModel, Servable
from paring.errors import ModelError, UntrustedModelError
from paring.execution import Call, execute
from paring.models.onnx_files import check_onnx, onnx_file
from paring.models.onnx_operators import OPERATORS
from paring.runtimes import open_runtime
from paring.steps.convert_openvino import convert_openvino

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


def model(**changes: Any) -> Any:
    """A product of `x` [n, 2] with weights [2, 3]."""
    node = helper.make_node(changes.pop("kind", "MatMul"), ["x", "w"], ["y"], **changes)
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def write(folder: Path, proto: Any) -> Path:
    file = folder / "model.onnx"
    file.write_bytes(proto.SerializeToString())
    return file


def external(proto: Any, location: str, **entries: str) -> Any:
    """The model with its weights in another file."""
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return proto


def test_the_lists_are_the_operators_of_the_installed_libraries() -> None:
    from onnxruntime.capi import onnxruntime_pybind11_state as bindings

    known = {(item.domain, item.name) for item in onnx.defs.get_all_schemas_with_history()}
    known |= {(item.domain, item.name) for item in bindings.get_all_operator_schema()}
    listed = {(domain, name) for domain, names in OPERATORS.items() for name in names}
    assert known - listed == {
        # What runs code of its own: programs of devices, and plugins of TensorRT.
        ("com.microsoft", "EPContext"),
        ("com.microsoft", "Snpe"),
        *(("", f"{name}_TRT") for name in ("DisentangledAttention", "EfficientNMS")),
        *(("", f"{name}_TRT") for name in ("MultilevelCropAndResize", "PyramidROIAlign")),
    }
    assert listed <= known


def test_a_plain_model_passes_and_runs(tmp_path: Path) -> None:
    file = write(tmp_path, model())
    assert check_onnx(file) == [file]
    x = np.ones((2, 2), np.float32)
    np.testing.assert_array_equal(open_runtime(Servable(file)).run({"x": x})["y"], x @ WEIGHTS)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TensorProto.FLOAT, [1.0, 2.0, 3.0]),
        (TensorProto.DOUBLE, [1.0, 2.0, 3.0]),
        (TensorProto.INT64, [-1, 2, 1 << 40]),
        (TensorProto.UINT64, [1, 2, 1 << 63]),
        (TensorProto.INT8, [-1, 2, 3]),
        (TensorProto.BOOL, [True, False, True]),
        (TensorProto.FLOAT16, [1.0, 2.0, 3.0]),
        (TensorProto.BFLOAT16, [1.0, 2.0, 3.0]),
        (TensorProto.INT4, [1, -2, 3]),
        (TensorProto.COMPLEX64, [1j, 2.0, 3.0]),
        (TensorProto.STRING, ["a", "", "c"]),
    ],
)
def test_constants_of_every_type_are_counted(kind: int, values: Any, tmp_path: Path) -> None:
    proto = model()
    proto.graph.initializer.append(helper.make_tensor("more", kind, [3], values))
    file = write(tmp_path, proto)
    check_onnx(file)
    proto.graph.initializer[1].dims[0] = 5
    with pytest.raises(ModelError, match=r"tensor more of shape \[5\] needs"):
        check_onnx(write(tmp_path, proto))


def constant(proto: Any) -> Any:
    return proto.graph.initializer[0]


def _self_calling(proto: Any) -> None:
    node = helper.make_node("again", ["a"], ["b"], domain="mine")
    opset = helper.make_opsetid("mine", 1)
    proto.functions.append(helper.make_function("mine", "again", ["a"], ["b"], [node], [opset]))


def _growing(proto: Any) -> None:
    """Functions of which each calls the next ten times."""
    opsets = [helper.make_opsetid("mine", 1), helper.make_opsetid("", 21)]
    for level in range(12):
        called = ("Relu", "") if level == 11 else (f"f{level + 1}", "mine")
        nodes = [
            helper.make_node(called[0], ["a"], [f"b{number}"], domain=called[1])
            for number in range(10)
        ]
        proto.functions.append(
            helper.make_function("mine", f"f{level}", ["a"], ["b0"], nodes, opsets)
        )
    proto.graph.node.append(helper.make_node("f0", ["x"], ["z"], domain="mine"))


HOSTILE: dict[str, Callable[[Any], Any]] = {
    "needs 48, and has 24": lambda m: constant(m).dims.__setitem__(0, 4),
    r"has the shape \[-2, 3\]": lambda m: constant(m).dims.__setitem__(0, -2),
    r"has the shape \[2305843009213693952": lambda m: constant(m).dims.__setitem__(0, 1 << 61),
    "dimensions": lambda m: constant(m).dims.extend([1] * 300),
    "unknown type 99": lambda m: setattr(constant(m), "data_type", 99),
    "its graph has no nodes": lambda m: m.graph.ClearField("node"),
    "calls itself": _self_calling,
    "result in more than": _growing,
    "is not stored in one": lambda m: constant(m).external_data.add(key="location", value="w"),
}


@pytest.mark.parametrize("message", HOSTILE)
def test_what_does_not_fit_is_refused(message: str, tmp_path: Path) -> None:
    proto = model()
    HOSTILE[message](proto)
    for trusted in (False, True):
        with pytest.raises(ModelError, match=message) as caught:
            open_runtime(Servable(write(tmp_path, proto), trusted=trusted))
        assert caught.value.exit_code == 10


@pytest.mark.parametrize("content", [b"", b"\x08", b"not a model", b"\x08\x08\x12\x07"])
def test_files_that_are_no_model_are_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=str(file)):
        open_runtime(Servable(file))


def test_weights_in_the_models_folder_are_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "w.bin").write_bytes(bytes(8) + WEIGHTS.tobytes())
    file = write(tmp_path, external(model(), "data/w.bin", offset="8", length="24"))
    assert check_onnx(file) == [file, tmp_path / "data" / "w.bin"]
    x = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(open_runtime(Servable(file)).run({"x": x})["y"], x @ WEIGHTS)


@pytest.mark.parametrize("trusted", [False, True])
def test_weights_elsewhere_are_refused(tmp_path: Path, trusted: bool) -> None:
    folder = tmp_path / "model"
    (folder / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    for place in (tmp_path / "secret", folder / "*" / "_ORT_MEM_ADDR_" / "*"):
        place.write_bytes(WEIGHTS.tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    for location in (
        *("../secret", str(tmp_path / "secret"), "link", "../model/../secret", "", "none", "."),
        *("*/_ORT_MEM_ADDR_/*", "a\0b", "x" * 5000, str(folder / "link")),
    ):
        file = write(folder, external(model(), location))
        with pytest.raises(ModelError, match="not beside it"):
            open_runtime(Servable(file, trusted=trusted))


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": "9"}, "shorter than the weights"),
        ({"length": "20"}, "needs 24 bytes, and has 20"),
        ({"offset": "-8"}, "lies at byte '-8'"),
        ({"offset": "0x0"}, "lies at byte"),
        ({"offset": "9" * 30}, "lies at byte"),
        ({"offset": "٣"}, "lies at byte"),
    ],
)
def test_weights_of_another_size_are_refused(
    entries: dict[str, str], message: str, tmp_path: Path
) -> None:
    (tmp_path / "w").write_bytes(WEIGHTS.tobytes() + bytes(8))
    with pytest.raises(ModelError, match=message):
        check_onnx(write(tmp_path, external(model(), "w", **entries)))


@pytest.mark.parametrize(
    ("kind", "domain"),
    [("MatMul", "ai.custom"), ("EPContext", "com.microsoft"), ("EfficientNMS_TRT", "")],
)
def test_operators_of_other_libraries_are_named_and_refused_unless_trusted(
    kind: str, domain: str, tmp_path: Path
) -> None:
    file = write(tmp_path, model(kind=kind, domain=domain))
    shown = rf"{domain or 'ai.onnx'}\.{kind}[\s\S]*--trust-model"
    with pytest.raises(UntrustedModelError, match=shown) as caught:
        open_runtime(Servable(file))
    assert caught.value.exit_code == 11
    assert check_onnx(file, trusted=True) == [file]


def test_operators_inside_of_branches_and_functions_are_looked_at(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Evil", [], ["z"], domain="bad")],
        "inner",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [])],
    )
    branches = model()
    branches.graph.node.append(
        helper.make_node("If", ["x"], ["v"], then_branch=inner, else_branch=inner)
    )
    functions = model(kind="product", domain="mine")
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("bad", 1)]
    for nodes, harmless in (
        ([helper.make_node("Evil", ["a", "b"], ["c"], domain="bad")], False),
        ([helper.make_node("MatMul", ["a", "b"], ["c"])], True),
    ):
        functions.ClearField("functions")
        functions.functions.append(
            helper.make_function("mine", "product", ["a", "b"], ["c"], nodes, opsets)
        )
        file = write(tmp_path, functions)
        if harmless:
            check_onnx(file)
        else:
            with pytest.raises(UntrustedModelError, match=r"bad\.Evil"):
                check_onnx(file)
    with pytest.raises(UntrustedModelError, match=r"bad\.Evil"):
        check_onnx(write(tmp_path, branches))


def test_a_step_takes_the_option(tmp_path: Path) -> None:
    folder = tmp_path / "exported" / "Format-Serving"
    folder.mkdir(parents=True)
    write(folder, model(domain="ai.custom"))
    call = {"model": tmp_path / "exported"}, {"converted": tmp_path / "out"}
    with pytest.raises(UntrustedModelError, match=r"ai\.custom"):
        execute(convert_openvino, Call(*call))
    # With trust it is ONNX Runtime that has no such operator.
    with pytest.raises(ModelError, match="can't be loaded as an ONNX file") as caught:
        execute(convert_openvino, Call(*call, {"trust_model": True}))
    assert not isinstance(caught.value, UntrustedModelError)


def test_the_file_is_found_in_each_form(tmp_path: Path) -> None:
    file = write(tmp_path, model())
    assert onnx_file(ONNXModel(file)) == onnx_file(ONNXModel(tmp_path)) == file
    with pytest.raises(ModelError, match="holds no ONNX model"):
        onnx_file(ONNXModel(tmp_path / "none"))

"""OpenVINO's files that lead out of themselves or name extensions are refused; others pass."""

from pathlib import Path

import numpy as np
import pytest

from paring.artifacts import Servable
from paring.errors import ModelError, UntrustedModelError
from paring.models import openvino_files
from paring.models.openvino_files import check_openvino
from paring.runtimes import open_runtime

openvino = pytest.importorskip("openvino")

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A product of `x` [n, 2] with weights [2, 3]."""
    from openvino import opset13 as ops

    x = ops.parameter([-1, 2], np.float32, name="x")
    x.output(0).set_names({"x"})
    y = ops.matmul(x, ops.constant(WEIGHTS), False, False)
    y.output(0).set_names({"y"})
    made = openvino.Model([ops.result(y)], [x], "product")
    openvino.save_model(made, tmp_path / "model.xml", compress_to_fp16=False)
    return tmp_path / "model.xml"


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def test_the_operation_sets_are_those_of_the_installed_library() -> None:
    folder = Path(openvino.__file__).parent
    assert {path.name for path in folder.glob("opset[0-9]*")} == openvino_files._OPSETS


def test_what_openvino_writes_passes_and_runs(file: Path) -> None:
    check_openvino(file)
    x = np.ones((2, 2), np.float32)
    runtime = open_runtime(Servable(file.parent))
    np.testing.assert_array_equal(runtime.run({"x": x})["y"], x @ WEIGHTS)


def test_loops_and_branches_pass(tmp_path: Path) -> None:
    from openvino import opset13 as ops

    chosen = ops.parameter([], np.bool_, name="chosen")
    x = ops.parameter([1, 2], np.float32, name="x")
    bodies = []
    for factor in (2.0, 3.0):
        inner = ops.parameter([1, 2], np.float32)
        scaled = ops.multiply(inner, ops.constant(np.array([factor], np.float32)))
        bodies.append(openvino.Model([ops.result(scaled)], [inner], "body"))
    branch = ops.if_op(chosen)
    branch.set_then_body(bodies[0])
    branch.set_else_body(bodies[1])
    branch.set_input(x.output(0), bodies[0].get_parameters()[0], bodies[1].get_parameters()[0])
    out = branch.set_output(bodies[0].get_results()[0], bodies[1].get_results()[0])
    made = openvino.Model([ops.result(out)], [chosen, x], "branch")
    openvino.save_model(made, tmp_path / "model.xml", compress_to_fp16=False)
    check_openvino(tmp_path / "model.xml")


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    """Adds `x` [1, 2] to itself five times, in a loop."""
    from openvino import opset13 as ops

    x = ops.parameter([1, 2], np.float32, name="x")
    state, given = (ops.parameter([1, 2], np.float32) for _ in range(2))
    total = ops.add(state, given)
    go_on = ops.result(ops.constant(np.array([True])))
    body = openvino.Model([go_on, ops.result(total)], [state, given], "body")
    item = ops.loop(ops.constant(np.int64(5)), ops.constant(np.array([True])))
    item.set_function(body)
    item.set_special_body_ports([-1, 0])
    item.set_merged_input(state, x.output(0), total.output(0))
    item.set_invariant_input(given, x.output(0))
    made = openvino.Model([ops.result(item.get_iter_value(total.output(0)))], [x], "loop")
    openvino.save_model(made, tmp_path / "model.xml", compress_to_fp16=False)
    return tmp_path / "model.xml"


def test_the_edges_by_which_a_loop_goes_on_are_those_of_its_body(loop: Path) -> None:
    assert "<back_edges>" in loop.read_text()
    check_openvino(loop)


@pytest.mark.parametrize("edge", ['<edge from-layer="', 'internal_layer_id="'])
def test_a_loop_that_names_a_layer_that_its_body_lacks_is_refused(loop: Path, edge: str) -> None:
    text = loop.read_text()
    start = text.index(edge, text.index("<port_map>")) + len(edge)
    loop.write_text(text[:start] + "77" + text[text.index('"', start) :])
    with pytest.raises(ModelError, match="names layer '77', which its body lacks"):
        check_openvino(loop)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('offset="0"', 'offset="8"', "24 bytes, of which model.xml uses 32"),
        ('offset="0"', 'offset="-4"', "offset is '-4'"),
        ('offset="0"', 'offset="9999999999999999999999"', "offset is"),
        ('size="24"', 'size="20"', "needs 24, and has 20"),
        ('shape="2, 3"', 'shape="2, 4"', "needs 32, and has 24"),
        ('shape="2, 3"', 'shape="4294967296, 4294967296, 4"', "needs 2951"),
        ('shape="2, 3"', 'shape="2, -3"', "shape is '-3'"),
        ('<edge from-layer="0"', '<edge from-layer="77"', "layer '77', which is not there"),
        ('<edge from-layer="0"', '<edge from-layer="2"', "calls itself"),
        ('id="1"', 'id="0"', "two layers '0'"),
        ("<net ", '<!DOCTYPE net [<!ENTITY a "b">]><net ', "document type"),
        ('<?xml version="1.0"?>', '<?xml version="1.0" encoding="latin-1"?>', "latin-1"),
        ("<net ", "<other/><net ", "it is a other"),
        ("</net>", "", "no element found"),
    ],
)
def test_what_does_not_fit_is_refused(file: Path, old: str, new: str, message: str) -> None:
    replace(file, old, new)
    for trusted in (False, True):
        with pytest.raises(ModelError, match=message) as caught:
            open_runtime(Servable(file.parent, trusted=trusted))
        assert caught.value.exit_code == 10


def test_entities_are_not_expanded(file: Path) -> None:
    text = file.read_text().partition("?>")[2]
    lines = ['<!ENTITY a0 "aaaaaaaaaa">']
    lines += [f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 30)]
    file.write_text(f"<!DOCTYPE net [{''.join(lines)}]>{text.replace('product', '&a29;')}")
    with pytest.raises(ModelError, match="document type"):
        check_openvino(file)


def test_texts_of_other_encodings_and_endless_depth_are_refused(file: Path) -> None:
    text = file.read_text()
    file.write_text(text.partition("?>")[2], encoding="utf-16")
    with pytest.raises(ModelError, match="UTF-8"):
        check_openvino(file)
    file.write_text("<net>" + "<a>" * 100_000)
    with pytest.raises(ModelError, match="256 in another"):
        check_openvino(file)


def test_weights_must_be_there_and_in_the_folder(file: Path, tmp_path: Path) -> None:
    weights = file.with_suffix(".bin")
    content = weights.read_bytes()
    weights.unlink()
    with pytest.raises(ModelError, match="0 bytes, of which"):
        check_openvino(file)
    with (tmp_path.parent / f"{tmp_path.name}-elsewhere").open("wb") as stream:
        stream.write(content)
    weights.symlink_to(stream.name)
    with pytest.raises(ModelError, match="leads out of its folder"):
        open_runtime(Servable(file.parent))


def test_layers_of_extensions_are_named_and_refused_unless_trusted(file: Path) -> None:
    replace(file, 'type="MatMul" version="opset1"', 'type="Mine" version="extension"')
    match = r"Mine of extension[\s\S]*--trust-model"
    with pytest.raises(UntrustedModelError, match=match) as caught:
        open_runtime(Servable(file.parent))
    assert caught.value.exit_code == 11
    check_openvino(file, trusted=True)
    with pytest.raises(ModelError, match="can't be loaded by OpenVINO"):
        open_runtime(Servable(file.parent, trusted=True))


def test_notes_may_hold_elements_of_any_name(file: Path) -> None:
    replace(file, "<rt_info>", '<rt_info><layer id="0"/><body/><data offset="x"/>')
    check_openvino(file)

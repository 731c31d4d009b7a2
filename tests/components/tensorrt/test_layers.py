"""Reading of TensorRT's own descriptions of an engine."""

import json

import pytest

from paring.tensorrt.layers import Layer, count_precisions, from_inspector, from_log


def tensor(text: str) -> dict[str, object]:
    return {"Name": "t", "Dimensions": [1, 8], "Format/Datatype": text}


def test_the_inspectors_layers_have_the_types_that_they_compute_in() -> None:
    # In the form of NVIDIA's documentation of the engine inspector.
    content = {
        "Layers": [
            {
                "Name": "conv + relu",
                "LayerType": "CaskConvolution",
                "Inputs": [tensor("Thirty-two wide channel vectorized row major Int8 format")],
                "Outputs": [tensor("Row major linear FP32")],
                "Metadata": "[ONNX Layer: conv]\x1e[ONNX Layer: relu]",
            },
            {"Name": "cast", "LayerType": "Cast", "Inputs": [tensor("Half")], "Outputs": []},
            {"Name": "n", "LayerType": "Shape", "Inputs": [], "Outputs": [tensor("Int64")]},
            {"Name": "signal", "LayerType": "signal", "Inputs": [], "Outputs": []},
        ],
        "Bindings": ["image"],
    }
    assert from_inspector(json.dumps(content)) == [
        Layer("conv + relu", "CaskConvolution", "int8", ("conv", "relu")),
        Layer("cast", "Cast", "float16", ()),
        Layer("n", "Shape", "int64", ()),
        Layer("signal", "signal", "", ()),
    ]


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", '{"Layers": ["conv + relu", "cast"]}'])
def test_another_form_of_the_inspectors_gives_no_layers(text: str) -> None:
    assert from_inspector(text) == []


@pytest.mark.parametrize("text", ["", "Layers:\nconv, 3 x 3", "Layers:\nName: conv\n"])
def test_another_form_of_the_builders_table_gives_no_layers(text: str) -> None:
    assert from_log(text) == []


def test_precisions_are_counted_by_name() -> None:
    assert count_precisions(["int8", "", "float32", "int8"]) == ("float32 1", "int8 2")
    assert count_precisions([]) == ()

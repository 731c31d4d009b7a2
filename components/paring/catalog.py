"""Every step that Paring has, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from paring.errors import ParameterError, nearest
from paring.step import Step
from paring.steps.benchmark import benchmark
from paring.steps.build_tensorrt import build_tensorrt
from paring.steps.check_tpu import check_tpu
from paring.steps.cluster import cluster
from paring.steps.convert_mixed import convert_mixed
from paring.steps.convert_openvino import convert_openvino
from paring.steps.convert_tflite import convert_tflite
from paring.steps.convert_tftrt import convert_tftrt
from paring.steps.distill import distill
from paring.steps.draw_calibration import draw_calibration
from paring.steps.evaluate import evaluate
from paring.steps.export_onnx import export_onnx
from paring.steps.import_examples import import_examples
from paring.steps.import_model import import_model
from paring.steps.optimize_savedmodel import optimize_savedmodel
from paring.steps.profile import profile
from paring.steps.prune import prune
from paring.steps.prune_channels import prune_channels
from paring.steps.push import push
from paring.steps.quantize import quantize
from paring.steps.report import report
from paring.steps.select import select
from paring.steps.split_model import split_model
from paring.steps.tune_batch import tune_batch

STEPS: Final[Mapping[str, Step]] = MappingProxyType(
    {
        step.name: step
        for step in (
            import_model,
            import_examples,
            draw_calibration,
            profile,
            check_tpu,
            prune,
            prune_channels,
            cluster,
            quantize,
            distill,
            convert_tflite,
            convert_mixed,
            optimize_savedmodel,
            split_model,
            export_onnx,
            convert_openvino,
            build_tensorrt,
            convert_tftrt,
            benchmark,
            evaluate,
            tune_batch,
            select,
            report,
            push,
        )
    }
)


def find(name: str) -> Step:
    """Return the step called `name`.

    Raises:
        ParameterError: There is none; the nearest name is given.
    """
    if name not in STEPS:
        raise ParameterError(f"there is no step {name!r}", remedy=nearest(name, STEPS))
    return STEPS[name]

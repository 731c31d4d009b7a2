"""Every step that Paring has, by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from paring.benchmark import benchmark
from paring.build_tensorrt import build_tensorrt
from paring.check_tpu import check_tpu
from paring.cluster import cluster
from paring.convert_mixed import convert_mixed
from paring.convert_openvino import convert_openvino
from paring.convert_tflite import convert_tflite
from paring.convert_tftrt import convert_tftrt
from paring.distill import distill
from paring.draw_calibration import draw_calibration
from paring.errors import ParameterError, nearest
from paring.evaluate import evaluate
from paring.export_onnx import export_onnx
from paring.import_examples import import_examples
from paring.import_model import import_model
from paring.optimize_savedmodel import optimize_savedmodel
from paring.profile import profile
from paring.prune import prune
from paring.prune_channels import prune_channels
from paring.push import push
from paring.quantize import quantize
from paring.report import report
from paring.select import select
from paring.split_model import split_model
from paring.step import Step
from paring.tune_batch import tune_batch

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
    """The step called `name`.

    Raises:
        ParameterError: There is none; the nearest name is given.
    """
    if name not in STEPS:
        raise ParameterError(f"there is no step {name!r}", remedy=nearest(name, STEPS))
    return STEPS[name]

"""Artifacts that pass between steps: a path, and the facts measured about it.

An artifact is a file or folder. Each one that Paring writes is a folder with a
record, `paring.json`, which holds its type, its facts, the digest of its bytes
and its lineage; so an artifact explains itself wherever it is copied to.
"""

from paring.artifacts.artifact import (
    RECORD,
    Artifact,
    Fact,
    Failure,
    artifact_types,
    content_bytes,
    content_digest,
    read_record,
    record_digest,
)
from paring.artifacts.converted import (
    ONNXModel,
    OpenVINOModel,
    TFLiteModel,
    TFTRTModel,
    TRTEngine,
)
from paring.artifacts.examples import CalibrationSet, Examples
from paring.artifacts.findings import (
    BenchmarkMetrics,
    EvaluationMetrics,
    Findings,
    ModelProfile,
    Report,
    RuntimeConfiguration,
    Selection,
    TPUReadiness,
)
from paring.artifacts.models import (
    CORE_DIR,
    DEFAULT_SIGNATURE,
    KERAS_FILE,
    PARTS_DIR,
    SERVING_DIR,
    ChannelPrunedModel,
    ClusteredModel,
    DistilledModel,
    Model,
    PrunedModel,
    PushedModel,
    QuantizedModel,
    SelectedModel,
    Servable,
    ServingModel,
    SplitModel,
)

__all__ = [
    "CORE_DIR",
    "DEFAULT_SIGNATURE",
    "KERAS_FILE",
    "PARTS_DIR",
    "RECORD",
    "SERVING_DIR",
    "Artifact",
    "BenchmarkMetrics",
    "CalibrationSet",
    "ChannelPrunedModel",
    "ClusteredModel",
    "DistilledModel",
    "EvaluationMetrics",
    "Examples",
    "Fact",
    "Failure",
    "Findings",
    "Model",
    "ModelProfile",
    "ONNXModel",
    "OpenVINOModel",
    "PrunedModel",
    "PushedModel",
    "QuantizedModel",
    "Report",
    "RuntimeConfiguration",
    "SelectedModel",
    "Selection",
    "Servable",
    "ServingModel",
    "SplitModel",
    "TFLiteModel",
    "TFTRTModel",
    "TPUReadiness",
    "TRTEngine",
    "artifact_types",
    "content_bytes",
    "content_digest",
    "read_record",
    "record_digest",
]

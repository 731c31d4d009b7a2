"""The pipeline and the Kubeflow that the commands talk to."""

from tests.pipelines.kubeflow.conftest import (
    compiled,
    endpoint,
    examples,
    model,
    optimizing,
    server,
)

__all__ = ["compiled", "endpoint", "examples", "model", "optimizing", "server"]

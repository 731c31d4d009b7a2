"""The Kubeflow that the commands in the pages talk to, and how one is called."""

from tests.pipelines.conftest import paring
from tests.pipelines.kubeflow.conftest import optimizing, server

__all__ = ["optimizing", "paring", "server"]

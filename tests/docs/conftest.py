"""The Kubeflow that the commands in the pages talk to, and how one is called."""

from tests.pipelines.conftest import _step_server, paring
from tests.pipelines.kubeflow.conftest import optimizing, server

__all__ = ["_step_server", "optimizing", "paring", "server"]

"""The ways in which Kubeflow does not do what it is asked."""

from paring.errors import ClusterError


class RefusedError(ClusterError):
    """Kubeflow answered, and refused."""


class AbsentError(RefusedError):
    """Kubeflow does not have it."""


class NotDoneError(ClusterError):
    """Kubeflow did not do what it was asked, and may at another time.

    Attributes:
        wait: Seconds that it asked to be left alone for.
    """

    wait = 0.0


class UnansweredError(ClusterError):
    """Kubeflow did not say whether it did what it was asked."""


class TakenError(RefusedError):
    """Something has the name already."""


class RunFailedError(ClusterError):
    """A run has failed."""

    exit_code = 21


class RunCanceledError(ClusterError):
    """A run was canceled."""

    exit_code = 22


class LockHeldError(ClusterError):
    """Another client is starting the run of this name."""

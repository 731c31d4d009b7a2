"""The ways in which Kubeflow does not do what it is asked."""

from paring.errors import ClusterError


class AbsentError(ClusterError):
    """Kubeflow does not have it."""


class NotDoneError(ClusterError):
    """Kubeflow did not do what it was asked, and may at another time.

    Attributes:
        wait: Seconds that it asked to be left alone for.
    """

    wait = 0.0


class UnansweredError(ClusterError):
    """Kubeflow did not say whether it did what it was asked."""


class TakenError(ClusterError):
    """Something has the name already."""

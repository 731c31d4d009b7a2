"""Errors of requests to Kubeflow."""

from paring.errors import ClusterError


class RefusedError(ClusterError):
    """Kubeflow answered, and refused."""


class NotFoundError(RefusedError):
    """Kubeflow does not have it."""


class RetryableError(ClusterError):
    """Kubeflow did not carry out a request, which can be retried.

    Attributes:
        wait: Seconds that it asked to be left alone for.
    """

    wait = 0.0


class InvalidAnswerError(ClusterError):
    """Something answered, but not as Kubeflow's API does."""


class UnknownOutcomeError(ClusterError):
    """Kubeflow did not answer, or not legibly, so the outcome of a request is unknown."""


class AlreadyExistsError(RefusedError):
    """Something has the name already."""


class RunFailedError(ClusterError):
    """A run has failed."""

    exit_code = 21


class RunCanceledError(ClusterError):
    """A run was canceled."""

    exit_code = 22


class LockHeldError(ClusterError):
    """Another client is starting the run of this name."""

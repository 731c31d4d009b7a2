"""Locks on names in Kubeflow: of several clients, one holds it, until it has expired."""

import threading
import time
from itertools import pairwise

import pytest
from tests.conformance.kfp_server import KfpServer
from tests.pipelines.kubeflow.conftest import TIMEOUT

from paring.errors import ClusterError
from paring_pipelines.kubeflow.client import Kubeflow
from paring_pipelines.kubeflow.connection import Connection
from paring_pipelines.kubeflow.errors import LockHeldError, UnknownOutcomeError

LEASE = 4 * TIMEOUT
CREATE = "POST .*/experiments$"


def _abandon(kubeflow: Kubeflow, name: str, wait: float = 0.0) -> None:
    """Leave a lock behind, as a client does that is killed."""
    with kubeflow.locked(name, wait=wait) as lock:
        lock.outstanding = True


def _locks(server: KfpServer) -> list[str]:
    return [row["name"] for row in server.store.rows("experiment")]


def test_one_client_at_a_time_holds_it(server: KfpServer) -> None:
    inside = most = 0
    guard = threading.Lock()

    def go() -> None:
        nonlocal inside, most
        client = Kubeflow(Connection(server.url, timeout=5.0, first_wait=0.01))
        with client.locked("a"):
            with guard:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with guard:
                inside -= 1

    threads = [threading.Thread(target=go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert _locks(server) == []


def test_other_names_are_free(kubeflow: Kubeflow) -> None:
    with (
        kubeflow.locked("a"),
        kubeflow.locked("b"),
        pytest.raises(LockHeldError, match="a"),
        kubeflow.locked("a", wait=0.0),
    ):
        pass


def test_an_expired_lock_is_taken_over_once(server: KfpServer, kubeflow: Kubeflow) -> None:
    _abandon(kubeflow, "a")
    start = time.monotonic()
    got: list[float] = []

    def go() -> None:
        client = Kubeflow(Connection(server.url, timeout=TIMEOUT, first_wait=0.01))
        with client.locked("a", wait=4 * LEASE):
            got.append(time.monotonic())
            time.sleep(0.1)

    threads = [threading.Thread(target=go) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got.sort()
    assert got[0] - start >= LEASE
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(got))
    assert _locks(server) == []


def test_a_lock_that_is_old_by_kubeflows_clock_is_not_waited_for(
    server: KfpServer, kubeflow: Kubeflow
) -> None:
    _abandon(kubeflow, "a")
    (lock,) = server.store.rows("experiment")
    server.store.change("experiment", lock["experiment_id"], {"created_at": "2020-01-01T00:00:00Z"})
    with kubeflow.locked("a", wait=0.0):
        pass


@pytest.mark.parametrize(
    "faults",
    [
        ["429"],
        ["500"],
        ["500 after"],
        ["503"],
        ["stall"],
        ["stall after"],
        ["taken"],
        ["dropped"],
        ["dropped after"],
        ["cut"],
        ["503", "500 after"],
    ],
)
def test_whatever_becomes_of_the_request_the_lock_is_had(
    faults: list[str], server: KfpServer, kubeflow: Kubeflow
) -> None:
    server.faults.planned = [(CREATE, fault) for fault in faults]
    with kubeflow.locked("a", wait=0.0):
        assert server.faults.planned == []
        assert len(_locks(server)) == 1
    assert _locks(server) == []


def test_a_refusal_is_passed_on(server: KfpServer, kubeflow: Kubeflow) -> None:
    server.faults.planned = [(CREATE, "503")] * 20
    with pytest.raises(ClusterError, match="503"), kubeflow.locked("a"):
        pass


def test_a_lock_with_a_request_under_way_is_left_to_expire(
    server: KfpServer, kubeflow: Kubeflow
) -> None:
    def answered_by_nobody() -> None:
        with kubeflow.locked("a") as lock:
            lock.outstanding = True
            raise UnknownOutcomeError("no answer")

    with pytest.raises(UnknownOutcomeError):
        answered_by_nobody()
    assert len(_locks(server)) == 1


def test_a_holder_that_was_stopped_does_not_delete_the_lock_of_another(
    server: KfpServer, kubeflow: Kubeflow
) -> None:
    with kubeflow.locked("a") as lock:
        time.sleep(LEASE)
        assert lock.left <= 0
        _abandon(kubeflow, "a", wait=4 * LEASE)
    assert len(_locks(server)) == 1

"""Machines that train together, as TF_CONFIG names them."""

import json

import pytest

from paring.errors import ParameterError
from paring.system.workers import Workers, read_workers


def _config(cluster: object, task: object) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def test_without_the_variable_there_are_no_workers() -> None:
    assert read_workers({}) is None
    assert read_workers({"TF_CONFIG": " "}) is None
    # What a job of a single task is given.
    assert read_workers({"TF_CONFIG": '{"environment": "cloud"}'}) is None


def test_workers_are_in_the_order_of_the_cluster() -> None:
    cluster = {"worker": ["a:1", "b:1"]}
    second = read_workers(_config(cluster, {"type": "worker", "index": 1}))
    assert second == Workers(("a:1", "b:1"), 1)
    assert not second.leads
    # Kubeflow writes numbers, others text.
    first = read_workers(_config(cluster, {"type": "worker", "index": "0"}))
    assert first is not None
    assert first.leads


def test_a_chief_is_the_first_of_them() -> None:
    cluster = {"worker": ["a:1", "b:1"], "chief": ["c:1"]}
    chief = read_workers(_config(cluster, {"type": "chief", "index": 0}))
    assert chief == Workers(("c:1", "a:1", "b:1"), 0)
    worker = read_workers(_config(cluster, {"type": "worker", "index": 0}))
    assert worker is not None
    assert worker.index == 1
    assert not worker.leads


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "not what TensorFlow takes"),
        ("[]", "not what TensorFlow takes"),
        ('{"cluster": {"worker": ["a:1"]}}', "not what TensorFlow takes"),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
            "worker 1 of a:1",
        ),
        (
            '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}}',
            "tasks of type ps",
        ),
    ],
)
def test_what_cannot_be_taken_is_named(text: str, named: str) -> None:
    with pytest.raises(ParameterError, match=named) as caught:
        read_workers({"TF_CONFIG": text})
    assert "TF_CONFIG" in str(caught.value)

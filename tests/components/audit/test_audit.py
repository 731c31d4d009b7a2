import pytest

from paring.audit import RULES, Subject, audit
from paring.audit.finding import graded, places


@pytest.mark.parametrize("model", ["digits_subject", "mobilenet"])
def test_in_a_sound_network_nothing_is_found(model: str, request: pytest.FixtureRequest) -> None:
    subject: Subject = request.getfixturevalue(model)
    assert audit(subject) == []


def test_every_rule_is_asked_once() -> None:
    names = [rule.__name__ for rule in RULES]
    assert len(set(names)) == len(names) == 19


def test_severity_follows_the_share() -> None:
    assert [graded(item) for item in (0.0, 0.049, 0.05, 0.249, 0.25, 1.0)] == [
        *("low", "low", "medium", "medium", "high", "high")
    ]


def test_many_places_are_counted() -> None:
    assert places(["a", "b", "c"]) == "a, b, c"
    assert places(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"

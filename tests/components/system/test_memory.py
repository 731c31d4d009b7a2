"""Collections of garbage within a context, and what of it stays when it ends."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from paring.system.memory import frequent_collection, release_memory


class Circle:
    """An object that refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def nothing_frozen() -> Iterator[None]:
    """No frozen objects; afterwards those are that were frozen before, and others."""
    frozen = gc.get_freeze_count()
    gc.unfreeze()
    yield
    gc.unfreeze()
    if frozen:
        gc.freeze()


@pytest.mark.usefixtures("nothing_frozen")
def test_objects_of_before_are_left_out_within_it_alone() -> None:
    with frequent_collection():
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0


@pytest.mark.usefixtures("nothing_frozen")
def test_what_was_frozen_stays_frozen_and_no_more_is() -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    alive = Circle()
    result = weakref.ref(alive)
    with frequent_collection():
        assert gc.get_freeze_count() <= before
    # Some of those that are frozen may have ended with their last reference.
    assert before - 1000 < gc.get_freeze_count() <= before
    del alive
    release_memory()
    assert result() is None

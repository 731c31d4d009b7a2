"""Imports of the tests' own modules."""

from importlib.util import find_spec
from pathlib import Path

import pytest


def test_they_are_found_after_the_path_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Python then looks for all folders called tests again, and libraries install some.
    monkeypatch.syspath_prepend(tmp_path)
    assert find_spec("tests.conformance.kfp_runner")

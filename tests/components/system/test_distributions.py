"""Versions, also of libraries that are installed as another distribution."""

import importlib.metadata
from pathlib import Path

import pytest

from paring.system.distributions import installed_version


def test_a_distribution_is_known_by_its_name() -> None:
    assert installed_version("tensorflow") == importlib.metadata.version("tensorflow")


def test_what_is_not_installed_has_no_version() -> None:
    assert installed_version("no-such-distribution") is None


def test_a_variant_counts_as_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "tensorflow_cpu-2.21.0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorflow-cpu\nVersion: 2.21.0\n")
    # As in an image for the CPU, which has no distribution `tensorflow`.
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert installed_version("tensorflow") == "2.21.0"

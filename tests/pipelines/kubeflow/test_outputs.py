"""Finished and unfinished outputs of training."""

import os
from pathlib import Path

import pytest

from paring.errors import ParameterError
from paring_pipelines.kubeflow.outputs import Found, find_outputs

NOW = 1_000_000.0


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    return tmp_path / "models"


def _write(file: Path, modified: float = NOW - 100) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(file.name)
    os.utime(file, (modified, modified))


def _find(prefix: Path, marker: str = "", settle: float = 60.0) -> Found:
    return find_outputs(str(prefix), marker=marker, settle=settle, now=NOW)


def test_the_pushers_versions_are_found_in_the_order_in_which_they_ended(prefix: Path) -> None:
    _write(prefix / "digits" / "20" / "saved_model.pb", NOW - 300)
    _write(prefix / "digits" / "20" / "variables" / "variables.index", NOW - 200)
    _write(prefix / "digits" / "10" / "saved_model.pb", NOW - 100)
    _write(prefix / "digits" / "latest" / "saved_model.pb")
    _write(prefix / "digits" / "30" / "checkpoint")
    result = _find(prefix)
    assert [item.uri for item in result.finished] == [
        str(prefix / "digits" / "20"),
        str(prefix / "digits" / "10"),
    ]
    assert [item.completed for item in result.finished] == [NOW - 200, NOW - 100]


def test_only_numbers_as_the_pusher_writes_them_are_versions(prefix: Path) -> None:
    for name in ("²", "٣", "007", "-1", "1e3", "0", "12"):
        _write(prefix / name / "saved_model.pb")
    result = _find(prefix)
    assert {item.uri for item in result.finished} == {str(prefix / "0"), str(prefix / "12")}


def test_a_file_is_no_source(prefix: Path) -> None:
    _write(prefix)
    with pytest.raises(ParameterError, match="--source: this is a file"):
        _find(prefix)


def test_a_version_that_is_being_copied_is_not_finished(prefix: Path) -> None:
    _write(prefix / "1" / "saved_model.pb")
    _write(prefix / "1" / "variables" / "variables.data-00000-of-00001", NOW - 59)
    result = _find(prefix)
    assert (result.finished, result.unsettled) == ([], [str(prefix / "1")])
    assert _find(prefix, settle=30.0).unsettled == []


def test_with_a_marker_it_alone_decides(prefix: Path) -> None:
    _write(prefix / "run-a" / "saved_model.pb", NOW)
    _write(prefix / "run-a" / "_SUCCESS", NOW - 5)
    _write(prefix / "7" / "saved_model.pb")
    (only,) = _find(prefix, marker="_SUCCESS").finished
    assert (only.uri, only.completed) == (str(prefix / "run-a"), NOW - 5)


def test_an_output_that_is_written_anew_is_another(prefix: Path) -> None:
    _write(prefix / "1" / "saved_model.pb")
    (before,) = _find(prefix).finished
    assert _find(prefix).finished == [before]
    _write(prefix / "1" / "saved_model.pb", NOW - 90)
    (after,) = _find(prefix).finished
    assert after.key != before.key


def test_where_nothing_is_nothing_is_found(prefix: Path) -> None:
    assert _find(prefix).finished == []

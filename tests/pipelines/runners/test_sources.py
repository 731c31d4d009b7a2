"""Sources of a run that can't be read: whose error it is."""

import os
from pathlib import Path

import pytest

from paring.errors import ExamplesError, ModelError
from paring_pipelines.runners.session import opened


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    model, examples = tmp_path / "model", tmp_path / "examples"
    model.mkdir()
    examples.mkdir()
    return model, examples


def test_examples_with_a_link_that_leads_out_are_an_error_of_examples(
    tmp_path: Path, sources: tuple[Path, Path]
) -> None:
    (sources[1] / "train.tfrecord").symlink_to("/etc/hostname")
    with (
        pytest.raises(ExamplesError, match="leads out of its folder"),
        opened(*sources, out=tmp_path / "out"),
    ):
        pass


@pytest.mark.parametrize(("name", "error"), [("model", ModelError), ("examples", ExamplesError)])
def test_a_pipe_is_refused_and_not_waited_for(
    tmp_path: Path, sources: tuple[Path, Path], name: str, error: type[Exception]
) -> None:
    (tmp_path / name).rmdir()
    os.mkfifo(tmp_path / name)
    with (
        pytest.raises(error, match=f"{name} is neither a file nor a folder"),
        opened(*sources, out=tmp_path / "out"),
    ):
        pass

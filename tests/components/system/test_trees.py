"""Links that lead out of a folder are refused wherever it is read or copied."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from paring.artifacts import content_bytes, content_digest
from paring.data.example_files import locate
from paring.errors import ExamplesError, ModelError, StorageError
from paring.execution import Call, execute
from paring.steps.import_examples import import_examples
from paring.steps.import_model import import_model
from paring.storage import put
from paring.system.trees import copy_tree, tree_files

Change = Callable[[Path], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("secret")
    inside = tmp_path / "model"
    (inside / "variables").mkdir(parents=True)
    (inside / "assets").mkdir()
    (inside / "saved_model.pb").write_bytes(b"graph")
    (inside / "variables" / "data").write_bytes(b"weights")
    return inside


def leaving(folder: Path) -> None:
    (folder / "assets" / "link").symlink_to("../../secret/key")


def leaving_by_a_folder(folder: Path) -> None:
    (folder / "extra").symlink_to(folder.parent / "secret", target_is_directory=True)


def leaving_by_two_links(folder: Path) -> None:
    (folder.parent / "hop").symlink_to(folder.parent / "secret")
    (folder / "extra").symlink_to("../hop/key")


def leading_to_the_root(folder: Path) -> None:
    (folder / "extra").symlink_to("/")


def leading_to_itself(folder: Path) -> None:
    (folder / "extra").symlink_to(".")


def in_a_circle(folder: Path) -> None:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to("one")


def leading_nowhere(folder: Path) -> None:
    (folder / "extra").symlink_to("absent")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


LINKS = (
    *(leaving, leaving_by_a_folder, leaving_by_two_links, leading_to_the_root),
    *(leading_to_itself, in_a_circle, leading_nowhere, pipe),
)


@pytest.mark.parametrize("link", LINKS)
def test_what_leads_out_is_refused_and_nothing_is_copied(
    tmp_path: Path, folder: Path, link: Change
) -> None:
    link(folder)
    for action in (
        lambda: copy_tree(folder, tmp_path / "copy"),
        lambda: content_digest(folder),
        lambda: content_bytes(folder),
        lambda: execute(import_model, Call({"original": folder}, {"model": tmp_path / "out"})),
    ):
        with pytest.raises(ModelError, match=r"link|neither"):
            action()
    with pytest.raises(StorageError, match=r"link|neither"):
        put(folder, str(tmp_path / "pushed"))
    for name in ("copy", "out", "pushed"):
        assert not (tmp_path / name).exists()


@pytest.mark.parametrize("link", [leaving, leaving_by_a_folder, leading_to_the_root])
def test_examples_with_links_that_lead_out_are_refused(
    tmp_path: Path, folder: Path, link: Change
) -> None:
    link(folder)
    np.save(folder / "x.npy", np.zeros(3))
    with pytest.raises(ExamplesError, match="leads out of its folder"):
        locate(folder)
    model = tmp_path / "source"
    model.mkdir()
    call = Call({"original": folder, "model": model}, {"examples": tmp_path / "out"})
    with pytest.raises(ExamplesError, match="leads out of its folder"):
        execute(import_examples, call)


def test_a_link_of_examples_to_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "other.npy", np.zeros(3))
    folder = tmp_path / "examples"
    folder.mkdir()
    (folder / "x.npy").symlink_to("../other.npy")
    with pytest.raises(ExamplesError, match=r"x\.npy is a link that leads out"):
        locate(folder)


def test_links_inside_become_files(tmp_path: Path, folder: Path) -> None:
    (folder / "again.pb").symlink_to("saved_model.pb")
    (folder / "also").symlink_to("variables", target_is_directory=True)
    # The folder itself may be reached by a link.
    reached = tmp_path / "latest"
    reached.symlink_to(folder)
    names = ["again.pb", "also/data", "saved_model.pb", "variables/data"]
    assert [name for name, _ in tree_files(reached)] == names
    copy = tmp_path / "copy"
    copy_tree(reached, copy)
    assert not any(path.is_symlink() for path in copy.rglob("*"))
    assert (copy / "also" / "data").read_bytes() == b"weights"
    assert (copy / "assets").is_dir()
    assert content_digest(copy) == content_digest(folder)
    put(folder, str(tmp_path / "pushed"))
    assert content_digest(tmp_path / "pushed") == content_digest(folder)


def test_links_that_make_a_folder_endless_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "model"
    for level in range(30):
        (root / f"level-{level}").mkdir(parents=True)
        for name in ("left", "right"):
            (root / f"level-{level}" / name).symlink_to(f"../level-{level + 1}")
    (root / "level-30").mkdir()
    monkeypatch.setattr("paring.system.trees._MAX_ENTRIES", 5_000)
    with pytest.raises(ModelError, match="more than 5,000 files"):
        tree_files(root)


def test_a_digest_depends_on_names_and_bytes_as_before(folder: Path) -> None:
    # Recorded digests stay valid.
    assert content_digest(folder) == (
        "sha256:c3910a9cb3b44088ee27d8f791f208058cce5aeb58cdbb4c16dba017c8aa1987"
    )

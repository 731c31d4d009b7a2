"""One search on a tiny model: killed, taken up, interrupted, and brought to its end."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from paring.artifacts import Examples, content_digest
from paring.serving.versions import versions
from paring_pipelines.cli.main import main
from paring_pipelines.search.loop import JOURNAL

INT8 = '{ step = "convert_tflite", quantization = "int8" }'
RECIPES = "\n".join(
    f'[recipes.{step}]\nsteps = [{{ step = "{step}", epochs = 1 }}, {INT8}]'
    for step in ("prune", "cluster", "quantize")
)


class Ended(NamedTuple):
    """End of a search: its exit code, and all that it showed."""

    code: int
    shown: str


@dataclass
class Story:
    """Files after each of the three processes.

    Attributes:
        arguments: Of the command, but for the budget.
        out: The results' folder.
        killed, interrupted, ended: The journal's content after each.
        first, first_report: `selection.json` and the report when the first was killed.
        second, third: How the interrupted one and the one after it ended.
        served: Where the result is pushed to.
        served_early: Whether anything was there before the search had ended.
    """

    arguments: list[str]
    out: Path
    killed: dict[str, Any]
    interrupted: dict[str, Any]
    ended: dict[str, Any]
    first: dict[str, Any]
    first_report: str
    second: Ended
    third: Ended
    served: Path
    served_early: bool


def _write_sources(folder: Path) -> list[str]:
    """A dense network on 8x8 digits, and the options that name it."""
    import tf_keras
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32)
    tf_keras.utils.set_random_seed(0)
    image = tf_keras.Input((64,), name="image")
    hidden = tf_keras.layers.Dense(16, "relu")(image)
    digit = tf_keras.layers.Dense(10, "softmax", name="digit")(hidden)
    network = tf_keras.Model(image, digit)
    network.compile(tf_keras.optimizers.Adam(5e-3), "sparse_categorical_crossentropy")
    network.fit(images[:1200], labels[:1200], epochs=10, verbose=0)
    network.save(folder / "model", save_format="tf", include_optimizer=False)
    np.savez(
        folder / "digits.npz",
        **{"x_train": images[:1200], "y_train": labels[:1200]},
        **{"x_eval": images[1200:], "y_eval": labels[1200:]},
    )
    (folder / "recipes.toml").write_text(RECIPES)
    return [
        *("run", "--model", str(folder / "model"), "--examples", str(folder / "digits.npz")),
        *("--recipes", str(folder / "recipes.toml"), "--out", str(folder / "out")),
        *("--push-to", str(folder / "served"), "--push-source"),
        *("--max-accuracy-drop", "0.2", "--brief", "--budget-minutes"),
    ]


def _read(file: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return result


def _search_until(node: str, journal: Path, sent: signal.Signals, arguments: list[str]) -> Ended:
    """Start a search; send it a signal once a node that matches is in the journal."""
    command = [sys.executable, "-m", "paring_pipelines.cli.main", *arguments]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    while not any(re.match(node, name) for name in _read(journal).get("nodes", {})):
        assert child.poll() is None, child.communicate()[0]
        time.sleep(0.05)
    os.killpg(child.pid, sent)
    shown, _ = child.communicate()
    return Ended(child.returncode, shown)


def _search_here(arguments: list[str]) -> Ended:
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(shown), pytest.raises(SystemExit) as ended:
        main(arguments)
    return Ended(int(ended.value.code or 0), shown.getvalue())


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Play the search once for all tests of this file."""
    folder = tmp_path_factory.mktemp("search")
    arguments = _write_sources(folder)
    out = folder / "out"
    journal = out / "pipeline" / JOURNAL
    _search_until("convert_tflite-quantize", journal, signal.SIGKILL, [*arguments, "600"])
    killed, first = _read(journal), _read(out / "selection.json")
    first_report = (out / "report.html").read_text()
    # In the fourth round, whose recipes are variants of whichever recipe was measured best.
    second = _search_until(r"(\w+)-\1-v", journal, signal.SIGINT, [*arguments, "600"])
    interrupted = _read(journal)
    served_early = (folder / "served").exists()
    # No time is left of so small a budget, so it ends at once.
    third = _search_here([*arguments, "0.01"])
    return Story(
        arguments,
        out,
        killed,
        interrupted,
        _read(journal),
        first,
        first_report,
        second,
        third,
        folder / "served",
        served_early,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_search_leaves_the_best_so_far(story: Story) -> None:
    assert len(story.killed["done"]) == 1
    assert story.first["selected"] == "source"
    assert story.first["search"]["stopped"] is None
    assert "was still going on" in story.first_report
    assert "--budget-minutes 600" in story.first_report


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_that_was_killed_or_interrupted_does_no_complete_node_again(
    story: Story,
) -> None:
    # A node that ran again would have another time in the journal. The last one had
    # reported that it was done, but the metadata may not have had it when the kill came.
    *complete, _ = story.killed["nodes"]
    assert any(name.startswith("quantize-") for name in complete)
    for before, after, names in (
        (story.killed, story.interrupted, complete),
        (story.interrupted, story.ended, list(story.interrupted["nodes"])),
    ):
        result = {name: after["nodes"].get(name) for name in names}
        assert result == {name: before["nodes"][name] for name in names}
        assert after["done"][: len(before["done"])] == before["done"]
    new = set(story.ended["nodes"]) - set(story.interrupted["nodes"])
    assert {name.partition(":")[0] for name in new} == {"select", "report", "push"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ctrl_c_says_what_is_in_place_and_that_it_can_go_on(story: Story) -> None:
    code, shown = story.second
    # Python ends by the signal itself where that came while it ran a text as code;
    # a shell makes 130 of both.
    assert code in (130, -signal.SIGINT), shown
    assert "the best so far is in place, and the same command goes on" in shown
    assert "round 2, screening on 480 examples: quantize, prune, cluster" in shown
    assert "Traceback" not in shown


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_rounds_are_those_of_the_plan_and_are_told(story: Story) -> None:
    assert story.third.code == 0, story.third.shown
    selection = _read(story.out / "selection.json")
    result = selection["search"]
    assert result["stopped"].startswith("the time is up")
    assert [item["stage"] for item in result["rounds"]] == ["post-training", "screening", "whole"]
    assert [item["train_examples"] for item in result["rounds"]] == [None, 480, None]
    (finalist,) = (item["id"] for item in result["rounds"][2]["tried"])
    assert {candidate["id"] for candidate in selection["candidates"]} == {"source", finalist}
    assert result["stopped"] in story.third.shown
    report = (story.out / "report.html").read_text()
    assert "How the search went" in report


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_only_what_the_whole_search_comes_to_is_pushed(story: Story) -> None:
    assert not story.served_early
    (version,) = versions(str(story.served))
    assert version.candidate == _read(story.out / "selection.json")["selected"]
    assert f"pushed    {story.served}/1" in story.third.shown


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_screening_looks_at_no_example_of_the_gates(story: Story) -> None:
    folders = (story.out / "pipeline" / "artifacts" / "import_examples" / "examples").iterdir()
    result = [Examples.load(folder) for folder in folders if not folder.name.startswith(".")]
    (whole,) = (item for item in result if item.train_count == 1200)
    (part,) = (item for item in result if item.train_count == 480)

    def rows(examples: Examples, split: str) -> set[bytes]:
        images = np.load(examples.path / f"Split-{split}" / "image.npy")
        return {image.tobytes() for image in images}

    assert part.eval_count == 240
    assert rows(part, "eval") <= rows(whole, "train")
    assert not rows(part, "eval") & rows(part, "train")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_that_has_ended_changes_nothing_when_repeated(story: Story) -> None:
    before = content_digest(story.out / "selected"), _read(story.out / "selection.json")
    code, shown = _search_here([*story.arguments, "0.01"])
    assert code == 0
    assert "nodes were cached" in shown
    assert before == (content_digest(story.out / "selected"), _read(story.out / "selection.json"))


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_a_budget_that_is_no_time_is_refused(minutes: str, tmp_path: Path) -> None:
    code, shown = _search_here(
        [
            *("run", "--model", str(tmp_path), "--examples", str(tmp_path)),
            *("--out", str(tmp_path / "out"), "--budget-minutes", minutes),
        ]
    )
    assert code == 2
    assert "--budget-minutes" in shown
    assert "to fix it:" in shown
    assert not (tmp_path / "out").exists()

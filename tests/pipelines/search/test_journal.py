"""Journal of a search: complete after each write, and of this search alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from paring.errors import OutputError
from paring.selection.pareto import SOURCE, Measured
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.search.cost import Work
from paring_pipelines.search.journal import Journal, open_journal, search_key
from paring_pipelines.search.results import Done, Result, Round

RECIPES = tuple(load_recipes())
DIGESTS = {"model": "sha256:1", "examples": "sha256:2"}


def _journal(file: Path) -> Journal:
    measured = Measured(SOURCE, 0.0, 2.5, 1.0, 0.9, 1.1, 400, None)
    results = {
        SOURCE: Result("passed", (), measured),
        "prune-int8": Result("rejected", ("drops accuracy",), Measured("prune-int8")),
    }
    round_ = Round("screening", RECIPES, "because", 250, base="")
    nodes = {"prune-a:1f": (Work("prune", False, 500), 3.5), "quantize-b:2e": None}
    return Journal(file, "key", 61.5, 1000, 200, "int8 is best", [Done(round_, results, 4)], nodes)


def test_a_journal_comes_back_as_it_was_written(tmp_path: Path) -> None:
    journal = _journal(tmp_path / "search.json")
    journal.save()
    assert open_journal(journal.file, "key") == journal
    assert journal.times == [(Work("prune", False, 500), 3.5)]
    assert [path.name for path in tmp_path.iterdir()] == ["search.json"]


def test_the_journal_of_another_search_is_not_taken_up(tmp_path: Path) -> None:
    journal = _journal(tmp_path / "search.json")
    journal.save()
    assert open_journal(journal.file, "other") == Journal(journal.file, "other")
    assert open_journal(tmp_path / "absent", "key") == Journal(tmp_path / "absent", "key")


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1, "key": "key"}'])
def test_a_broken_journal_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "search.json"
    file.write_text(text)
    with pytest.raises(OutputError, match="can't be read") as caught:
        open_journal(file, "key")
    assert str(file) in caught.value.received
    assert "delete" in caught.value.remedy


def test_the_budget_the_title_and_the_command_make_no_other_search() -> None:
    settings = Settings(title="a", command="paring run --budget-minutes 1")
    key = search_key(RECIPES, settings, digests=DIGESTS, machine="machine")
    assert key == search_key(
        RECIPES, replace(settings, title="b", command=""), digests=DIGESTS, machine="machine"
    )
    for other in (
        search_key(RECIPES[1:], settings, digests=DIGESTS, machine="machine"),
        search_key(
            RECIPES, replace(settings, max_accuracy_drop=0.02), digests=DIGESTS, machine="machine"
        ),
        search_key(RECIPES, settings, digests=DIGESTS | {"model": "sha256:3"}, machine="machine"),
        search_key(RECIPES, settings, digests=DIGESTS, machine="another"),
    ):
        assert other != key

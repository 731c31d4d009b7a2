"""The pages of the API reference name all that is public."""

import re
from pathlib import Path

import pytest

import paring
from paring.artifacts import artifact_types
from paring.catalog import STEPS

PAGES = Path(__file__).parents[2] / "docs/reference"


def _documented(page: str) -> set[str]:
    return set(re.findall(r"^::: (\S+)$", (PAGES / page).read_text(), re.MULTILINE))


def test_every_step_is_there_in_the_order_of_the_docs() -> None:
    text = (PAGES / "steps.md").read_text()
    named = re.findall(r"^::: paring\.steps\.(\w+)\.(\w+)$", text, re.MULTILINE)
    assert named == [(name, name) for name in STEPS]


def test_every_artifact_type_is_there() -> None:
    named = {item.rpartition(".")[2] for item in _documented("artifacts.md")}
    ours = {
        name for name, made in artifact_types().items() if made.__module__.startswith("paring.")
    }
    assert ours
    assert named >= ours


@pytest.mark.parametrize("name", sorted(set(paring.__all__) - {"__version__", "ParingError"}))
def test_every_public_name_is_there(name: str) -> None:
    documented = set().union(*(_documented(page.name) for page in PAGES.iterdir()))
    assert name in {item.rpartition(".")[2] for item in documented}

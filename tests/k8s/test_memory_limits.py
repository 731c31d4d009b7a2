"""The memory that k8s/runtime.toml gives each step, held to the table in docs/kubeflow.md."""

import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from paring.catalog import STEPS
from paring_pipelines.kubeflow.formats import quantity

_ROOT = Path(__file__).parents[2]
_HEADROOM = 1.5
_ROW = re.compile(r"^\| `(\w+)`([^|]*)\| ([\d.–]*) \| ([\d.–]*) \| ([\d.–]*) \|$", re.MULTILINE)
_PAGE = (_ROOT / "docs" / "kubeflow.md").read_text()
_PEAKS = {
    f"{step}{variant}".strip(): (step, [float(peak) for peak in peaks if peak not in ("", "–")])
    for step, variant, *peaks in _ROW.findall(_PAGE)
}


def _limits(step: str) -> list[float]:
    """The limit of a step for processors, in bytes, and where a target has another."""
    runtime = tomllib.loads((_ROOT / "k8s" / "runtime.toml").read_text())
    limit = runtime["defaults"]["memory_limit"]
    for rule in runtime["place"]:
        if fnmatchcase(step, rule.get("step", "")):
            limit = rule.get("memory_limit", limit)
    others = [
        rule["memory_limit"]
        for target in runtime["targets"].values()
        for rule in target["place"]
        if fnmatchcase(step, rule["step"]) and "memory_limit" in rule
    ]
    return [quantity(text) for text in (limit, *others)]


@pytest.mark.parametrize("name", [name for name, (_, peaks) in _PEAKS.items() if peaks])
def test_a_step_has_half_as_much_again_as_it_took(name: str) -> None:
    step, peaks = _PEAKS[name]
    assert max(peaks) * 1e9 * _HEADROOM <= min(_limits(step))


def test_the_table_has_every_step_that_loads_a_model() -> None:
    # These move files about, or need what the machine of the table has not.
    light = {"select", "report", "push", "convert_tftrt"}
    assert {step for step, _ in _PEAKS.values()} >= set(STEPS) - light

"""Refusal of engines on machines that they were not built for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paring.errors import ModelError, UnsupportedError
from paring.tensorrt.conditions import Conditions, check_conditions, read_conditions
from paring.tensorrt.driver import Gpu
from paring.tensorrt.library import Library

L4 = Gpu("NVIDIA L4", "8.9", "580.82.07")
BUILT = Conditions("server", "10.13.0.35", "8.9", "NVIDIA L4", "580.82.07", max_batch=64)
STATED = Conditions("rtx", "1.7.1.116", "8.9")


def check(
    conditions: Conditions, gpu: Gpu = L4, version: str | None = None, **changes: Any
) -> None:
    changed = replace(conditions, **changes)
    library = Library(changed.product, None, version or conditions.tensorrt_version)
    check_conditions(Path("model.engine"), changed, library, gpu)


def test_an_engine_loads_on_what_it_was_built_for() -> None:
    check(BUILT)
    check(STATED)
    check(BUILT, replace(L4, driver_version="580.95.05"))
    # Where the driver is not known, nothing is said of it.
    check(BUILT, replace(L4, driver_version=""))
    # Any model of the compute capability will do.
    check(STATED, Gpu("NVIDIA GeForce RTX 4090", "8.9", "575.51"))


@pytest.mark.parametrize(
    ("conditions", "gpu", "version", "words"),
    [
        (BUILT, L4, "10.13.1.1", "built with TensorRT 10.13.0.35, and here is 10.13.1.1"),
        (STATED, L4, "1.8.0.1", "built with TensorRT for RTX 1.7.1.116, and here is 1.8.0.1"),
        (BUILT, Gpu("NVIDIA L40S", "8.9", "580.82.07"), None, "on NVIDIA L4, and here is .* L40S"),
        (BUILT, Gpu("Tesla T4", "7.5", "580.82.07"), None, "for compute capability 8.9, .* 7.5"),
        (STATED, Gpu("NVIDIA A10", "8.6", ""), None, "compute capability 8.9, and here .* 8.6"),
        (BUILT, replace(L4, driver_version="550.54"), None, "driver 580.82.07, .* older 550.54"),
    ],
)
def test_what_does_not_match_is_refused_with_both_sides(
    conditions: Conditions, gpu: Gpu, version: str | None, words: str
) -> None:
    with pytest.raises(UnsupportedError, match=words):
        check(conditions, gpu, version)


def test_all_that_does_not_match_is_named() -> None:
    with pytest.raises(UnsupportedError, match=r"TensorRT 10\.13.*; .*capability.*; .*driver"):
        check(BUILT, Gpu("Tesla T4", "7.5", "450.1"), "10.12.0")


def test_compatible_engines_load_more_widely() -> None:
    check(BUILT, version="10.14.0", version_compatible=True)
    for version in ("10.12.0", "11.0.0"):
        with pytest.raises(UnsupportedError, match=r"for that or a later 10\.x"):
            check(BUILT, version=version, version_compatible=True)
    l40s = Gpu("NVIDIA L40S", "8.9", "580.82.07")
    check(BUILT, l40s, hardware_compatibility="same_compute_capability")
    h100 = Gpu("NVIDIA H100", "9.0", "580.82.07")
    check(BUILT, h100, hardware_compatibility="ampere_plus")
    with pytest.raises(UnsupportedError, match=r"8\.9, and here is NVIDIA H100"):
        check(BUILT, h100, hardware_compatibility="same_compute_capability")
    with pytest.raises(UnsupportedError, match=r"8\.0 and above"):
        check(BUILT, Gpu("Tesla T4", "7.5", ""), hardware_compatibility="ampere_plus")


def test_conditions_are_read_as_they_were_written(tmp_path: Path) -> None:
    BUILT.write(tmp_path)
    assert read_conditions(tmp_path / "model.engine") == BUILT


@pytest.mark.parametrize(
    "content", [None, "no JSON", "[]", "{}", '{"colour": 1}', '{"product": "x"}']
)
def test_an_engine_without_its_conditions_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "engine.json").write_text(content)
    with pytest.raises(ModelError, match="what it was built for can't be read"):
        read_conditions(tmp_path / "model.engine")
    replace(BUILT, product="desktop").write(tmp_path)
    with pytest.raises(ModelError, match=r"no such product[\s\S]*desktop"):
        read_conditions(tmp_path / "model.engine")

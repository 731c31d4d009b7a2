import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "text_audit.py"


@pytest.fixture
def example() -> Any:
    spec = importlib.util.spec_from_file_location("text_audit", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up.
    sys.modules["text_audit"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["text_audit"]


@pytest.mark.slow
def test_what_the_audit_finds_is_applied_and_changes_no_answer(
    example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = example.Sizes(tokens=8, vocabulary=200, units=16, hidden=32, texts=8)
    ids = example.write_examples(sizes, tmp_path / "examples.npz")
    first, *between, last = example.improve(sizes, ids, tmp_path)
    rules = {"both_branches", "dropout_in_serving", "float64", "int64_indices"}
    assert set(last.fixes) == rules | {"one_hot_product", "unrolled_loop"}
    assert len(between) == len(last.fixes) - 1
    assert last.left == ()
    assert last.operators < first.operators / 2
    assert first.difference > example.TOLERANCE
    assert all(stage.difference < example.TOLERANCE for stage in [*between, last])
    shown = capsys.readouterr().out
    assert all(f"{rule} at" in shown for rule in last.fixes)
    timing = {"rounds": 2, "windows": 1, "min_seconds": 0.1}
    metrics = example.timed(last, first, tmp_path / "examples.npz", **timing)
    assert metrics.speedup > 0

"""Accuracy, size and speed of each way of compressing a model, on digits and harder data.

    python benchmarks/compression.py [--data digits|letters] [--work DIR]

Trains a model on each data set, has `paring run` try compression.toml on it, and prints
a row a recipe: accuracy and its drop, the size, the size after gzip and how many times
smaller that is than the SavedModel's, parameters, floating-point operations, and the
speed-up over the SavedModel in the same run. The digits come with scikit-learn; the
letters are drawn in fonts that come with matplotlib. What is there already is not made
again. Figures are also written as JSON.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import letters
import numpy as np

from paring.artifacts import Model, content_digest, read_record
from paring.execution import environment
from paring.selection.candidates import CandidateRow
from paring.system import hardware
from paring_pipelines import demo
from paring_pipelines.pipeline.recipes import load_recipes
from paring_pipelines.pipeline.settings import Settings
from paring_pipelines.runners import session

RECIPES = Path(__file__).with_name("compression.toml")

SMALLER, FASTER, DROP = 10, 4, 0.01
"""What one recipe must reach on each data set: times, times, and points of accuracy."""


def make_digits(model: Path, examples: Path) -> None:
    """Train the demo's network on the digits."""
    demo.write_digits_examples(examples)
    demo.train_digits_model(model)


def make_letters(model: Path, examples: Path) -> None:
    """Train a network of inverted residuals on the letters."""
    drawn = letters.read_letters()
    np.savez_compressed(examples, **drawn)
    letters.train_network(drawn, model)


DATA: dict[str, Callable[[Path, Path], None]] = {"digits": make_digits, "letters": make_letters}


def main() -> int:
    """Print a table for each data set; 1 if no recipe reaches what one must."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", choices=list(DATA), action="append")
    parser.add_argument("--work", type=Path, default=Path("out/compression"))
    given = parser.parse_args()
    answer = {}
    for name in given.data or DATA:
        folder = given.work / name
        model, examples = folder / "model", folder / "examples.npz"
        if not model.exists():
            folder.mkdir(parents=True, exist_ok=True)
            DATA[name](model, examples)
        outcome = session.run(
            model, examples, recipes=load_recipes(RECIPES), settings=Settings(), out=folder / "out"
        )
        answer[name] = [measured(row, folder / "out") for row in outcome.selection.candidates]
        show(name, answer[name])
    result = {"rows": answer, "machine": hardware.describe(), "versions": environment()}
    (given.work / "compression.json").write_text(json.dumps(result, indent=2) + "\n")
    return int(not all(any(map(reaches, rows)) for rows in answer.values()))


def measured(row: CandidateRow, out: Path) -> dict[str, Any]:
    """Return the figures that are shown of a row of selection.json."""
    parameters, flops = cost(Path(row.artifact), out)
    keys = ("id", "recipe", "outcome", "reasons", "accuracy", "accuracy_drop", "size_bytes")
    return {
        **{key: getattr(row, key) for key in (*keys, "gzip_bytes", "speedup")},
        "parameters": parameters,
        "flops": flops,
    }


def cost(candidate: Path, out: Path) -> tuple[int, int] | tuple[None, None]:
    """Parameters and FLOPs of the Keras model that the candidate is or was made from."""
    from paring.graphs.graph import keras_cost
    from paring.models.loading import load_keras

    record = read_record(candidate) or {}
    if record.get("failure"):
        return None, None
    path = candidate
    if record["type"] == "TFLiteModel":
        digest = record["lineage"]["inputs"]["model"]["digest"]
        models = (file.parent for file in out.glob("pipeline/artifacts/*/*/*/Format-Keras"))
        path = next(model for model in models if content_digest(model) == digest)
    return keras_cost(load_keras(Model(path)))


def reaches(row: dict[str, Any]) -> bool:
    """Return whether the recipe is small, fast and accurate enough; see `SMALLER`."""
    if row["speedup"] is None or row["smaller"] is None:
        return False
    return row["smaller"] >= SMALLER and row["speedup"] >= FASTER and row["accuracy_drop"] <= DROP


def show(name: str, rows: list[dict[str, Any]]) -> None:
    """Print the table of a data set, the smallest last."""
    source = next(row for row in rows if row["id"] == "source")
    for row in rows:
        row["smaller"] = source["gzip_bytes"] / row["gzip_bytes"] if row["gzip_bytes"] else None
    rows.sort(key=lambda row: row["smaller"] or 0)
    columns = ("accuracy", "drop", "KB", "gzip KB", "smaller", "parameters", "MFLOPs", "faster")
    print(f"\n{name:<24}" + "".join(f"{column:>12}" for column in columns))
    for row in rows:
        if row["speedup"] is None:
            print(f"{row['id']:<24}{row['outcome']}: {'; '.join(row['reasons'])}")
            continue
        cells = (
            f"{row['accuracy']:.2%}",
            f"{100 * row['accuracy_drop']:+.2f}",
            f"{row['size_bytes'] / 1000:.1f}",
            f"{row['gzip_bytes'] / 1000:.1f}",
            f"{row['smaller']:.1f}x",
            f"{row['parameters']:,}",
            f"{row['flops'] / 1e6:.2f}",
            f"{row['speedup']:.1f}x",
        )
        print(f"{row['id']:<24}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())

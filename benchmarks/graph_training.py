"""Accuracy on the digits of models trained in Keras form, and of the same ones on their graphs.

    python benchmarks/graph_training.py OUT [--seeds N]

One network is trained and written with its Keras form and without. Each step runs on both with
each seed; a row has the mean accuracy of each way, and the mean of the differences by seed with
its 95% interval by Student's t.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from paring.execution import Call, execute
from paring.step import Step
from paring.steps.cluster import cluster
from paring.steps.prune import prune
from paring_pipelines.demo import (
    Digits,
    build_network,
    fit_network,
    read_digits,
    write_digits_examples,
)

CASES: dict[str, tuple[Step, dict[str, float | int]]] = {
    "prune 0.5": (prune, {"sparsity": 0.5}),
    "cluster 16": (cluster, {"clusters": 16}),
}
WAYS = ("keras", "graph")


def main() -> None:
    """Train the network, run the steps and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8, help="epochs of the network itself")
    given = parser.parse_args()
    out: Path = given.out
    digits = read_digits()
    source = write_source(out, digits, epochs=given.epochs)
    print(f"source accuracy {source:.4f}")
    for name, (step, parameters) in CASES.items():
        accuracies = {way: [] for way in WAYS}
        for seed in range(given.seeds):
            for way in WAYS:
                folder = out / f"{name.replace(' ', '-')}-{way}-{seed}"
                if not folder.exists():
                    (output,) = step.outputs
                    inputs = {"model": out / way, "examples": out / "digits.npz"}
                    execute(step, Call(inputs, {output: folder}, {**parameters, "seed": seed}))
                accuracies[way].append(accuracy(folder / "Format-Serving", digits))
        print(row(name, *(np.asarray(accuracies[way]) for way in WAYS)), flush=True)


def write_source(out: Path, digits: Digits, *, epochs: int) -> float:
    """Write the network with its Keras form and without, and the examples; its accuracy."""
    import tf_keras

    if not (out / "graph").exists():
        tf_keras.utils.set_random_seed(0)
        network = build_network((12, 24, 48, 64))
        fit_network(network, digits, epochs=epochs)
        network.save(out / "keras", save_format="tf", include_optimizer=False)
        network.export(out / "graph")
        write_digits_examples(out / "digits.npz")
    return accuracy(out / "graph", digits)


def accuracy(folder: Path, digits: Digits) -> float:
    """Accuracy of a SavedModel on the eval split."""
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    (name,) = serve.structured_input_signature[1]
    (scores,) = serve(**{name: tf.constant(digits.x_eval)}).values()
    return float(np.mean(scores.numpy().argmax(axis=1) == digits.y_eval))


def row(name: str, keras: NDArray[np.float64], graph: NDArray[np.float64]) -> str:
    """Text of the two ways' accuracies over the seeds."""
    differences = 100 * (graph - keras)
    count = len(differences)
    error = float(stats.sem(differences)) if count > 1 else float("nan")
    half = float(stats.t.ppf(0.975, count - 1)) * error if count > 1 else float("nan")
    mean = float(differences.mean())
    return (
        f"{name:<12} keras {keras.mean():.4f}, graph {graph.mean():.4f}, graph less keras"
        f" {mean:+.2f} points [{mean - half:+.2f}, {mean + half:+.2f}], {count} seeds"
    )


if __name__ == "__main__":
    main()

"""A text classifier as it should not be exported, what `profile` finds in it, and the gain.

The model takes token ids and gives a score for each class. As it is first written, it
multiplies one-hot rows with the embedding, runs its recurrent layer as a loop of Python,
computes both of two heads and throws one away, has a last layer in float64, takes ids
of 64 bits, and leaves dropout on. The first of what `profile` finds is fixed, and the
model looked at again, until nothing is found; each model is held to the first one's
answers and timed beside it.

    python examples/text_audit.py --out OUT
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from paring.artifacts import BenchmarkMetrics
from paring.execution import Call, execute
from paring.steps.benchmark import benchmark
from paring.steps.profile import profile

CLASSES = 4
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Sizes:
    """Tokens of a text and of the vocabulary, units of the layers, and texts to time with."""

    tokens: int = 64
    vocabulary: int = 20_000
    units: int = 64
    hidden: int = 2048
    texts: int = 64


class TextClassifier(tf.Module):
    """The model, with the fixes of some of the rules applied."""

    def __init__(self, sizes: Sizes, fixed: frozenset[str]) -> None:
        super().__init__()
        draw = np.random.default_rng(0)

        def weights(*shape: int) -> Any:
            return tf.Variable((draw.normal(size=shape) / shape[0] ** 0.5).astype(np.float32))

        self.sizes, self.fixed = sizes, fixed
        self.embedding = weights(sizes.vocabulary, sizes.units)
        self.embedding.assign(self.embedding * sizes.vocabulary**0.5)
        self.kernel = weights(sizes.units, sizes.units)
        self.recurrent = weights(sizes.units, sizes.units)
        self.long_head = [weights(sizes.units, sizes.hidden), weights(sizes.hidden, sizes.units)]
        self.short_head = [weights(sizes.units, sizes.hidden), weights(sizes.hidden, sizes.units)]
        last = weights(sizes.units, CLASSES)
        self.last = last if "float64" in fixed else tf.Variable(tf.cast(last, tf.float64))

    def serve(self, ids: Any) -> dict[str, Any]:
        """The scores [batch, classes] of texts, ids [batch, tokens]; 0 pads a short one."""
        if "int64_indices" in self.fixed:
            ids = tf.cast(ids, tf.int32)
        state = self._read(self._embed(ids))
        long = tf.reduce_sum(tf.cast(ids > 0, tf.int32)) > self.sizes.tokens // 2 * tf.shape(ids)[0]
        if "both_branches" in self.fixed:
            state = tf.cond(
                long,
                lambda: self._head(state, self.long_head),
                lambda: self._head(state, self.short_head),
            )
        else:
            heads = [self._head(state, head) for head in (self.long_head, self.short_head)]
            state = tf.where(long, *heads)
        if "dropout_in_serving" not in self.fixed:
            state = tf.nn.dropout(state, 0.5)
        scores = tf.matmul(tf.cast(state, self.last.dtype), self.last)
        return {"scores": tf.cast(scores, tf.float32)}

    def _embed(self, ids: Any) -> Any:
        if "one_hot_product" in self.fixed:
            return tf.gather(self.embedding, ids)
        return tf.matmul(tf.one_hot(ids, self.sizes.vocabulary), self.embedding)

    def _read(self, embedded: Any) -> Any:
        """The state [batch, units] after the last token."""
        state = tf.zeros((tf.shape(embedded)[0], self.sizes.units))
        if "unrolled_loop" not in self.fixed:
            for token in range(self.sizes.tokens):
                product = tf.matmul(embedded[:, token], self.kernel)
                state = tf.tanh(product + tf.matmul(state, self.recurrent))
            return state
        # What does not depend on the state goes before the loop, for all tokens at once.
        products = tf.tensordot(tf.transpose(embedded, (1, 0, 2)), self.kernel, 1)
        steps = tf.TensorArray(tf.float32, self.sizes.tokens).unstack(products)

        def step(token: Any, state: Any) -> tuple[Any, Any]:
            return token + 1, tf.tanh(steps.read(token) + tf.matmul(state, self.recurrent))

        return tf.while_loop(lambda token, _: token < self.sizes.tokens, step, (0, state))[1]

    def _head(self, state: Any, head: Sequence[Any]) -> Any:
        return tf.nn.relu(tf.matmul(tf.nn.relu(tf.matmul(state, head[0])), head[1]))


@dataclass(frozen=True)
class Stage:
    """One model: the fixes in it, what is left to find, and how far its answers are off."""

    model: Path
    fixes: tuple[str, ...]
    left: tuple[str, ...]
    operators: int
    difference: float


def export(sizes: Sizes, fixed: Sequence[str], folder: Path) -> Path:
    """Write the model with these fixes; returns its folder."""
    model = TextClassifier(sizes, frozenset(fixed))
    ids = tf.TensorSpec((None, sizes.tokens), tf.int64, name="ids")
    served = tf.function(model.serve, input_signature=[ids])
    tf.saved_model.save(model, str(folder), signatures=served)
    return folder


def profiled(model: Path, out: Path) -> dict[str, Any]:
    """Return the profile that the step writes about a model."""
    made = execute(profile, Call({"model": model}, {"profile": out}))["profile"]
    return dict(json.loads(made.file.read_text()))


def answers(model: Path, ids: Any) -> Any:
    """The scores of some texts."""
    loaded = tf.saved_model.load(str(model))
    return loaded.signatures["serving_default"](ids=tf.constant(ids))["scores"].numpy()


def write_examples(sizes: Sizes, file: Path) -> Any:
    """Write texts of random tokens, every second one short; returns their ids."""
    ids = np.random.default_rng(1).integers(1, sizes.vocabulary, size=(sizes.texts, sizes.tokens))
    ids[::2, sizes.tokens // 4 :] = 0
    labels = np.zeros(sizes.texts, np.int64)
    np.savez(file, x_train=ids, y_train=labels, x_eval=ids, y_eval=labels)
    return ids


def improve(sizes: Sizes, ids: Any, out: Path) -> list[Stage]:
    """Fix the first of what is found in a model, and look again, until nothing is.

    What is small beside something worse is found once that is gone. Each finding is
    printed when its turn comes.
    """
    # Dropout makes each answer of the first model another one; the rest must not change them.
    wanted = answers(export(sizes, ("dropout_in_serving",), out / "wanted"), ids)
    stages: list[Stage] = []
    fixes: tuple[str, ...] = ()
    while True:
        model = export(sizes, fixes, out / f"model-{len(fixes)}")
        content = profiled(model, out / f"profile-{len(fixes)}")
        result = content["findings"]
        difference = float(np.abs(answers(model, ids) - wanted).max())
        if "dropout_in_serving" in fixes and difference > TOLERANCE:
            raise RuntimeError(f"the fix of {fixes[-1]} changes the scores by {difference:g}")
        left = tuple(item["rule"] for item in result)
        operators = sum(content["operators"].values())
        stages.append(Stage(model, fixes, left, operators, difference))
        if not result:
            return stages
        if left[0] in fixes:
            raise RuntimeError(f"{left[0]} is still found after its fix")
        show(result[0])
        fixes = (*fixes, left[0])


def timed(stage: Stage, first: Stage, examples: Path, **timing: Any) -> BenchmarkMetrics:
    """Time a model beside the first one, by `benchmark` with these parameters."""
    inputs = {"source": first.model, "candidate": stage.model, "examples": examples}
    metrics = stage.model.with_name(f"metrics-{len(stage.fixes)}")
    made = execute(benchmark, Call(inputs, {"metrics": metrics}, timing))["metrics"]
    if not isinstance(made, BenchmarkMetrics):
        raise TypeError(f"benchmark made {made}")
    return made


def show(result: Mapping[str, str]) -> None:
    """Print a finding."""
    print(f"{result['severity']:<6} {result['rule']} at {result['place']}")
    print(f"       {result['cost']}\n       {result['fix']}")


def main() -> None:
    """Print what is found, and a line for each fix."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    for name, default in vars(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    sizes = Sizes(**{name: getattr(given, name) for name in vars(Sizes())})
    given.out.mkdir(parents=True)
    examples = given.out / "examples.npz"
    stages = improve(sizes, write_examples(sizes, examples), given.out)
    print(
        f"{'with the fix of':<20} {'left':>4} {'operators':>9} {'difference':>10} {'p50 ms':>7}"
        f" {'load ms':>7}  times as fast"
    )
    for stage in stages:
        item = timed(stage, stages[0], examples, rounds=4, min_seconds=2.0)
        print(
            f"{stage.fixes[-1] if stage.fixes else '-':<20} {len(stage.left):4} {stage.operators:9}"
            f" {stage.difference:10.1e} {item.p50_ms:7.3f} {item.load_ms:7.0f}"
            f"  {item.speedup:.2f} [{item.speedup_low:.2f}, {item.speedup_high:.2f}]"
        )


if __name__ == "__main__":
    main()

"""Facts about a model and its examples, collected before any recipe is tried."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paring.artifacts import Examples, Model, ModelProfile
from paring.artifacts.reading import read_object
from paring.execution import Call, execute
from paring.step import SIGNATURE, TRUST_MODEL, Step
from paring.steps.import_examples import import_examples
from paring.steps.import_model import import_model
from paring.steps.profile import profile
from paring_pipelines.pipeline.settings import Settings

if TYPE_CHECKING:
    from paring.adapters.step_processes import Execute


@dataclass(frozen=True)
class Facts:
    """Facts that the rules read.

    Attributes:
        parameters, flops, activation_bytes: See the step `profile`.
        operators: How often each TensorFlow operator occurs.
        largest: Name of the largest weight, and its share of all weights' bytes.
        keras: Whether there is a Keras form, which training steps go on from.
        labelled: Whether the examples have labels.
        train_count: Examples in the train split.
        input_shape: Of the only input, without the batch; () where there are several.
        units: Values in the only output; 0 where there are several, or it is unknown.
    """

    parameters: int
    flops: int
    activation_bytes: int
    operators: Mapping[str, int]
    largest: tuple[str, float]
    keras: bool
    labelled: bool
    train_count: int
    input_shape: tuple[int | None, ...]
    units: int
    target: str

    def count(self, *kinds: str) -> int:
        """Count the operators of these kinds."""
        return sum(self.operators.get(kind, 0) for kind in kinds)

    @property
    def is_image(self) -> bool:
        """True if the input is [height, width, channels], with no more channels than rows."""
        if len(self.input_shape) != 3 or self.input_shape[2] is None:
            return False
        return self.input_shape[0] is None or self.input_shape[2] <= self.input_shape[0]


def inspect(model: Path, examples: Path, settings: Settings, execute: "Execute" = execute) -> Facts:
    """Import and profile a model and its examples in a temporary folder.

    Args:
        model: A model, as `import_model` takes it.
        examples: Examples, as `import_examples` takes them.
        settings: Settings of the run that is advised.
        execute: Runs each step; `paring.adapters.step_processes` has one with limits.

    Raises:
        ParingError: As the steps import_model, import_examples and profile do.
    """
    with tempfile.TemporaryDirectory(prefix="paring-advise-") as folder:
        root = Path(folder)
        made: dict[str, Any] = {}
        calls: list[tuple[Step, dict[str, Path], Mapping[str, object]]] = [
            (import_model, {"original": model}, {SIGNATURE: settings.signature}),
            (
                import_examples,
                {"original": examples, "model": root / "model"},
                settings.of(import_examples),
            ),
            (profile, {"model": root / "model"}, {}),
        ]
        for step, given, parameters in calls:
            places = {name: root / name for name in step.outputs}
            trust = {TRUST_MODEL: settings.trust_model}
            made |= execute(step, Call(given, places, {**parameters, **trust}))
        content = read_object(made["profile"].file)
    imported: Model = made["model"]
    stored: Examples = made["examples"]
    profiled: ModelProfile = made["profile"]
    inputs, outputs = (list(content["signature"][what].values()) for what in ("inputs", "outputs"))
    largest: dict[str, Any] = next(iter(content["largest_weights"]), {"name": "", "size_bytes": 0})
    share = largest["size_bytes"] / max(1, content["weight_bytes"])
    shape = outputs[0]["shape"] if len(outputs) == 1 else []
    return Facts(
        parameters=profiled.parameters,
        flops=profiled.flops,
        activation_bytes=profiled.activation_bytes,
        operators=content["operators"],
        largest=(largest["name"], share),
        keras=imported.keras == "tf_keras",
        labelled=bool(stored.labelled),
        train_count=stored.train_count,
        input_shape=tuple(inputs[0]["shape"][1:]) if len(inputs) == 1 else (),
        units=(shape[1] or 0) if len(shape) == 2 else 0,
        target=settings.target,
    )

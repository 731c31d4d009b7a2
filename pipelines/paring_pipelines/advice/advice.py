"""Advice on the recipes that are worth trying on a model, before any of them is tried.

A table of plain rules. Each looks at one fact of the model, the examples or the budgets
and speaks for or against a recipe; it claims only what docs/ has measured, or what the
source that it names has found. Whether a recipe keeps its promise is for the run to say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paring.artifacts import Artifact, Model, ONNXModel, OpenVINOModel, TFLiteModel, TRTEngine
from paring.catalog import find
from paring.errors import ParameterError
from paring.reporting import figures
from paring.selection.pareto import Gate
from paring.step import Step
from paring_pipelines.advice.facts import Facts
from paring_pipelines.pipeline.recipes import Link, Recipe

AUTO = Path("auto")
"""What --recipes is given for the recipes that are advised."""

# Bytes that a weight takes in a file; of mixed at least.
_WEIGHT_BYTES = {"none": 4, "fp16": 2, "dynamic": 1, "int8": 1, "int16x8": 1, "mixed": 1}

_RUNTIMES: Mapping[type[Artifact], str] = {
    TFLiteModel: "TFLite",
    ONNXModel: "ONNX Runtime",
    OpenVINOModel: "OpenVINO",
    TRTEngine: "TensorRT",
}

# What forms promise, by the runtime and the quantization.
_TIMES = "times as fast as their SavedModels on two cores"
_GAINS = {
    "TFLite": {
        "none": f"TFLite ran MobileNetV2 4.5 and EfficientNetB0 3.4 {_TIMES}, with the same"
        " numbers",
        "fp16": "the weights take {size}, half of float32's",
        "dynamic": "the weights take {size}, a quarter of float32's, and no examples are needed",
        "mixed": "the weights take {size} or more, by how many layers int8 hurts",
        "int8": "the weights take {size}, and TFLite ran MobileNetV2 9.1, EfficientNetB0 7.6 and"
        f" ResNet50 4.7 {_TIMES}",
    },
    "ONNX Runtime": {
        "none": f"ONNX Runtime ran MobileNetV2 3.8 and EfficientNetB0 2.8 {_TIMES}, with the same"
        " numbers",
        "fp16": "the weights take {size}, half of float32's, for GPUs that compute in it",
        "int8": f"the weights take {{size}}, and ONNX Runtime ran ResNet50 4.4 {_TIMES}",
    },
    "OpenVINO": {
        "int8": "the weights take {size}, and OpenVINO ran MobileNetV2 8.4, ResNet50 3.9 and"
        f" EfficientNetB0 2.7 {_TIMES}",
    },
    # Paring has not been on a GPU yet, so there are no figures.
    "TensorRT": {
        "fp16": "the weights take {size}, half of float32's, and GPUs with tensor cores compute"
        " in it",
        "int8": "the weights take {size}, a quarter of float32's, and GPUs with tensor cores"
        " compute in it",
    },
}

_LOOPS = ("While", "StatelessWhile")
# Training steps that take a model without a Keras form, and what they change in its graph.
_ON_GRAPHS = ("prune", "cluster")
_KERNELS = (
    *("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Conv2D", "Conv2DBackpropInput"),
    *("Conv3D", "Conv3DBackpropInputV2", "Einsum", "MatMul"),
)

# Scales of students, largest first.
_WIDTHS = (1.0, 0.75, 0.5, 0.35, 0.2, 0.1)
_COMPOUNDS = (0.0, -4.0, -8.0, -12.0, -16.0, -20.0)


@dataclass(frozen=True)
class Reason:
    """Reason for or against a recipe.

    Attributes:
        worth: Whether it speaks for it.
        fact: What was looked at, with its value.
        because: A sentence.
    """

    worth: bool
    fact: str
    because: str


@dataclass(frozen=True)
class Advice:
    """Recipe with the reasons for it or, if there are any, against it."""

    recipe: Recipe
    reasons: tuple[Reason, ...]

    @property
    def worth(self) -> bool:
        """True if the recipe is worth trying: nothing speaks against it."""
        return all(reason.worth for reason in self.reasons)


def advise(recipes: Sequence[Recipe], facts: Facts, gate: Gate) -> list[Advice]:
    """Return the reasons for and against each recipe, and a student that suits the model."""
    student = suggest_student(facts, gate)
    result = [Advice(recipe, _reasons(recipe, facts, gate)) for recipe in recipes]
    known = {item.name for item in recipes}
    if student.recipe.name in known:
        return result
    return [*result, student]


def _reasons(recipe: Recipe, facts: Facts, gate: Gate) -> tuple[Reason, ...]:
    given = [reason for rule in RULES if (reason := rule(recipe, facts, gate)) is not None]
    against = tuple(item for item in given if not item.worth)
    return against or tuple(given)


@dataclass(frozen=True)
class AdvisedRecipes:
    """Advice on all recipes, and the facts that it is based on."""

    facts: Facts
    advised: Sequence[Advice]

    @property
    def worth(self) -> list[Recipe]:
        """Recipes that are worth trying.

        Raises:
            ParameterError: None is.
        """
        result = [item.recipe for item in self.advised if item.worth]
        if not result:
            raise ParameterError(
                "--recipes auto: no recipe is worth trying on this model",
                received=f"{len(self.advised)} recipes",
                remedy="loosen the limits, or name a file of recipes; `paring advise` says why",
            )
        return result

    def as_json(self) -> dict[str, Any]:
        """Return all of it for programs: `facts`, and of each recipe whether, and why."""
        return {
            "facts": asdict(self.facts),
            "recipes": [
                {
                    "name": item.recipe.name,
                    "recipe": str(item.recipe),
                    "worth": item.worth,
                    "reasons": [
                        {"fact": reason.fact, "because": reason.because} for reason in item.reasons
                    ],
                }
                for item in self.advised
            ],
        }


# The rules. Each returns None where it has nothing to say of a recipe.


def _trained(recipe: Recipe, facts: Facts) -> str:
    """Return the first step that needs the model's own layers and labels to train, or ""."""
    names = (
        link.step.name
        for link in recipe.links
        if "examples" in link.step.inputs
        and issubclass(next(iter(link.step.outputs.values())), Model)
        and link.step.name != "distill"
        and (facts.keras or link.step.name not in _ON_GRAPHS)
    )
    return next(names, "")


def _taught(recipe: Recipe, parameter: str) -> float | None:
    """Return a parameter of the recipe's distill; None where it has none."""
    result = (link.parameters[parameter] for link in recipe.links if link.step.name == "distill")
    value = next(result, None)
    return None if value is None else float(value)


def _uses(recipe: Recipe, *steps: str) -> bool:
    return any(link.step.name in steps for link in recipe.links)


def _format(recipe: Recipe) -> str:
    """Return the runtime of the recipe's last file; "" if that is a SavedModel."""
    last = next(iter(recipe.links[-1].step.outputs.values()))
    return _RUNTIMES.get(last, "")


def _quantization(recipe: Recipe) -> str:
    """Return the quantization of the recipe's last file, as convert_tflite names it."""
    if _format(recipe) == "TFLite":
        return str(recipe.links[-1].parameters.get("quantization", "mixed"))
    result = (link.parameters for link in recipe.links if link.step.name == "export_onnx")
    precisions = [str(item["precision"]) for item in result]
    return precisions[-1].replace("fp32", "none") if precisions else ""


def _needs_keras(recipe: Recipe, facts: Facts, gate: Gate) -> Reason | None:
    step = _trained(recipe, facts)
    if facts.keras:
        return None
    if _taught(recipe, "feature_weight"):
        return Reason(False, "no Keras form", "the features of a bare SavedModel can't be read")
    if not step and _uses(recipe, *_ON_GRAPHS) and not facts.count(*_KERNELS):
        return Reason(
            False,
            "no Keras form",
            "the graph has no convolution or matrix product whose kernel could be changed",
        )
    if not step:
        return None
    return Reason(
        False,
        "no Keras form",
        f"{step} trains the layers of a Keras model, and this is a bare SavedModel",
    )


def _needs_labels(recipe: Recipe, facts: Facts, gate: Gate) -> Reason | None:
    step = _trained(recipe, facts)
    soft_weight = _taught(recipe, "soft_weight")
    if soft_weight is not None and soft_weight < 1:
        step = "distill with a soft_weight below 1"
    if facts.labelled or not step:
        return None
    return Reason(False, "no labels", f"{step} trains on labels, and the examples have none")


def _fits_size(recipe: Recipe, facts: Facts, gate: Gate) -> Reason | None:
    quantization = _quantization(recipe)
    known = quantization in _WEIGHT_BYTES and not _uses(recipe, "distill")
    if not known or not gate.max_size_mb:
        return None
    size = facts.parameters * _WEIGHT_BYTES[quantization]
    fits = size <= gate.max_size_mb * 1e6
    return Reason(
        fits,
        f"{facts.parameters:,} parameters",
        f"they take {figures.size(size)} as {quantization}, {'within' if fits else 'over'} the"
        f" limit of {figures.size(gate.max_size_mb * 1e6)}",
    )


def _runs_loops(recipe: Recipe, facts: Facts, gate: Gate) -> Reason | None:
    loops = facts.count(*_LOOPS)
    if not loops:
        return None
    fact = f"{loops} loops, as LSTM and GRU have them"
    if _uses(recipe, "quantize"):
        return Reason(False, fact, "an LSTM has no form with fake quantization and stays in float")
    if _format(recipe) != "TFLite" and _quantization(recipe):
        return Reason(True, fact, "ONNX has operators for them, and keeps the batch open")
    return {
        "dynamic": Reason(False, fact, "an LSTM's file was no smaller by dynamic than in float32"),
        "int16x8": Reason(False, fact, "an LSTM in int16x8 does not run in LiteRT"),
        "int8": Reason(True, fact, "int8 made an LSTM's file 3.3 times smaller"),
        "mixed": Reason(False, fact, "an LSTM converts for one example a call, by int8 alone"),
    }.get(_quantization(recipe))


def _helps_downloads(recipe: Recipe, facts: Facts, gate: Gate) -> Reason | None:
    if not _uses(recipe, "prune", "cluster"):
        return None
    name, share = facts.largest
    if facts.target == "mobile":
        return Reason(
            True,
            f"target mobile, {facts.parameters:,} parameters",
            f"apps are downloaded compressed, and zeros and shared values shrink the"
            f" {figures.size(facts.parameters)} of int8 weights, {share:.0%} of which are in"
            f" {name}",
        )
    return Reason(
        False,
        f"target {facts.target}",
        "zeros and shared values make a file smaller after gzip alone, and no faster",
    )


def _keeps_accuracy(recipe: Recipe, facts: Facts, gate: Gate) -> Reason | None:
    if not _uses(recipe, "quantize"):
        return None
    depthwise = facts.count("DepthwiseConv2dNative")
    if depthwise:
        return Reason(
            True,
            f"{depthwise} depthwise convolutions",
            "their channels' ranges differ most, so int8 after training costs them most"
            " (Nagel et al. 2019, arXiv:1906.04721)",
        )
    points = f"{100 * gate.max_accuracy_drop:g} points"
    within = "within 2 points of float (Krishnamoorthi 2018, arXiv:1806.08342)"
    if gate.max_accuracy_drop < 0.02:
        return Reason(
            True,
            f"a gate of {points}",
            f"int8 after training is only found to stay {within}, trained int8 within 1",
        )
    return Reason(
        False,
        f"a gate of {points}, no depthwise convolutions",
        f"int8 after training stays {within}",
    )


def _is_fast(recipe: Recipe, facts: Facts, gate: Gate) -> Reason | None:
    if _quantization(recipe) != "int16x8":
        return None
    if gate.objective == "latency":
        return Reason(False, "objective latency", "int16 activations have few fast kernels")
    return Reason(
        True, f"objective {gate.objective}", "int16 activations are closer to the source than int8"
    )


def _gains(recipe: Recipe, facts: Facts, gate: Gate) -> Reason | None:
    """Return the gain that the format promises, unless other facts decide."""
    quantization = _quantization(recipe)
    known = quantization in _WEIGHT_BYTES and not _uses(recipe, "distill")
    if not known or gate.max_size_mb or facts.count(*_LOOPS):
        return None
    size = figures.size(facts.parameters * _WEIGHT_BYTES[quantization])
    fact = f"{facts.parameters:,} parameters, {facts.flops:,} operations"
    texts = _GAINS.get(_format(recipe), {})
    text = texts.get(quantization)
    return Reason(True, fact, text.format(size=size)) if text else None


Rule = Callable[[Recipe, Facts, Gate], Reason | None]

RULES: tuple[Rule, ...] = (
    _needs_keras,
    _needs_labels,
    _fits_size,
    _runs_loops,
    _helps_downloads,
    _keeps_accuracy,
    _is_fast,
    _gains,
)


def suggest_student(facts: Facts, gate: Gate) -> Advice:
    """Return a smaller network to distil, of the family that suits the budgets.

    It has at most half of the model's parameters and keeps to a limit on size, as int8 in
    TFLite, or for accelerators as the float SavedModel that it is.
    """
    on_processor = facts.target in ("cpu-server", "mobile")
    limits = [name for name in ("max_size_mb", "max_memory_mb") if getattr(gate, name)]
    tight = bool(limits) or gate.objective in ("size", "memory")
    family, scale = ("mobilenet_v2", "width") if tight else ("efficientnet", "compound")
    name = f"distilled-{family.split('_')[0]}{'-int8' if on_processor else ''}"
    scales = _WIDTHS if tight else _COMPOUNDS

    def advice(value: float, worth: bool, fact: str, because: str) -> Advice:
        given: dict[str, object] = {"student": family, scale: value}
        if not facts.labelled:
            given["soft_weight"] = 1.0
        chain: list[tuple[Step, dict[str, object]]] = [(find("distill"), given)]
        if on_processor:
            chain.append((find("convert_tflite"), {"quantization": "int8"}))
        links = [Link(step, step.parse_parameters(parameters)) for step, parameters in chain]
        return Advice(Recipe(name, tuple(links)), (Reason(worth, fact, because),))

    if not facts.is_image or not facts.units:
        text = f"input {list(facts.input_shape)}, {facts.units} outputs"
        because = "the families take images and give classes; for others name a function of yours"
        return advice(scales[0], False, text, because)

    # Imported late: TensorFlow takes many seconds.
    from paring.training.distillation.students import count_parameters

    most = facts.parameters // 2
    if gate.max_size_mb:
        most = min(most, int(gate.max_size_mb * 1e6 / (1 if on_processor else 4)))
    channels, parameters = int(facts.input_shape[2] or 0), 0
    fact = f"{facts.parameters:,} parameters, {figures.size(facts.activation_bytes)} of activations"
    for value in scales:
        parameters = count_parameters(family, channels, facts.units, **{scale: value})
        if parameters <= most:
            break
    else:
        because = f"at {scale} {value:g}, the smallest looked at, {family} has {parameters:,},"
        return advice(value, False, fact, f"{because} more than {most:,}")
    why = (
        f"{' and '.join(limits) or f'objective {gate.objective}'}: MobileNetV2 passes narrow"
        " tensors between its blocks (Sandler et al. 2018, arXiv:1801.04381)"
        if tight
        else "accuracy leads: EfficientNet is as accurate as larger networks"
        " (Tan and Le 2019, arXiv:1905.11946)"
    )
    return advice(
        value,
        True,
        fact,
        f"{why}; at {scale} {value:g} it has {parameters:,}. It trains from scratch on"
        f" {facts.train_count:,} examples, which takes longest",
    )

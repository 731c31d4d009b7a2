"""Optimization of SavedModels that stay SavedModels."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from paring.artifacts import Examples, Model, ServingModel, content_bytes
from paring.benchmarking.timing import TimingOptions
from paring.step import Input, Output, step
from paring.system.child_calls import call_here, call_in_child
from paring.system.hardware import describe
from paring.system.trees import copy_tree

_SEPARATE_BYTES = 32 << 20


@step(version="5", machine_dependent=True)
def optimize_savedmodel(
    model: Input[Model],
    examples: Input[Examples | None],
    optimized: Output[ServingModel],
    *,
    variables: Literal["frozen", "kept"] = "frozen",
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
    xla: bool = True,
    keep: Literal["faster", "accurate"] = "faster",
    fixed_batch: Annotated[int, Ge(0), Le(65536)] = 0,
    max_difference: Annotated[float, Ge(0), Le(1)] = 1e-4,
    max_half_difference: Annotated[float, Ge(0), Le(1)] = 0.02,
    comparison_size: Annotated[int, Ge(1)] = 64,
    batch_size: Annotated[int, Ge(0), Le(65536)] = 0,
    threads: Annotated[int, Ge(0), Le(4096)] = 0,
    rounds: Annotated[int, Ge(2), Le(1000)] = 5,
    windows: Annotated[int, Ge(1), Le(1000)] = 4,
    min_seconds: Annotated[float, Ge(0), Le(3600)] = 2.0,
    max_minutes: Annotated[float, Gt(0)] = 15.0,
    seed: Annotated[int, Ge(0)] = 0,
) -> None:
    """Optimize a SavedModel for the latency of servers and accelerators.

    These changes are tried one after another, each on top of those that helped before:

    - the inference graph: what the signature needs alone, its variables constants, batch
      normalization folded into the layers before it, constants folded, and without
      what no output needs (assertions, prints, updates, identities, dead branches);
    - bfloat16 and float16: convolutions and products of matrices, operators that only move
      or bound their values, and their weights; the rest stays in float32;
    - XLA: TensorFlow compiles the signature (`jit_compile=True`).

    Each change is kept if it is measured faster than the model without it, on this machine
    with the two sides alternating, so that the interval of the ratio is above 1; and if its
    outputs are the source's within the tolerance. If none is kept, the result is a copy of
    the source's SavedModel. `trials.json` lists all that was tried, with its figures.
    `keep` set to accurate keeps each change within the tolerance and measures nothing, for
    models that run on another machine, as on a TPU.

    The model's signature keeps its name, and those of its inputs and outputs, dtypes and
    shapes. The result has the model's other signatures too: those that call the same function
    call the optimized one, and the others, listed in `passed_signatures`, compute as before,
    of variables of their own. The result has no Keras form.

    Examples:
        >>> optimized = paring.optimize_savedmodel(network, arrays, xla=False)
        >>> optimized.operators <= optimized.source_operators
        True

    Args:
        model: Any model with a SavedModel.
        examples: Models are compared and timed on the train split; without examples on random
            numbers, and on zeros where the model takes integers.
        optimized: The SavedModel, and `trials.json`.
        variables: Whether weights become constants, or stay variables, which other
            tools can read and set; the rest of the graph is frozen in any case.
        precision: Half precisions to try: both, none (float32), or one.
        xla: Whether to try XLA.
        keep: Changes to keep: those measured faster on this machine, or all that are accurate.
        fixed_batch: If not 0, a second signature, `serving_batch_N`, takes this batch
            size alone, for compilers that need known shapes.
        max_difference: Largest absolute difference of an output in float32, over the
            largest absolute value of that output.
        max_half_difference: The same in half precision.
        comparison_size: Number of examples on which outputs are compared.
        batch_size: Examples in a timed call; 0 for 1, or the model's fixed batch.
        threads: Threads for a timed call; 0 for one for each usable core.
        rounds: Number of times that both sides of a measurement are loaded and timed.
        windows: Pairs of windows in a round.
        min_seconds: Time to spend in timed windows of a measurement, at least.
        max_minutes: Time limit of all measurements.
        seed: Seed of the drawn examples, the order of the sides, and the resampling.

    Raises:
        ParameterError: The model's own batch size is fixed, and another was requested.
        ModelError: The SavedModel is missing or broken.
        ExamplesError: The examples are not what the model takes.
        UnsupportedError: The model takes text, gives other outputs in each call, or a
            fixed batch size would make it slower.
    """
    from paring.converters.savedmodel import serving_work
    from paring.converters.savedmodel.serving_forms import GraphVariant, Precision
    from paring.converters.savedmodel.serving_trials import (
        MeasuringEvaluator,
        choose,
        with_fixed_batch,
    )
    from paring.models.saved_model import find_saved_model

    source = find_saved_model(model)
    # TensorFlow holds a large model's weights many times over while it builds its forms, and
    # while it loads two of them. So the former ends with a process before the latter begins.
    call = call_in_child if content_bytes(source) > _SEPARATE_BYTES else call_here
    tolerances: dict[Precision, float] = {
        "float32": max_difference,
        "float16": max_half_difference,
        "bfloat16": max_half_difference,
    }
    operators: dict[GraphVariant, int] = {}
    with tempfile.TemporaryDirectory(prefix="paring-optimize-") as scratch:
        task = serving_work.Task(
            model,
            examples,
            Path(scratch),
            variables=variables,
            fixed_batch=fixed_batch,
            precision=precision,
            xla=xla,
            max_difference=max_difference,
            comparison_size=comparison_size,
            batch_size=batch_size,
            seed=seed,
        )
        prepared = call(serving_work.prepare, task)
        trial = MeasuringEvaluator(
            lambda folder: call(serving_work.difference, task, folder),
            task.timed_inputs,
            prepared.names,
            timing=TimingOptions(
                threads=threads or int(describe()["cores"]),
                rounds=rounds,
                windows=windows,
                min_seconds=min_seconds,
                seed=seed,
            ),
            seconds=60 * max_minutes,
            signature=model.signature,
        )

        def build(form: GraphVariant, folder: Path) -> None:
            operators[form] = call(serving_work.build, task, form, folder)

        def build_again(folder: Path) -> None:
            call(serving_work.build_again, task, folder)

        choice = choose(
            prepared.changes,
            build,
            trial,
            source=source,
            scratch=task.folder,
            tolerances=tolerances,
            timed=keep == "faster",
        )
        if choice.form is None and fixed_batch:
            again = task.folder / "again"
            choice = with_fixed_batch(
                build_again,
                choice,
                trial,
                folder=again,
                limit=max_difference,
                timed=keep == "faster",
            )
        copy_tree(choice.folder, optimized.serving_dir)

    optimized.keras = "none"
    optimized.size_bytes = content_bytes(optimized.serving_dir)
    optimized.fixed_batch = fixed_batch or None
    optimized.passed_signatures = prepared.others
    optimized.compared_on = prepared.drawn_from
    optimized.not_applied = tuple(
        f"{outcome.tried}: {outcome.reason}" for outcome in choice.outcomes if not outcome.applied
    )
    optimized.difference = choice.difference
    if choice.speedup is not None:
        optimized.speedup = choice.speedup.estimate
        optimized.speedup_low, optimized.speedup_high = choice.speedup.low, choice.speedup.high
    optimized.source_operators = prepared.source_operators
    notes: list[str] = []
    if choice.form is None:
        optimized.operators = optimized.source_operators
        notes.append(
            "nothing made it faster, so its graph is the source's"
            if keep == "faster"
            else "no change is accurate, so its graph is the source's"
        )
    else:
        optimized.applied = choice.form.changes
        optimized.precision = choice.form.precision
        optimized.compiled = choice.form.compiled
        optimized.variables = variables
        optimized.operators = operators[choice.form]
        if choice.form.compiled:
            notes.append("XLA compiles it when it first gets a batch of another size")
        if prepared.variation <= tolerances[choice.form.precision]:
            notes.append("compared on inputs that hardly change the source's outputs")
    optimized.note = "; ".join(notes) or None
    rows = [asdict(outcome) for outcome in choice.outcomes]
    optimized.trials_file.write_text(json.dumps(rows, indent=2) + "\n")

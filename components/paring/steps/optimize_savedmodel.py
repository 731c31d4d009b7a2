"""Optimization of SavedModels that stay SavedModels."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from paring.artifacts import Examples, Model, ServingModel, content_bytes
from paring.step import Input, Output, step
from paring.system.hardware import describe
from paring.system.trees import copy_tree


@step(version="1", measures=True)
def optimize_savedmodel(
    model: Input[Model],
    examples: Input[Examples | None],
    optimized: Output[ServingModel],
    *,
    variables: Literal["frozen", "kept"] = "frozen",
    precision: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
    xla: bool = True,
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

    - the inference graph: the serving signature alone, its variables constants, batch
      normalization folded into the layers before it, constants folded, and without
      what no output needs (assertions, prints, updates, identities, dead branches);
    - bfloat16 and float16: convolutions and products of matrices, operators that only move
      or bound their values, and their weights; the rest stays in float32;
    - XLA: TensorFlow compiles the signature (`jit_compile=True`).

    Each change is kept if it is measured faster than the model without it, on this machine
    with the two sides alternating, so that the interval of the ratio is above 1; and if its
    outputs are the source's within the tolerance. If none is kept, the result is a copy of
    the source's SavedModel. `trials.json` lists all that was tried, with its figures.

    The signature `serving_default` keeps its names, dtypes and shapes. The result has
    no Keras form.

    Args:
        model: Any model with a SavedModel.
        examples: Models are compared and timed on the train split; without examples on random
            numbers, and on zeros where the model takes integers.
        optimized: The SavedModel, and `trials.json`.
        variables: Whether weights become constants, or stay variables, which other
            tools can read and set; the rest of the graph is frozen in any case.
        precision: Half precisions to try: both, none (float32), or one.
        xla: Whether to try XLA.
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
    from paring.models.quiet import quiet_tensorflow

    quiet_tensorflow()
    from paring.converters.savedmodel.serving_forms import Forms, Precision
    from paring.converters.savedmodel.serving_trials import Trial, choose, with_fixed_batch
    from paring.converters.savedmodel.trial_inputs import (
        check_batches,
        check_repeatable,
        draw_trial_inputs,
    )
    from paring.graphs.graph import load_function
    from paring.models.gpu_memory import set_gpu_memory
    from paring.models.loading import saved_model_dir
    from paring.models.signature import read_signature

    source = saved_model_dir(model)
    signature = read_signature(source)
    own = check_batches(signature, fixed_batch=fixed_batch, batch_size=batch_size)
    # The children that measure need room beside this process.
    set_gpu_memory(0)
    inputs = draw_trial_inputs(examples, signature, comparison_size, own or batch_size or 1, seed)
    trial = Trial(
        source,
        inputs,
        fixed_batch=fixed_batch,
        threads=threads or int(describe()["cores"]),
        rounds=rounds,
        windows=windows,
        min_seconds=min_seconds,
        seconds=60 * max_minutes,
        seed=seed,
    )
    check_repeatable(trial.own_difference, max_difference)
    function = load_function(source)
    forms = Forms(function, variables=variables, fixed_batch=fixed_batch)
    tolerances: dict[Precision, float] = {
        "float32": max_difference,
        "float16": max_half_difference,
        "bfloat16": max_half_difference,
    }
    changes = forms.changes(precision, xla)
    with tempfile.TemporaryDirectory(prefix="paring-optimize-") as scratch:
        choice = choose(changes, forms.build, trial, source, Path(scratch), tolerances)
        if choice.form is None and fixed_batch:
            again = Path(scratch) / "again"
            choice = with_fixed_batch(function, choice, trial, again, fixed_batch, max_difference)
        copy_tree(choice.folder, optimized.serving_dir)

    optimized.keras = "none"
    optimized.size_bytes = content_bytes(optimized.serving_dir)
    optimized.fixed_batch = fixed_batch or None
    optimized.compared_on = inputs.drawn_from
    optimized.not_applied = "; ".join(
        f"{one.tried}: {one.reason}" for one in choice.outcomes if not one.applied
    )
    optimized.difference = choice.difference
    if choice.speedup is not None:
        optimized.speedup = choice.speedup.estimate
        optimized.speedup_low, optimized.speedup_high = choice.speedup.low, choice.speedup.high
    if forms.graph is not None:
        optimized.source_operators = forms.graph.source_operators
    notes: list[str] = []
    if choice.form is None:
        optimized.operators = optimized.source_operators
        notes.append("nothing made it faster, so its graph is the source's")
    else:
        optimized.applied = str(choice.form)
        optimized.precision = choice.form.precision
        optimized.compiled = int(choice.form.compiled)
        optimized.variables = variables
        optimized.operators = forms.write(choice.form).operators
        if choice.form.compiled:
            notes.append("XLA compiles it when it first gets a batch of another size")
        if trial.variation <= tolerances[choice.form.precision]:
            notes.append("compared on inputs that hardly change the source's outputs")
    optimized.note = "; ".join(notes) or None
    rows = [asdict(one) for one in choice.outcomes]
    optimized.trials_file.write_text(json.dumps(rows, indent=2) + "\n")

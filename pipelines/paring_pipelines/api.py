"""`paring.optimize`: the whole pipeline as one function, for scripts and notebooks."""

import html
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from paring import storage
from paring.artifacts import SelectedModel
from paring.errors import ExamplesError, ModelError, OutputError, ParameterError, first_line
from paring.reporting.columns import COLUMNS, score
from paring.selection.candidates import CandidateRow, SelectionResult
from paring.selection.pareto import Gate, Objective
from paring.system.step_limits import LimitSettings
from paring_pipelines.pipeline.optimize import Settings
from paring_pipelines.pipeline.recipes import DEFAULT_FILE, Recipe, Target, load_recipes
from paring_pipelines.runners import session
from paring_pipelines.runners.places import RESULTS
from paring_pipelines.search.loop import search

SPLITS = ("x_train", "y_train", "x_eval", "y_eval")
"""Usual names of a set's arrays; see `import_examples` for those of several inputs."""


@dataclass(frozen=True)
class Result:
    """Result of `paring.optimize`; a notebook shows its table and its report.

    Attributes:
        selection: All candidates, the gate and the verdict.
        selected: The chosen model; `selected.serving_dir` holds its files.
        report: The report, a page of HTML.
        folder: Where the results and the pipeline's cache are.
    """

    selection: SelectionResult
    selected: SelectedModel
    report: Path
    folder: Path

    @property
    def candidates(self) -> tuple[CandidateRow, ...]:
        """Every candidate, the source first, then the best first."""
        return self.selection.candidates

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        return self.selection.verdict

    def save(self, folder: str | Path) -> Path:
        """Write the selected model, the report and `selection.json` into a folder.

        Args:
            folder: New or empty.

        Returns:
            The folder.

        Raises:
            OutputError: It holds files, or can't be written.
        """
        target = Path(folder).absolute()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise OutputError(
                "folder: must be new or empty", received=target, remedy="give another folder"
            )
        with storage.written_beside(target) as staged:
            staged.mkdir()
            for name in RESULTS:
                session.put(self.folder / name, staged / name)
            storage.replace(staged, target)
        return target

    def __str__(self) -> str:
        return self.verdict

    def _repr_html_(self) -> str:
        """Return the table of candidates, and the report behind a fold."""
        label = self.selection.metric.label
        headings = ("candidate", "outcome", label, *(one.heading for one in COLUMNS))
        head = "".join(f"<th>{html.escape(text)}</th>" for text in headings)
        rows = []
        for row in self.candidates:
            cells = (row.id, row.outcome, score(row), *(one.text(row) for one in COLUMNS))
            style = " style='font-weight: bold'" if row.is_selected else ""
            line = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            rows.append(f"<tr{style} title='{html.escape('; '.join(row.reasons))}'>{line}</tr>")
        page = html.escape(self.report.read_text(encoding="utf-8"))
        return (
            f"<p>{html.escape(self.verdict)}</p><table><tr>{head}</tr>{''.join(rows)}</table>"
            f"<details><summary>Report</summary><iframe srcdoc='{page}' sandbox"
            " style='width: 100%; height: 700px; border: 0'></iframe></details>"
        )


def optimize(
    model: Any,
    examples: str | Path | Mapping[str, Any],
    *,
    target: Target = "cpu-server",
    recipes: str | Path | Sequence[str] | None = None,
    out: str | Path | None = None,
    budget_minutes: float | None = None,
    max_accuracy_drop: float = 0.01,
    max_latency_ms: float = 0.0,
    max_size_mb: float = 0.0,
    max_memory_mb: float = 0.0,
    objective: Objective = "latency",
    metric: str = "auto",
    label: str = "label",
    weights: str = "",
    batch_size: int = 1,
    threads: int = 0,
    brief: bool = False,
    trust_model: bool = False,
    runner: Literal["local", "beam"] = "local",
    step_time_limit: str | None = None,
    step_memory_limit: str | None = None,
) -> Result:
    """Optimize a model, verify and measure every candidate, and choose the best.

    The same as `paring run`, whose options of the same names have the details.

    Example:
        >>> import paring
        >>> result = paring.optimize(
        ...     model, examples, recipes=["tflite-float32"], brief=True
        ... )
        >>> result.candidates[0].id
        'source'
        >>> result.save("optimized").name
        'optimized'

    Args:
        model: A model of tf_keras or Keras 3; or the path of a SavedModel, a TFX Model, or
            a .keras or .h5 file.
        examples: Arrays by name, as `SPLITS` and `import_examples` have them; or the path
            of an .npz file, TFRecords or a TFX Examples folder.
        target: Where the model will run, which decides what is tried.
        recipes: A TOML file of recipes, or names of built-in ones; all those for `target`
            without.
        out: A folder for the results and the cache, in which the same call on paths takes
            up what is there; a model in memory is saved again for each call, and its new
            file counts as another model. Without, a temporary folder, which is removed
            with the result.
        budget_minutes: Search: try recipes and their parameters in turn, for so long.
        max_accuracy_drop: Largest loss against the source by the metric: 0.01 is one point
            of accuracy, or a growth of an error by 1%.
        max_latency_ms: Limit on the median latency in milliseconds; 0 for none.
        max_size_mb: Limit on the served size in 10**6 bytes; 0 for none.
        max_memory_mb: Limit on peak memory in 10**6 bytes; 0 for none.
        objective: What the choice among those that pass is by.
        metric: Metric of the accuracy gate.
        label: Column of the labels in TFRecords.
        weights: Column of sample weights, one number of 0 or more for each example, for
            training and the metrics; "" if all count the same.
        batch_size: Examples of one call that is measured.
        threads: Threads of one call that is measured; 0 for all cores.
        brief: Train and measure briefly, to try things out.
        trust_model: Let code inside the model run.
        runner: TFX's local runner, or its Beam runner in this process.
        step_time_limit: Longest duration of a step, such as "30m"; "0" for no limit, None for
            two hours, or eight of steps that train.
        step_memory_limit: Most memory of a step's processes, such as "12GiB" or "75%"; "0"
            for no limit, None for 7/8 of the machine's memory or all of a container's. With no
            limit at all, steps run in this process, where Keras layers that are registered
            only here are known.

    Raises:
        ParameterError: An argument is invalid.
        ModelError: There is no model at the path, or it can't be read.
        ExamplesError: There are no examples at the path, or they can't be read.
        ParingError: Of the class that fits; what `out` held before is intact.
    """
    chosen = _chosen(recipes, target)
    limits = LimitSettings.parse(step_time_limit, step_memory_limit)
    settings = Settings(
        gate=Gate(max_accuracy_drop, max_latency_ms, max_size_mb, max_memory_mb, objective),
        trust_model=trust_model,
        label=label,
        weights=weights,
        metric=metric,
        batch_size=batch_size,
        threads=threads,
        brief=brief,
        check_tpu=target == "tpu",
        title="" if isinstance(model, str | Path) else str(getattr(model, "name", "")),
    )
    folder = Path(out).absolute() if out is not None else Path(tempfile.mkdtemp(prefix="paring-"))
    try:
        run = _run(model, examples, chosen, settings, folder, budget_minutes, runner, limits)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    result = Result(run.selection, SelectedModel.load(run.selected), run.report, folder)
    if out is None:
        weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _run(
    model: Any,
    examples: Any,
    recipes: Sequence[Recipe],
    settings: Settings,
    folder: Path,
    budget_minutes: float | None,
    runner: session.Runner,
    limits: LimitSettings,
) -> session.PublishedRun:
    paths = _sources(model, examples, folder)
    if budget_minutes is None:
        return session.run(*paths, recipes, settings, folder, runner=runner, limits=limits)
    return search(*paths, recipes, settings, folder, budget_minutes, runner=runner, limits=limits)


def _chosen(recipes: str | Path | Sequence[str] | None, target: Target) -> list[Recipe]:
    """Return the recipes of a file, or the built-in ones of these names.

    Raises:
        ParameterError: The file can't be read, or there is no such recipe.
    """
    if isinstance(recipes, str | Path):
        return load_recipes(Path(recipes), target)
    known = {one.name: one for one in load_recipes(DEFAULT_FILE, target)}
    if recipes is None:
        return list(known.values())
    unknown = [name for name in recipes if name not in known]
    if unknown or not recipes:
        raise ParameterError(
            f"recipes: must name built-in recipes for {target}",
            received=", ".join(unknown) or "none",
            remedy=f"give some of {', '.join(known)}, or a TOML file",
        )
    return [known[name] for name in recipes]


def _sources(model: Any, examples: Any, folder: Path) -> tuple[Path, Path]:
    """Return the paths of both sources; what is in memory is written below `folder`.

    Raises:
        ParingError: One of them is of a wrong type, or the folder can't be written.
    """
    if _is_path(model) and _is_path(examples):
        return Path(model), Path(examples)
    with session.claimed(folder):
        sources = folder / session.PIPELINE_DIR / "sources"
        sources.mkdir(exist_ok=True)
        return _model_path(model, sources), _examples_path(examples, sources)


def _is_path(given: Any) -> bool:
    return isinstance(given, str | Path) and given != ""


def _model_path(model: Any, folder: Path) -> Path:
    """Return the path of the model, which is saved if it is one in memory.

    Raises:
        ModelError: It is neither a path nor a model of Keras.
    """
    if _is_path(model):
        return Path(model)
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    if "tf_keras" in packages:
        file = folder / "model"
        shutil.rmtree(file, ignore_errors=True)
        model.save(file, save_format="tf", include_optimizer=False)
    elif "keras" in packages:
        file = folder / "model.keras"
        model.save(file)
    else:
        raise ModelError(
            "model: must be a path, or a model of tf_keras or Keras 3",
            received=repr(model) if isinstance(model, str) else type(model).__name__,
            remedy="save it with tf.saved_model.save, and give the folder",
        )
    return file


def _examples_path(examples: Any, folder: Path) -> Path:
    """Return the path of the examples, which are saved if they are arrays.

    Raises:
        ExamplesError: They are neither a path nor arrays by name.
    """
    if _is_path(examples):
        return Path(examples)
    if not isinstance(examples, Mapping) or not all(isinstance(name, str) for name in examples):
        raise ExamplesError(
            "examples: must be a path, or arrays by name",
            received=repr(examples) if isinstance(examples, str) else type(examples).__name__,
            remedy=f"give a mapping with {', '.join(SPLITS)}",
        )
    import numpy as np

    file = folder / "examples.npz"
    # As numpy.savez does, whose own arguments some names are taken for.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in examples.items():
            try:
                values = np.asarray(array)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values, allow_pickle=False)
            except ValueError as error:
                raise ExamplesError(
                    f"examples: {name} is no array of numbers",
                    received=first_line(error),
                    remedy="give rows of one shape, without Python objects in them",
                ) from error
    return file

"""`paring.optimize`: the whole pipeline as one function, for scripts and notebooks."""

import html
import inspect
import shutil
import tempfile
import textwrap
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

from paring import storage
from paring.adapters.in_memory import examples_path, is_path, model_path
from paring.artifacts import PushedModel, RuntimeConfiguration, SelectedModel
from paring.errors import OutputError, ParameterError
from paring.reporting.columns import COLUMNS, score
from paring.selection.candidates import CandidateRow, SelectionResult
from paring_pipelines.pipeline.recipes import DEFAULT_FILE, Recipe, Target, load_recipes
from paring_pipelines.pipeline.settings import LocalSettings, Settings, UserSettings
from paring_pipelines.runners import session
from paring_pipelines.runners.locations import RESULTS
from paring_pipelines.search.loop import search


@dataclass(frozen=True)
class Result:
    """Result of `paring.optimize`; a notebook shows its table and its report.

    Attributes:
        selection: All candidates, the gate and the verdict.
        selected: The chosen model; `selected.serving_dir` holds its files.
        report: The report, a page of HTML.
        folder: Where the results and the pipeline's cache are.
        tuned: Result of `tune_batch`, None without it.
        pushed: Result of the push to `push_to`, None without it.
    """

    selection: SelectionResult
    selected: SelectedModel
    report: Path
    folder: Path
    tuned: RuntimeConfiguration | None = None
    pushed: PushedModel | None = None

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
                storage.put(self.folder / name, str(staged / name))
            storage.replace(staged, target)
        return target

    def __str__(self) -> str:
        return self.verdict

    def _repr_html_(self) -> str:
        """Return the table of candidates, and the report behind a fold."""
        label = self.selection.metric.label
        headings = ("candidate", "outcome", label, *(column.heading for column in COLUMNS))
        head = "".join(f"<th>{html.escape(text)}</th>" for text in headings)
        rows = []
        for row in self.candidates:
            cells = (row.id, row.outcome, score(row), *(column.text(row) for column in COLUMNS))
            style = " style='font-weight: bold'" if row.is_selected else ""
            line = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            rows.append(f"<tr{style} title='{html.escape('; '.join(row.reasons))}'>{line}</tr>")
        page = html.escape(self.report.read_text(encoding="utf-8"))
        return (
            f"<p>{html.escape(self.verdict)}</p><table><tr>{head}</tr>{''.join(rows)}</table>"
            f"<details><summary>Report</summary><iframe srcdoc='{page}' sandbox"
            " style='width: 100%; height: 700px; border: 0'></iframe></details>"
        )


@dataclass(frozen=True)
class Arguments(UserSettings, LocalSettings):
    """Arguments of `optimize`: the settings of a run, and what only Python can hand over."""

    model: Any
    examples: str | Path | Mapping[str, Any]
    recipes: str | Path | Sequence[str] | None = field(default=None, kw_only=True)
    out: str | Path | None = field(default=None, kw_only=True)


P = ParamSpec("P")


def _takes(
    arguments: Callable[P, Arguments],
) -> Callable[[Callable[[Arguments], Result]], Callable[P, Result]]:
    """Give a function of `Arguments` their fields as its parameters, each with its help text."""

    def decorate(function: Callable[[Arguments], Result]) -> Callable[P, Result]:
        signature = inspect.signature(arguments).replace(return_annotation=Result)

        @wraps(function)
        def taking(*args: P.args, **kwargs: P.kwargs) -> Result:
            signature.bind(*args, **kwargs)
            return function(arguments(*args, **kwargs))

        texts = [
            textwrap.fill(
                f"{name}: {item.help}", 100, initial_indent=8 * " ", subsequent_indent=12 * " "
            )
            for name, item in Arguments.declared().items()
        ]
        raised = "\n\n    Raises:"
        before, _, after = (function.__doc__ or "").partition(raised)
        taking.__doc__ = "\n".join([before, *texts]) + raised + after
        taking.__dict__["__signature__"] = signature
        return taking

    return decorate


@_takes(Arguments)
def optimize(given: Arguments) -> Result:  # noqa: D417 - the parameters are the fields
    """Optimize a model, verify and measure every candidate, and choose the best.

    The same as `paring run`, whose options of the same names have the details.

    Examples:
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
        examples: Arrays by name, such as `x_train`, `y_train`, `x_eval` and `y_eval`
            (`import_examples` has those of several inputs); or the path of an .npz file,
            TFRecords or a TFX Examples folder.
        recipes: A TOML file of recipes, or names of built-in ones; all those for `target`
            without.
        out: A folder for the results and the cache, in which the same call on paths takes
            up what is there; a model in memory is saved again for each call, and its new
            file counts as another model. Without, a temporary folder, which is removed
            with the result.

    Raises:
        ParameterError: An argument is invalid.
        ModelError: There is no model at the path, or it can't be read.
        ExamplesError: There are no examples at the path, or they can't be read.
        ParingError: Of the class that fits; what `out` held before is intact.
    """
    model, out = given.model, given.out
    local = LocalSettings.pick(vars(given))
    title = "" if isinstance(model, str | Path) else str(getattr(model, "name", ""))
    settings = Settings.pick(vars(given), title=title)
    local.check()
    settings.check()
    chosen = _chosen(given.recipes, given.target)
    folder = Path(out).absolute() if out is not None else Path(tempfile.mkdtemp(prefix="paring-"))
    try:
        paths = _sources(model, given.examples, folder)
        start = session.run if local.budget_minutes is None else search
        run = start(*paths, recipes=chosen, settings=settings, out=folder, local=local)
    except BaseException:
        if out is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    result = Result(
        run.selection,
        SelectedModel.load(run.selected),
        run.report,
        folder,
        tuned=run.tuned,
        pushed=run.pushed,
    )
    if out is None:
        weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _chosen(recipes: str | Path | Sequence[str] | None, target: Target) -> list[Recipe]:
    """Return the recipes of a file, or the built-in ones of these names.

    Raises:
        ParameterError: The file can't be read, or there is no such recipe.
    """
    if isinstance(recipes, str | Path):
        return load_recipes(Path(recipes), target)
    known = {recipe.name: recipe for recipe in load_recipes(DEFAULT_FILE, target)}
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
    if is_path(model) and is_path(examples):
        return Path(model), Path(examples)
    with session.lock_workspace(folder):
        sources = folder / session.PIPELINE_DIR / "sources"
        sources.mkdir(exist_ok=True)
        return model_path(model, sources), examples_path(examples, sources)

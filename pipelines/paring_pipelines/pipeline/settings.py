"""Settings of a run, each declared once.

A field of `Settings` or `LocalSettings` is the whole declaration of a setting. A step's parameter
lends it type, range and default; `setting` adds the help text. The options of the commands,
the arguments of `paring.optimize` and the parameters of the nodes are derived from the fields.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from annotated_types import Ge, Gt

from paring.errors import ParameterError
from paring.evaluation.metrics import check_name
from paring.selection.pareto import Gate, Objective
from paring.step import Scalar, Step, parse_scalar
from paring.steps.benchmark import benchmark
from paring.steps.draw_calibration import draw_calibration
from paring.steps.evaluate import evaluate
from paring.steps.import_examples import import_examples
from paring.steps.push import push
from paring.steps.report import report
from paring.steps.select import select
from paring.storage import check_bucket
from paring.system.step_limits import MEMORY_HELP, TIME_HELP, LimitSettings
from paring_pipelines.pipeline.recipes import Target

RunnerName = Literal["local", "beam"]

_KEY = "setting"


@dataclass(frozen=True)
class Setting:
    """Declaration of one setting.

    Attributes:
        annotation: Type with bounds, or a Literal.
        default: Value where none is given.
        help: Text for users; "" for a setting that no user gives.
        metavar: Placeholder of the option's value; None for the type's own.
        step: Step that takes the value; None if the pipeline itself does.
        parameter: Name of the step's parameter.
        after_selection: True if it concerns the selected model alone, so that commands that
            select none don't take it.
    """

    annotation: Any
    default: Scalar | None
    help: str = ""
    metavar: str | None = None
    step: Step | None = None
    parameter: str = ""
    after_selection: bool = False

    @property
    def type(self) -> Any:
        """The annotation without bounds: a Python type or a Literal."""
        is_annotated = get_origin(self.annotation) is Annotated
        return get_args(self.annotation)[0] if is_annotated else self.annotation

    @property
    def bounds(self) -> tuple[Any, ...]:
        """The bounds of `annotated_types`; of two of a kind, the last one holds."""
        return get_args(self.annotation)[1:] if get_origin(self.annotation) is Annotated else ()

    @property
    def choices(self) -> tuple[str, ...]:
        """The values of a Literal, otherwise none."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    def parse(self, name: str, value: object) -> Scalar | None:
        """Return `value` in the setting's type; the default is returned as it is.

        Args:
            name: Name of the setting for the error, such as `--top-k`.
            value: Text or a value.

        Raises:
            ParameterError: It is of another type, or out of bounds.
        """
        if value is None and self.default is None:
            return None
        return parse_scalar(name, value, self.annotation, self.default)


def setting(
    source: Any,
    parameter: str = "",
    *,
    default: Any = MISSING,
    bound: Any = None,
    help: str = "",
    metavar: str | None = None,
    after_selection: bool = False,
) -> Any:
    """Declare a field of `Settings` or `LocalSettings`.

    Args:
        source: Step whose parameter lends type, range and default; otherwise a type, with
            bounds by Annotated.
        parameter: Name of the step's parameter.
        default: Default; required unless `source` is a step.
        bound: Bound that narrows the step's own.
        help: See `Setting`.
        metavar: See `Setting`.
        after_selection: See `Setting`.
    """
    step = source if isinstance(source, Step) else None
    annotation = source
    if step is not None:
        spec = step.parameters[parameter]
        annotation = spec.annotation if bound is None else Annotated[spec.annotation, bound]
        default = spec.default if default is MISSING else default
    declared = Setting(annotation, default, help, metavar, step, parameter, after_selection)
    return field(default=default, metadata={_KEY: declared})


class _Declared:
    """Base of dataclasses whose fields are settings."""

    @classmethod
    def declared(cls) -> dict[str, Setting]:
        """Return the settings by name, in the order of the fields."""
        kind: Any = cls
        return {item.name: item.metadata[_KEY] for item in fields(kind) if _KEY in item.metadata}

    @classmethod
    def pick(cls, values: Mapping[str, Any], **others: Any) -> Self:
        """Return the settings that are among `values`.

        Args:
            values: Values by name; the defaults stand in for absent ones.
            **others: Settings that are not among them.
        """
        names = cls.declared()
        return cls(**{name: value for name, value in values.items() if name in names}, **others)

    def check(self, spelled: Callable[[str], str] = str) -> None:
        """Check the values.

        Args:
            spelled: Returns the name of a setting as the user gave it, for the errors.

        Raises:
            ParameterError: A value is invalid, or not valid together with another.
        """
        for name, item in self.declared().items():
            item.parse(spelled(name), getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class UserSettings(_Declared):
    """Settings that users give for a pipeline, besides its recipes."""

    tune_batch: bool = setting(
        bool,
        default=False,
        help="Find the batch size, threads and processes with which the selected model serves"
        " the most, within the budgets of latency and memory.",
        after_selection=True,
    )
    push_to: str = setting(
        push,
        "destination",
        metavar="DIR",
        help="Push the selected model there as a new version, if it passes: a path, gs:// or"
        " s3://.",
        after_selection=True,
    )
    push_source: bool = setting(
        push,
        "push_source",
        help="Push the source too, where nothing beats it.",
        after_selection=True,
    )
    target: Target = setting(
        Target,
        default="cpu-server",
        help="Where the model will run; says which recipes are tried.",
    )
    max_accuracy_drop: float = setting(
        select,
        "max_accuracy_drop",
        help="Largest loss let pass: 0.01 for one point of accuracy; of an error, for 1%.",
    )
    metric: str = setting(
        evaluate,
        "metric",
        metavar="NAME",
        help="Metric of the accuracy gate: top_1, top_k, auc, mae, rmse, token_accuracy, or"
        " MODULE:FUNCTION of your own; auto chooses by the labels.",
    )
    top_k: int = setting(evaluate, "top_k", help="Classes of the metric top_k.")
    output: str = setting(
        evaluate,
        "output",
        metavar="NAME",
        help="The output that the gate is on alone; each if not given.",
    )
    beam_options: str = setting(
        evaluate,
        "beam_options",
        help="Where models are judged: Apache Beam's options; one worker in this process if"
        " not given.",
    )
    shared_dir: str = setting(
        evaluate,
        "shared_dir",
        metavar="URI",
        help="With workers elsewhere: a folder that all of them reach; gs://, s3:// or a path.",
    )
    max_latency_ms: float = setting(
        select,
        "max_latency_ms",
        help="Median latency of what is selected; 0 for no limit.",
    )
    max_size_mb: float = setting(
        select,
        "max_size_mb",
        help="Size in 10**6 bytes of what is selected; 0 for no limit.",
    )
    max_memory_mb: float = setting(
        select,
        "max_memory_mb",
        help="Peak memory of what is selected; 0 for no limit.",
    )
    objective: Objective = setting(select, "objective", help="What the best candidate is best at.")
    # The step takes 0, for a configuration's batch; there is none here.
    batch_size: int = setting(
        benchmark, "batch_size", default=1, bound=Ge(1), help="Examples in one measured call."
    )
    threads: int = setting(benchmark, "threads", help="Threads of one call; 0 for one a core.")
    speedup_precision: float = setting(
        benchmark,
        "precision",
        help="Relative half-width of the speed-up's interval at which measuring ends early; 0"
        " for all rounds.",
    )
    brief: bool = setting(
        bool, default=False, help="Measure latency in less time, with wider intervals."
    )
    calibration_size: int = setting(
        draw_calibration,
        "size",
        help="Examples that quantization after training takes its ranges from.",
    )
    label: str = setting(
        import_examples,
        "label",
        help="The label's feature name; with several outputs OUTPUT=NAME.",
    )
    weights: str = setting(
        import_examples,
        "weights",
        metavar="COLUMN",
        help="The examples' feature with sample weights, for training and the metrics; all"
        " count the same if not given.",
    )
    signature: str = setting(
        str,
        default="",
        metavar="NAME",
        help="Signature of the SavedModel to optimize; serving_default if not given.",
    )
    trust_model: bool = setting(
        bool, default=False, help="Let code inside the model (Lambda layers) run."
    )

    @property
    def gate(self) -> Gate:
        """The constraints on candidates, and the objective."""
        return Gate(**{item.name: getattr(self, item.name) for item in fields(Gate)})

    def of(self, step: Step) -> dict[str, Scalar]:
        """Return the values of the step's parameters that are settings."""
        return {
            item.parameter: getattr(self, name)
            for name, item in self.declared().items()
            if item.step is step
        }

    def check(self, spelled: Callable[[str], str] = str) -> None:
        """Check the values, and those that belong together."""
        super().check(spelled)
        check_name(self.metric)
        if self.push_source and not self.push_to:
            raise ParameterError(
                f"{spelled('push_source')}: there is nowhere to push to",
                remedy=f"give {spelled('push_to')} as well",
            )
        for name in ("push_to", "shared_dir"):
            check_bucket(spelled(name), getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Settings(UserSettings):
    """Settings of the pipeline besides its recipes, those that no user gives too."""

    metric_digest: str = setting(evaluate, "metric_digest")
    search: str = setting(select, "search")
    title: str = setting(report, "title")
    command: str = setting(report, "command")


@dataclass(frozen=True, kw_only=True)
class LocalSettings(_Declared):
    """Settings of a run on this machine, which don't change its result."""

    runner: RunnerName = setting(
        RunnerName,
        default="local",
        help="TFX's launcher, or its Beam runner in this process.",
    )
    jobs: int = setting(
        Annotated[int, Ge(0)],
        default=0,
        help="Nodes to work on at the same time, measurements alone; 0 for as many as cores and"
        " free memory allow.",
    )
    budget_minutes: float | None = setting(
        Annotated[float, Gt(0)],
        default=None,
        help="Search: try recipes and their parameters in turn, for so many minutes.",
    )
    step_time_limit: str | None = setting(str, default=None, metavar="TIME", help=TIME_HELP)
    step_memory_limit: str | None = setting(str, default=None, metavar="SIZE", help=MEMORY_HELP)

    @property
    def limits(self) -> LimitSettings:
        """The limits of each step."""
        return LimitSettings.parse(self.step_time_limit, self.step_memory_limit)

    @property
    def runs_one_at_a_time(self) -> bool:
        """True if steps can't run at the same time."""
        # Without limits, they run in this process.
        return self.limits.are_off or self.runner == "beam"

    def check(self, spelled: Callable[[str], str] = str) -> None:
        """Check the values, that the limits can be read, and that several jobs can run.

        Raises:
            ParameterError: A value is invalid, or does not go with another.
        """
        super().check(spelled)
        if self.runs_one_at_a_time and self.jobs > 1:
            raise ParameterError(
                f"{spelled('jobs')}: runner beam, and steps without limits, run one after another",
                received=self.jobs,
                remedy=f"leave out {spelled('jobs')}, or take runner local with a limit",
            )


LOCAL_DEFAULTS = LocalSettings()

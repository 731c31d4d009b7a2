"""Metrics of the accuracy gate: their names, and the wording of their changes.

Scores between 0 and 1, where more is better, drop by points. Errors, where less
is better, grow by a share of the source's, since their size depends on the unit
of the labels. The score of a user's own function drops in its own unit.
"""

import importlib.util
import math
import re
from dataclasses import dataclass
from pathlib import Path

from paring.artifacts import content_digest
from paring.errors import ParameterError, nearest
from paring.system.user_modules import working_directory_first

NAMES = ("auto", "top_1", "top_k", "auc", "mae", "rmse", "token_accuracy")
"""Metrics that a user can request, besides MODULE:FUNCTION."""

AGREEMENT = "agreement"
TOKEN_AGREEMENT = "token_agreement"
VALUE_AGREEMENT = "value_agreement"

_UNLABELLED = {
    AGREEMENT: "differs from the source on {}% of the examples",
    TOKEN_AGREEMENT: "differs from the source on {}% of the tokens",
    VALUE_AGREEMENT: "misses {}% of the variance of the source's outputs",
}
"""What stands in where there are no labels, and how an objection tells it."""

_LABELS = {
    "top_1": "accuracy",
    "auc": "AUC",
    "mae": "MAE",
    "rmse": "RMSE",
    "token_accuracy": "token accuracy",
    AGREEMENT: "agreement",
    TOKEN_AGREEMENT: "token agreement",
    VALUE_AGREEMENT: "agreement",
}
_ERRORS = ("mae", "rmse")
# A module is meant by my_metrics.py too, but Python would look for `py` in it.
_FUNCTION = re.compile(r"(?!.*\.py:)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_MINUS = "\N{MINUS SIGN}"


def check_name(name: str) -> None:
    """Refuse what is neither a metric's name nor a function's.

    Raises:
        ParameterError: With the nearest name.
    """
    if name in NAMES or _FUNCTION.fullmatch(name):
        return
    if ":" in name:
        raise ParameterError(
            "metric: a function is named as MODULE:FUNCTION",
            received=name,
            remedy="write it as in my_metrics:dice, for my_metrics.py in the working directory",
        )
    raise ParameterError(
        f"metric: there is no metric {name!r}",
        remedy=f"{nearest(name, NAMES)}; or MODULE:FUNCTION for one of your own",
    )


def function_digest(name: str) -> str:
    """Return the digest of the file that MODULE:FUNCTION is in, found but not run.

    It tells an edited function from the one that made an earlier result.

    Raises:
        ParameterError: The name is none of that form, or there is no such module.
    """
    check_name(name)
    module = name.partition(":")[0]
    try:
        with working_directory_first():
            result = importlib.util.find_spec(module)
    except ImportError:
        result = None
    if result is None:
        raise ParameterError(
            f"metric: there is no module {module}",
            received=name,
            remedy=f"give a module in {Path.cwd()} or one that is installed",
        )
    return content_digest(Path(result.origin)) if result.has_location and result.origin else ""


@dataclass(frozen=True)
class Metric:
    """A metric as evaluation.json and selection.json name it.

    Attributes:
        name: One of `NAMES` but auto, with top_5 for top_k of 5; MODULE:FUNCTION;
            or, without labels, the agreement that stands in for it.
        higher_is_better: False for errors.
    """

    name: str
    higher_is_better: bool = True

    @classmethod
    def named(cls, name: str) -> "Metric":
        """Return a metric of Paring's own."""
        return cls(name, name not in _ERRORS)

    @property
    def labelled(self) -> bool:
        """True if the metric compares with labels; otherwise it compares with the source alone."""
        return self.name not in _UNLABELLED

    @property
    def is_function(self) -> bool:
        """True if the metric is a user's function."""
        return ":" in self.name

    @property
    def label(self) -> str:
        """Name of the metric in tables and sentences."""
        if self.name.startswith("top_") and self.name != "top_1":
            return f"top-{self.name.removeprefix('top_')} accuracy"
        return _LABELS.get(self.name, self.name.rpartition(":")[2])

    @property
    def heading(self) -> str:
        """The label as the first word of a heading."""
        return self.label[:1].upper() + self.label[1:]

    @property
    def is_share(self) -> bool:
        """True if the metric is a share, which is shown in per cent."""
        return self.higher_is_better and not self.is_function and self.name != "auc"

    @property
    def is_relative(self) -> bool:
        """True if the metric's drop is a share of the source's score."""
        return not self.higher_is_better

    @property
    def in_points(self) -> bool:
        """True if the metric's drop is stated in points, hundredths of the whole range."""
        return self.higher_is_better and not self.is_function

    def drop(self, source: float, candidate: float) -> float:
        """Return the candidate's loss against the source; below 0 if the candidate is better.

        Args:
            source: The source's score; not 0 where the drop is relative.
            candidate: The candidate's.
        """
        if self.is_relative:
            return (candidate - source) / source
        return source - candidate

    def limit(self, source: float, allowed: float) -> float:
        """Return the score at which the drop from `source` is `allowed`."""
        return source * (1 + allowed) if self.is_relative else source - allowed

    def shown(self, score: float) -> str:
        """Return a score as text, with its unit."""
        if self.is_share:
            return f"{100 * score:.1f}%"
        return f"{score:.4f}" if self.name == "auc" else _four_digits(score)

    def change(self, drop: float) -> str:
        """Return a drop as the signed change of the score, as in a table: +0.5 or -3.1%."""
        if self.is_relative:
            text, unit = f"{100 * drop:+.1f}", "%"
        elif self.in_points:
            text, unit = f"{-100 * drop:+.1f}", ""
        else:
            text, unit = f"{-drop:+.4g}", ""
        if float(text) == 0:
            text = text.replace("+", "\N{PLUS-MINUS SIGN}").replace("-", "\N{PLUS-MINUS SIGN}")
        return text.replace("-", _MINUS) + unit

    @property
    def change_unit(self) -> str:
        """Unit of `change`, as it follows "the change is"."""
        if self.is_relative:
            return "in per cent of the source's"
        return "in points" if self.in_points else "in its own unit"

    def objection(self, drop: float, allowed: float) -> str:
        """Return the reason why a drop above the gate's limit is rejected."""
        scale = 1 if self.is_function and not self.is_relative else 100
        result, limit = format_distinct(scale * drop, scale * allowed)
        if not self.labelled:
            what = _UNLABELLED[self.name].format(result)
            return f"{what}, the gate allows {limit}% (there are no labels)"
        if self.is_relative:
            return f"{self.label} grows by {result}%, the gate allows {limit}%"
        unit = " points" if self.in_points else ""
        return f"drops {self.label} by {result}{unit}, the gate allows {limit}"

    def advantage(self, less: float) -> str:
        """Return the advantage of a drop that is smaller by `less`, as text; "" if it is none."""
        if self.in_points:
            points = f"{100 * less:.1f}"
            better = "closer to the source" if not self.labelled else "more accurate"
            return f"{points} points {better}" if float(points) > 0 else ""
        size = f"{100 * less:.1f}%" if self.is_relative else f"{less:.3g}"
        sign = "less" if self.is_relative else "more"
        return f"{size} {sign} {self.label}" if float(size.rstrip("%")) > 0 else ""

    def gate(self, allowed: float) -> str:
        """Return the gate in words, as in "accuracy drop of at most 1 point"."""
        if not self.labelled:
            of_values = self.name == VALUE_AGREEMENT
            what = "variance of the source missed" if of_values else "disagreement with the source"
            return f"{what} of at most {100 * allowed:g}%"
        if self.is_relative:
            return f"{self.label} growth of at most {100 * allowed:g}%"
        if not self.in_points:
            return f"{self.label} drop of at most {allowed:g}"
        unit = "point" if allowed == 0.01 else "points"
        return f"{self.label} drop of at most {100 * allowed:g} {unit}"

    def verdict(self, drop: float, score: float) -> str:
        """Return the end of a sentence on what was chosen, such as "at the same accuracy"."""
        if self.name == VALUE_AGREEMENT:
            return f"and gives {100 * score:.1f}% of the variance of its outputs"
        if not self.labelled:
            of = "tokens" if self.name == TOKEN_AGREEMENT else "examples"
            return f"and agrees with it on {100 * score:.1f}% of the {of}"
        scale = 100 if self.in_points or self.is_relative else 1
        size = f"{scale * abs(drop):.1f}" if scale == 100 else f"{abs(drop):.3g}"
        if float(size) == 0:
            return f"at the same {self.label}"
        unit = "%" if self.is_relative else " points" if self.in_points else ""
        less = (drop > 0) == self.higher_is_better
        return f"with {size}{unit} {'less' if less else 'more'} {self.label}"


ACCURACY = Metric("top_1")


def _four_digits(score: float) -> str:
    """Return four significant digits, without an exponent where that is readable."""
    if score == 0 or not 1e-4 <= abs(score) < 1e7:
        return f"{score:.4g}"
    return f"{score:,.{max(0, 3 - math.floor(math.log10(abs(score))))}f}"


def format_distinct(first: float, second: float) -> tuple[str, str]:
    """Format two numbers with as many decimals as it takes to distinguish them.

    One decimal at least, and two digits of the smaller one.
    """
    small = min((abs(item) for item in (first, second) if item), default=1.0)
    fewest = max(1, 1 - math.floor(math.log10(small)))
    for decimals in range(fewest, fewest + 8):
        texts = f"{first:.{decimals}f}", f"{second:.{decimals}f}"
        if texts[0] != texts[1]:
            return texts
    return repr(first), repr(second)

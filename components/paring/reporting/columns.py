"""The columns of a selection's figures: in the report, in a terminal and in Kubeflow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from paring.reporting import figures
from paring.selection.candidates import CandidateRow


@dataclass(frozen=True)
class Column:
    """A figure of each candidate.

    Attributes:
        heading: For people.
        text: Gives a candidate's figure; a dash where it was not measured.
        under: The heading of the column in which it stands on a second line, where there
            is room for that; "" for a column of its own.
        brief: Whether it is shown where there is room for little.
    """

    heading: str
    text: Callable[[CandidateRow], str]
    under: str = ""
    brief: bool = True


def _interval(row: CandidateRow) -> str:
    if row.speedup_low is None or row.speedup_high is None:
        return figures.NONE
    return f"{figures.times(row.speedup_low)} \N{EN DASH} {figures.times(row.speedup_high)}"


COLUMNS = (
    Column("Speed-up", lambda row: figures.times(row.speedup)),
    Column("95% interval", _interval, under="Speed-up", brief=False),
    Column("Latency p50", lambda row: figures.ms(row.p50_ms)),
    Column("p90", lambda row: figures.ms(row.p90_ms), under="Latency p50"),
    Column("p99", lambda row: figures.ms(row.p99_ms), under="Latency p50"),
    Column("Examples a second", lambda row: figures.scaled(row.throughput)),
    Column("Peak memory", lambda row: figures.size(row.peak_memory_bytes)),
    Column("on GPU", lambda row: figures.size(row.peak_device_memory_bytes), under="Peak memory"),
    Column("Size", lambda row: figures.size(row.size_bytes)),
    Column("gzip", lambda row: figures.size(row.gzip_bytes), under="Size"),
    Column("Smaller", lambda row: figures.times(row.size_ratio), brief=False),
    Column("Load", lambda row: figures.ms(row.load_ms), brief=False),
    Column("first call", lambda row: figures.ms(row.first_ms), under="Load", brief=False),
)
"""In the order in which they are shown; a new one is shown everywhere."""


def score(row: CandidateRow) -> str:
    """Return the candidate's score by the gate's metric; a dash where it was not measured."""
    return figures.NONE if row.score is None else row.metric.shown(row.score)


def change(row: CandidateRow) -> str:
    """Return the change of the score against the source; a dash where it was not measured."""
    return figures.NONE if row.drop is None else row.metric.change(row.drop)


def brief_columns() -> list[Column]:
    """Return the columns for where there is room for little."""
    return [column for column in COLUMNS if column.brief]


def stacked_columns() -> list[tuple[Column, Sequence[Column]]]:
    """Return the columns for where there is room for two lines, each with those under it."""
    return [
        (column, [other for other in COLUMNS if other.under == column.heading])
        for column in COLUMNS
        if not column.under
    ]


def details(below: Sequence[Column], row: CandidateRow) -> str:
    """Return the second line of a cell: those figures under its own that were measured."""
    texts = [text for column in below if (text := column.text(row)) != figures.NONE]
    units = {text.partition(" ")[2] for text in texts}
    # A unit that all have stands once, as there is little room.
    shared = f" {unit}" if len(units) == 1 and (unit := units.pop()) else ""
    return ", ".join([text.removesuffix(shared) for text in texts[:-1]] + texts[-1:])

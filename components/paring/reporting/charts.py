"""The report's charts as SVG text, the same bytes for the same figures.

Drawn by matplotlib at one unit a CSS pixel, with text left as text. Colours
become CSS variables of the page around them (`var(--ink)`), so that one drawing
serves light and dark pages.
"""

import html
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paring.evaluation.metrics import Metric
from paring.selection.candidates import CandidateRow, Outcome, SelectionResult

_COLOURS = {
    "ink": "#1c2024",
    "muted": "#646b73",
    "faint": "#b4bac1",
    "grid": "#e4e7ea",
    "accent": "#0b7a6f",
    "bad": "#b3412f",
    "surface": "#fefefe",
    "bad-wash": "#fbf1ef",
}
"""CSS variable -> what stands for it in matplotlib; no two alike."""

_FONT_PX = 12.0
_SQUASHED = 4.0
"""Losses beyond this many times what the gate allows are drawn at the edge."""


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its value, an optional upper value, and its text."""

    name: str
    value: float
    text: str
    upper: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlap(self, other: "Box") -> float:
        """Return the common area, in square pixels."""
        width = min(self.x1, other.x1) - max(self.x0, other.x0)
        height = min(self.y1, other.y1) - max(self.y0, other.y0)
        return max(width, 0.0) * max(height, 0.0)

    def within(self, outer: "Box") -> bool:
        """Return whether no part of the box is outside `outer`."""
        across = outer.x0 <= self.x0 and self.x1 <= outer.x1
        return across and outer.y0 <= self.y0 and self.y1 <= outer.y1


@dataclass(frozen=True)
class _Point:
    row: CandidateRow
    x: float
    y: float
    radius: float
    score: float
    clipped: bool
    label: str


def pareto_chart(result: SelectionResult) -> str:
    """Return latency against the gate's metric, a bubble a candidate with its size as area.

    Better is up: an axis of errors is turned over.

    Args:
        result: The selection; candidates without latency or a score are left out.

    Returns:
        An `<svg>` element, 860 by 440 pixels, with a title and a description.
    """
    metric = result.metric
    unit = 100 if metric.is_share else 1
    reference = 1.0 if result.source.score is None else result.source.score
    allowed = result.gate.max_accuracy_drop
    span = 1.0 if metric.in_points or metric.is_relative else abs(reference)
    floor = unit * metric.limit(reference, max(_SQUASHED * allowed, 0.03 * span))
    with _style("pareto"):
        figure, axes = _figure(860, 440, left=62, right=18, top=14, bottom=46)
        points = _points(result.candidates, metric, floor)
        limit = unit * metric.limit(reference, allowed)
        _scale(axes, points, limit=limit, budget_ms=result.gate.max_latency_ms)
        if not metric.higher_is_better:
            axes.invert_yaxis()
        axes.set_xlabel("median latency, ms (less is better)", color=_COLOURS["muted"])
        name = f"{metric.label}, %" if metric.is_share else metric.label
        better = "more" if metric.higher_is_better else "less"
        axes.set_ylabel(f"{name} ({better} is better)", color=_COLOURS["muted"])
        bottom, _ = axes.get_ylim()
        axes.axhspan(bottom, limit, color=_COLOURS["bad-wash"], lw=0, zorder=0)
        line = {"color": _COLOURS["bad"], "lw": 1, "ls": (0, (4, 3)), "zorder": 1}
        axes.axhline(limit, **line)
        if result.gate.max_latency_ms:
            axes.axvline(result.gate.max_latency_ms, **line)
        _frontier(axes, [p for p in points if p.row.pareto], metric)
        for point in sorted(points, key=lambda p: -p.radius):
            _bubble(axes, point)
        _labels(axes, points, limit)
        shown = "; ".join(
            f"{p.row.id}: {p.x:.3g} ms, {metric.shown(p.score)}, {p.row.outcome}" for p in points
        )
        return _svg(
            figure,
            "pareto",
            title=f"Latency against {metric.label} of each candidate",
            description=shown,
        )


def bar_chart(name: str, title: str, bars: Sequence[Bar]) -> str:
    """Return horizontal bars from zero, each under its name.

    Args:
        name: Identifier of the chart, unique in the page.
        title: What assistive technology reads first.
        bars: From top to bottom; `upper` is drawn as a thin line.

    Returns:
        An `<svg>` element, 380 pixels wide, with a title and a description.
    """
    row_px, width, room = 40, 380, 92
    with _style(name):
        figure, axes = _figure(width, max(1, len(bars)) * row_px, left=1, right=1, top=0, bottom=0)
        most = max((max(bar.value, bar.upper or 0.0) for bar in bars), default=1.0) or 1.0
        unit = (width - room) / most
        axes.set(xlim=(0, width), ylim=(len(bars) * row_px or 1, 0))
        axes.axis("off")
        for index, bar in enumerate(bars):
            top = index * row_px
            colour = _COLOURS["accent" if bar.strong else "faint"]
            end = max(bar.value * unit, 1.0)
            axes.barh(top + 26, end, height=11, color=colour, lw=0)
            if bar.upper is not None and bar.upper > bar.value:
                axes.plot([end, bar.upper * unit], [top + 26] * 2, color=colour, lw=1.5)
                end = bar.upper * unit
            weight = "bold" if bar.strong else "normal"
            axes.text(0, top + 10, bar.name, color=_COLOURS["ink"], va="center", weight=weight)
            axes.text(end + 6, top + 26, bar.text, color=_COLOURS["muted"], va="center")
        shown = "; ".join(f"{bar.name}: {bar.text}" for bar in bars)
        return _svg(figure, name, title=title, description=shown)


def _style(name: str) -> Any:
    from matplotlib import rc_context

    return rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": name,
            "font.family": "DejaVu Sans",
            "font.size": _FONT_PX,
            # A candidate may be called "a$b".
            "text.parse_math": False,
        }
    )


def _figure(
    width: float, height: float, *, left: float, right: float, top: float, bottom: float
) -> tuple[Any, Any]:
    """Return a figure of that many pixels, and axes with those margins."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # SVG is written at 72 dots an inch: one point is one pixel.
    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    FigureCanvasAgg(figure)
    inner = (width - left - right) / width, (height - top - bottom) / height
    axes = figure.add_axes((left / width, bottom / height, *inner))
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_COLOURS["faint"])
    axes.tick_params(which="both", color=_COLOURS["faint"], labelcolor=_COLOURS["muted"])
    return figure, axes


def _points(rows: Sequence[CandidateRow], metric: Metric, floor: float) -> list[_Point]:
    drawn = [(row, row.p50_ms, row.score) for row in rows if row.p50_ms and row.score is not None]
    largest = max((row.size_bytes or 0 for row, _, _ in drawn), default=0)
    points: list[_Point] = []
    for row, latency, value in drawn:
        score = (100 if metric.is_share else 1) * value
        clipped = score < floor if metric.higher_is_better else score > floor
        radius = 24 * math.sqrt(row.size_bytes / largest) if row.size_bytes else 0.0
        label = f"{row.id} ({metric.shown(value)})" if clipped else row.id
        height = floor if clipped else score
        points.append(_Point(row, latency, height, max(radius, 4.5), value, clipped, label))
    return points


def _scale(axes: Any, points: Sequence[_Point], *, limit: float, budget_ms: float) -> None:
    """Set the axes' scales, limits and ticks, with room for the labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    xs = [p.x for p in points] + ([budget_ms] if budget_ms else [])
    ys = [p.y for p in points] + [limit]
    low, high = min(xs, default=1.0), max(xs, default=1.0)
    if high / low > 4:
        pad = (high / low) ** 0.12
        axes.set_xscale("log")
        axes.set_xlim(low / pad, high * pad)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        pad = 0.15 * (high - low) or 0.5 * high
        axes.set_xlim(max(0.0, low - pad), high + pad)
        axes.xaxis.set_major_locator(MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bottom, top = min(ys), max(ys)
    pad = 0.18 * (top - bottom) or 0.01 * abs(top) or 1.0
    axes.set_ylim(bottom - pad, top + pad)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(axis="y", color=_COLOURS["grid"], lw=1)
    axes.set_axisbelow(True)


def _frontier(axes: Any, points: Sequence[_Point], metric: Metric) -> None:
    """Return the staircase of latency and score alone through the front's points."""
    up = 1 if metric.higher_is_better else -1
    best = -math.inf
    corners: list[_Point] = []
    for point in sorted(points, key=lambda p: (p.x, -up * p.y)):
        if up * point.y > best:
            best = up * point.y
            corners.append(point)
    axes.step(
        [p.x for p in corners],
        [p.y for p in corners],
        where="post",
        color=_COLOURS["accent"],
        lw=1.2,
        alpha=0.6,
        zorder=2,
    )


def _bubble(axes: Any, point: _Point) -> None:
    outcome = point.row.outcome
    if outcome is Outcome.SELECTED:
        edge, face, alpha = "accent", "accent", 0.85
    elif outcome is Outcome.REJECTED:
        edge, face, alpha = "bad", "surface", 0.75
    elif point.row.pareto:
        edge, face, alpha = "accent", "surface", 0.75
    else:
        edge, face, alpha = "muted", "surface", 0.75
    # `s` is the area of the marker's square, in points: the diameter squared.
    where = {"s": (2 * point.radius) ** 2, "marker": "v" if point.clipped else "o"}
    axes.scatter([point.x], [point.y], color=_COLOURS[face], alpha=alpha, lw=0, zorder=3, **where)
    axes.scatter(
        [point.x], [point.y], facecolor="none", edgecolor=_COLOURS[edge], lw=1.4, zorder=4, **where
    )
    if outcome is Outcome.REJECTED:
        axes.scatter(
            [point.x], [point.y], s=24, marker="x", color=_COLOURS["bad"], lw=1.4, zorder=5
        )


def _labels(axes: Any, points: Sequence[_Point], limit: float) -> None:
    """Write each label at the nearest free place beside its bubble."""
    renderer = axes.figure.canvas.get_renderer()
    edge = axes.get_window_extent(renderer)
    bounds = Box(edge.x0, edge.y0, edge.x1, edge.y1)
    gate = axes.annotate(
        "the gate",
        (edge.x1 - 4, axes.transData.transform((1, limit))[1] - 4),
        xycoords="figure pixels",
        ha="right",
        va="top",
        color=_COLOURS["bad"],
        zorder=6,
    )
    centres = [tuple(axes.transData.transform((p.x, p.y))) for p in points]
    taken = [
        Box(x - p.radius, y - p.radius, x + p.radius, y + p.radius)
        for p, (x, y) in zip(points, centres, strict=True)
    ]
    taken.append(_box(gate.get_window_extent(renderer)))
    first = {Outcome.SELECTED: 0, Outcome.PASSED: 1}
    order = sorted(
        range(len(points)),
        key=lambda i: (first.get(points[i].row.outcome, 2), not points[i].row.is_source, i),
    )
    for index in order:
        point, centre = points[index], centres[index]
        strong = point.row.is_selected
        text = axes.annotate(
            point.label,
            centre,
            xycoords="figure pixels",
            ha="center",
            va="center",
            color=_COLOURS["ink"],
            weight="bold" if strong else "normal",
            zorder=7,
        )
        extent = _box(text.get_window_extent(renderer))
        size = (extent.x1 - extent.x0, extent.y1 - extent.y0)
        box, gap = place(centre, point.radius, size=size, bounds=bounds, taken=taken)
        taken.append(box)
        middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
        text.set_position(middle)
        text.xy = middle
        if gap > 8:
            _leader(axes, centre, point.radius, box)


def place(
    centre: tuple[float, float],
    radius: float,
    *,
    size: tuple[float, float],
    bounds: Box,
    taken: Sequence[Box],
) -> tuple[Box, float]:
    """Return the first free box around a bubble, else the least covered; and its gap."""
    width, height = size
    best: tuple[float, Box, float] | None = None
    for gap in (3, 8, 16, 28, 42, 58, 76, 96):
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            reach = (radius + gap) * (1.0 if 0 in (dx, dy) else 0.75)
            x = centre[0] + dx * (reach + width / 2)
            y = centre[1] + dy * (reach + height / 2)
            box = Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            if not box.within(bounds):
                continue
            covered = sum(box.overlap(other) for other in taken)
            if covered == 0:
                return box, gap
            if best is None or covered < best[0]:
                best = (covered, box, gap)
    if best is None:
        x, y = centre
        return Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2), 0.0
    return best[1], best[2]


def _leader(axes: Any, centre: tuple[float, float], radius: float, box: Box) -> None:
    """Return a thin line from the bubble's edge to the nearest point of its label."""
    near = min(max(centre[0], box.x0), box.x1), min(max(centre[1], box.y0), box.y1)
    length = math.dist(centre, near)
    share = radius / length if length else 0.0
    start = tuple(c + share * (n - c) for c, n in zip(centre, near, strict=True))
    line = {"arrowstyle": "-", "color": _COLOURS["faint"], "lw": 1, "shrinkA": 0, "shrinkB": 0}
    pixels = {"xycoords": "figure pixels", "textcoords": "figure pixels"}
    axes.annotate("", near, start, arrowprops=line, zorder=2, **pixels)


def _box(extent: Any) -> Box:
    return Box(extent.x0, extent.y0, extent.x1, extent.y1)


def _svg(figure: Any, name: str, *, title: str, description: str) -> str:
    """Return the figure as an element to be put into a page."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    # Metadata and namespaces, which HTML does not need, are the only addresses in it.
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    # Every chart of the page numbers its parts from 1.
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    for variable, colour in _COLOURS.items():
        text = text.replace(colour, f"var(--{variable})")
    text = text.replace("'DejaVu Sans'", "var(--font)")
    head = (
        f'<svg class="chart" role="img" aria-labelledby="{name}-title {name}-description"'
        ' preserveAspectRatio="xMinYMin meet"'
    )
    inner = (
        f'<title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-description">{html.escape(description)}</desc>'
    )
    opening, rest = text.split(">", 1)
    return f"{opening.replace('<svg', head, 1)}>{inner}{rest}"

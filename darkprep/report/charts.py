"""Line charts as values for a template: paths in a box of 1000 x 1000, ticks, legend, numbers.

The template draws the paths as SVG that stretches to its box, and the labels as HTML text, so both stay
sharp at every width without a library. The trade-off: a curve is drawn with at most a few hundred points;
each is the mean of the points that it replaces, or on request one of their extremes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

_DRAWN_POINTS = 400
_SMOOTHED_POINTS = 4000
_READOUT_POINTS = 160
_TABLE_ROWS = 24
_TICKS = 5

Points = Sequence[tuple[float, float]]
"""(x, y) in ascending x."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One curve of a chart."""

    name: str
    points: Points
    style: Literal["line", "thin", "area", "dots", "points"] = "line"
    """A line, a thin one, one with the area below it, one with a dot at each point, or the dots alone."""
    colour: int = 1
    """Number of the curve's colour in the style sheet, 1 to 6."""
    keep_extremes: bool = False
    """Whether to downsample to the lowest and highest point of each section instead of its mean."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Several curves in one pair of axes."""

    title: str
    description: str
    """What the chart shows in one sentence, also for readers who cannot see it."""
    curves: tuple[Curve, ...]
    """The curves; the values of the last one are also listed as numbers, for screen readers."""
    x_label: str
    format_y: Callable[[float], str]
    format_x: Callable[[float], str] = lambda value: f"{value:,.0f}"
    x_resolution: float = 1.0
    """The smallest difference in x that `format_x` shows, a power of ten; 0 for no limit."""
    y_resolution: float = 0.0
    """The smallest difference in y that `format_y` shows, a power of ten; 0 for no limit."""
    log_scale: bool = False
    """Whether the y axis is logarithmic, if all values are positive."""
    starts_at_zero: bool = False
    limit: tuple[str, float] | None = None
    """Name and y value of a limit, drawn as a line."""
    mark: tuple[str, float, float] | None = None
    """Name, x and y of a point of a curve that is marked."""
    wide: bool = False

    def layout(self) -> ChartLayout | None:
        """Return all values that the template needs; None if no curve has two points."""
        curves = [curve for curve in self.curves if len(curve.points) > 1]
        if not curves:
            return None
        axes = _Axes(self, curves)
        main = curves[-1]
        return ChartLayout(
            title=self.title,
            description=self.description,
            wide=self.wide,
            x_label=self.x_label,
            y_label=main.name,
            grid="".join(f"M0 {axes.y(value):.2f}H1000" for value in axes.y_values()),
            limit=f"M0 {axes.y(self.limit[1]):.2f}H1000" if self.limit else "",
            paths=(
                *(path for curve in curves for path in _paths(curve, axes)),
                *([_mark(self.mark, axes)] if self.mark else []),
            ),
            x_ticks=axes.x_ticks(),
            y_ticks=axes.y_ticks(),
            legend=_legend(self, curves),
            readout=tuple(
                (
                    round(axes.x(x) / 1000, 4),
                    f"{self.format_x(x)} {self.x_label}: {self.format_y(y)}",
                )
                for x, y in downsample(main.points, _READOUT_POINTS)
            ),
            rows=tuple(
                (self.format_x(x), self.format_y(y))
                for x, y in downsample(main.points, _TABLE_ROWS)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A labelled position on an axis."""

    percent: float
    """Distance from the left or the top of the chart."""
    text: str
    edge: Literal["", "first", "last"] = ""
    """The end of the axis to which the tick is so close that its label cannot be centred."""


@dataclass(frozen=True, kw_only=True)
class ChartPath:
    """An SVG path with its CSS classes."""

    data: str
    css: str


@dataclass(frozen=True, kw_only=True)
class ChartLayout:
    """The values from which the template draws a chart."""

    title: str
    description: str
    wide: bool
    x_label: str
    y_label: str
    grid: str
    limit: str
    """SVG path data of the limit; empty for none."""
    paths: tuple[ChartPath, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    legend: tuple[tuple[str, str], ...]
    """CSS class and name of each curve; empty if there is only one."""
    readout: tuple[tuple[float, str], ...]
    """Position from 0 (left) to 1, and the text that is shown there."""
    rows: tuple[tuple[str, str], ...]


class _Axes:
    """Maps values to a box of 1000 x 1000 in which y increases downwards."""

    def __init__(self, chart: Chart, curves: Sequence[Curve]) -> None:
        xs = [x for curve in curves for x, _ in curve.points]
        ys = [y for curve in curves for _, y in curve.points]
        if chart.limit:
            ys.append(chart.limit[1])
        if chart.starts_at_zero:
            ys.append(0.0)
        self._chart = chart
        self._left, self._right = min(xs), max(xs)
        low, high = min(ys), max(ys)
        self._log = chart.log_scale and low > 0
        if self._log:
            low, high = math.log10(low), math.log10(high)
        else:
            # Fewer steps of the resolution than ticks would label several ticks alike.
            missing = max(0.0, _TICKS * chart.y_resolution - (high - low))
            low -= 0 if chart.starts_at_zero else missing / 2
            high += missing if chart.starts_at_zero else missing / 2
        margin = (high - low or abs(high) or 1.0) * 0.06
        self._low = low if chart.starts_at_zero else low - margin
        self._high = high + margin

    def x(self, value: float) -> float:
        return 1000 * (value - self._left) / ((self._right - self._left) or 1.0)

    def y(self, value: float) -> float:
        scaled = math.log10(value) if self._log else value
        return 1000 - 1000 * (scaled - self._low) / (self._high - self._low)

    def x_ticks(self) -> tuple[Tick, ...]:
        ticks = []
        for value in nice_ticks(self._left, self._right, resolution=self._chart.x_resolution):
            percent = self.x(value) / 10
            edge: Literal["", "first", "last"] = (
                "first" if percent < 3 else "last" if percent > 94 else ""
            )
            ticks.append(Tick(percent=percent, text=self._chart.format_x(value), edge=edge))
        return tuple(ticks)

    def y_ticks(self) -> tuple[Tick, ...]:
        return tuple(
            Tick(percent=self.y(value) / 10, text=self._chart.format_y(value))
            for value in self.y_values()
        )

    def y_values(self) -> list[float]:
        """Return the values that get a tick and a grid line."""
        if not self._log:
            return nice_ticks(self._low, self._high, resolution=self._chart.y_resolution)
        steps = [
            factor * 10.0**power
            for power in range(math.floor(self._low), math.ceil(self._high) + 1)
            for factor in (1, 2, 5)
        ]
        inside = [step for step in steps if self._low <= math.log10(step) <= self._high]
        if len(inside) < 3:  # a narrow range
            return nice_ticks(10**self._low, 10**self._high, resolution=self._chart.y_resolution)
        return inside[:: -(-len(inside) // (_TICKS + 1))]


def nice_ticks(low: float, high: float, *, resolution: float = 0.0) -> list[float]:
    """Return three to six round numbers between `low` and `high`; multiples of `resolution`, a power of ten."""
    if not high > low:
        return [low]
    wanted = max((high - low) / _TICKS, resolution)
    power = 10.0 ** math.floor(math.log10(wanted) + 1e-9)
    step = next(
        factor * power
        for factor in (1, 2, 2.5, 5, 10)
        if factor * power >= wanted * 0.999 and _is_multiple(factor * power, resolution)
    )
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [(first + index) * step for index in range(count)]


def _is_multiple(value: float, unit: float) -> bool:
    return not unit or abs(value / unit - round(value / unit)) < 1e-6


def downsample(
    points: Points, most: int, *, keep_extremes: bool = False
) -> list[tuple[float, float]]:
    """Reduce a curve of more than `most` points, sorted by x, to about `most` points.

    The curve is split into sections with equal numbers of points. Each section is replaced by its mean or,
    with `keep_extremes`, by its points with the smallest and the largest y.
    """
    if len(points) <= most:
        return list(points)
    stretches = most // 2 if keep_extremes else most
    edges = [round(index * len(points) / stretches) for index in range(stretches + 1)]
    kept: list[tuple[float, float]] = []
    for begin, end in itertools.pairwise(edges):
        part = points[begin:end]
        if keep_extremes:
            by_y = sorted(part, key=lambda point: point[1])
            kept += sorted({by_y[0], by_y[-1]})
        else:
            kept.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return kept


def smooth(points: Points) -> list[tuple[float, float]]:
    """Return the points with each y replaced by the mean over a centred window of a twelfth of all points.

    More than 4,000 points are averaged in groups first, because the time grows with the square of their number.
    """
    points = downsample(points, _SMOOTHED_POINTS)
    reach = max(1, len(points) // 24)
    smoothed = []
    for index, (x, _) in enumerate(points):
        # Narrower at the ends, to stay centred.
        near = min(reach, index, len(points) - 1 - index)
        around = points[index - near : index + near + 1]
        smoothed.append((x, sum(y for _, y in around) / len(around)))
    return smoothed


def _paths(curve: Curve, axes: _Axes) -> list[ChartPath]:
    points = [
        (axes.x(x), axes.y(y))
        for x, y in downsample(curve.points, _DRAWN_POINTS, keep_extremes=curve.keep_extremes)
    ]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    colour = f"c{curve.colour}"
    if curve.style == "thin":
        return [ChartPath(data=line, css=f"{colour} thin")]
    paths = [] if curve.style == "points" else [ChartPath(data=line, css=colour)]
    if curve.style in ("dots", "points"):
        # A line of no length with a round cap is a dot that stays round when the box is stretched.
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        paths.append(ChartPath(data=dots, css=f"{colour} dots"))
    if curve.style == "area":
        area = f"{line}L{points[-1][0]:.1f} 1000L{points[0][0]:.1f} 1000Z"
        paths.insert(0, ChartPath(data=area, css=f"{colour} fill"))
    return paths


def _legend(chart: Chart, curves: Sequence[Curve]) -> tuple[tuple[str, str], ...]:
    entries = [(f"k{curve.colour}", curve.name) for curve in curves if curve.style != "thin"]
    if chart.limit:
        entries.append(("kl", chart.limit[0]))
    if chart.mark:
        entries.append(("kl", chart.mark[0]))
    return tuple(entries) if len(entries) > 1 else ()


def _mark(mark: tuple[str, float, float], axes: _Axes) -> ChartPath:
    """Return a marked point: like a dot of a curve, but larger and in another colour."""
    return ChartPath(data=f"M{axes.x(mark[1]):.1f} {axes.y(mark[2]):.1f}h0", css="mark")

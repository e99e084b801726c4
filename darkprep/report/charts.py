"""Curves as inline SVG with HTML labels: sharp lines and readable words at every width, without a library.

The SVG is stretched to its box and its strokes are not; labels are text of the page. The trade-off: at
most some hundred points are drawn, each the mean of what it stands for, or its extremes where asked.
"""

from __future__ import annotations

import html
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

_POINTS = 400
_READ_POINTS = 160
_ROWS = 24
_TICKS = 5

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve: (x, y) in ascending x."""

    name: str
    points: Points
    style: Literal["line", "thin", "area", "dots"] = "line"
    colour: int = 1
    """1 to 3."""
    extremes: bool = False
    """Thin out to the lowest and highest of each stretch, not to its mean."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A figure with axes."""

    title: str
    says: str
    """What is to be seen, in a sentence, also for those who do not see it."""
    series: tuple[Series, ...]
    x_name: str
    y_text: Callable[[float], str]
    """How a value is spelled."""
    x_text: Callable[[float], str] = lambda value: f"{value:,.0f}"
    log: bool = False
    from_zero: bool = False
    limit: tuple[str, float] | None = None
    """A line that must not be crossed, and its name."""
    wide: bool = False

    def html(self) -> str:
        """The figure; nothing where no curve has two points."""
        drawn = [series for series in self.series if len(series.points) > 1]
        if not drawn:
            return ""
        frame = _Frame(self, drawn)
        lines = "".join(_path(series, frame) for series in drawn)
        limit = ""
        if self.limit:
            height = frame.y(self.limit[1])
            limit = f'<path class="limit" d="M0 {height:.2f}H1000"/>'
        return (
            f'<figure class="card{" wide" if self.wide else ""}"><h3>{html.escape(self.title)}</h3>'
            f'<p class="says">{html.escape(self.says)}</p>'
            f'<div class="plot" tabindex="0" role="group" aria-roledescription="chart" aria-label="{html.escape(f"{self.title}. {self.says}")}" '
            f"data-points='{_read_points(self, drawn, frame)}'>"
            f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">'
            f"{frame.grid()}{limit}{lines}</svg>{frame.labels()}"
            f'<span class="cursor"></span><span class="readout" role="status"></span></div>'
            f"{_legend(self, drawn)}{_numbers(self, drawn)}</figure>"
        )


class _Frame:
    """Where values stand in a box of 1000 x 1000."""

    def __init__(self, chart: Chart, drawn: Sequence[Series]) -> None:
        xs = [x for series in drawn for x, _ in series.points]
        ys = [y for series in drawn for _, y in series.points]
        if chart.limit:
            ys.append(chart.limit[1])
        self._chart = chart
        self._left, self._right = min(xs), max(xs)
        self.log = chart.log and min(ys) > 0
        low, high = min(ys), max(ys)
        if chart.from_zero:
            low = min(0.0, low)
        if self.log:
            self._low, self._high = math.log10(low), math.log10(high)
        else:
            self._low, self._high = low, high
        slack = (self._high - self._low or abs(self._high) or 1.0) * 0.06
        self._low -= 0 if chart.from_zero and not self.log else slack
        self._high += slack

    def x(self, value: float) -> float:
        return 1000 * (value - self._left) / ((self._right - self._left) or 1.0)

    def y(self, value: float) -> float:
        place = math.log10(value) if self.log else value
        return 1000 - 1000 * (place - self._low) / (self._high - self._low)

    def grid(self) -> str:
        lines = "".join(f"M0 {self.y(value):.2f}H1000" for value in self._y_ticks())
        return f'<path class="grid" d="{lines}"/>'

    def labels(self) -> str:
        shown = [
            f'<span class="tick y" aria-hidden="true" style="top:{self.y(value) / 10:.2f}%">'
            f"{html.escape(self._chart.y_text(value))}</span>"
            for value in self._y_ticks()
        ]
        for value in nice_ticks(self._left, self._right):
            place = self.x(value) / 10
            side = " first" if place < 3 else " last" if place > 94 else ""
            words = self._chart.x_text(value)
            shown.append(
                f'<span class="tick x{side}" aria-hidden="true" style="left:{place:.2f}%">{html.escape(words)}</span>'
            )
        shown.append(
            f'<span class="tick name" aria-hidden="true">{html.escape(self._chart.x_name)}</span>'
        )
        return "".join(shown)

    def _y_ticks(self) -> list[float]:
        if not self.log:
            return nice_ticks(self._low, self._high)
        steps = [
            factor * 10.0**power
            for power in range(math.floor(self._low), math.ceil(self._high) + 1)
            for factor in (1, 2, 5)
        ]
        inside = [step for step in steps if self._low <= math.log10(step) <= self._high]
        every = -(-len(inside) // (_TICKS + 1)) or 1
        # Of a narrow reach no round step may lie inside.
        return inside[::every] if len(inside) > 1 else [10**self._low, 10**self._high]


def nice_ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, three to six of them."""
    if not high > low:
        return [low]
    raw = (high - low) / _TICKS
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [(first + index) * step for index in range(count)]


def thinned(points: Points, most: int, *, extremes: bool = False) -> list[tuple[float, float]]:
    """At most about `most` points: means of equal stretches, or the two extremes of each, in order."""
    if len(points) <= most:
        return list(points)
    stretches = most // 2 if extremes else most
    edges = [round(index * len(points) / stretches) for index in range(stretches + 1)]
    kept: list[tuple[float, float]] = []
    for begin, end in itertools.pairwise(edges):
        part = points[begin:end]
        if extremes:
            ends = {min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])}
            kept += sorted(ends)
        else:
            kept.append((sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)))
    return kept


def smoothed(points: Points) -> list[tuple[float, float]]:
    """The mean of each point's neighbourhood, a twelfth of the course wide; it does not lag behind."""
    reach = max(1, len(points) // 24)
    out = []
    for index, (x, _) in enumerate(points):
        # Narrower at the ends, where there is nothing on one side.
        near = min(reach, index, len(points) - 1 - index)
        around = points[index - near : index + near + 1]
        out.append((x, sum(y for _, y in around) / len(around)))
    return out


def _path(series: Series, frame: _Frame) -> str:
    points = [
        (frame.x(x), frame.y(y))
        for x, y in thinned(series.points, _POINTS, extremes=series.extremes)
    ]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    colour = f"c{series.colour}"
    if series.style == "dots":
        # A line of no length with a round cap is a dot that stays round when the box is stretched.
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
        return f'<path class="{colour}" d="{line}"/><path class="{colour} dots" d="{dots}"/>'
    if series.style == "area":
        area = f"{line}L{points[-1][0]:.1f} 1000L{points[0][0]:.1f} 1000Z"
        # A fill set by attribute would lose against the rule that paths have none.
        return (
            f'<path class="fill" style="fill:var(--{("one", "two", "three")[series.colour - 1]})" d="{area}"/>'
            f'<path class="{colour}" d="{line}"/>'
        )
    return f'<path class="{colour}{" thin" if series.style == "thin" else ""}" d="{line}"/>'


def _read_points(chart: Chart, drawn: Sequence[Series], frame: _Frame) -> str:
    """What the readout tells at which place; of the last series, which is the smooth one."""
    found = []
    for x, y in thinned(drawn[-1].points, _READ_POINTS):
        words = f"{chart.x_text(x)} {chart.x_name}: {chart.y_text(y)}"
        found.append([round(frame.x(x) / 1000, 4), words])
    return html.escape(json.dumps(found, separators=(",", ":"), ensure_ascii=False))


def _legend(chart: Chart, drawn: Sequence[Series]) -> str:
    entries = [(f"k{series.colour}", series.name) for series in drawn if series.style != "thin"]
    if chart.limit:
        entries.append(("kl", chart.limit[0]))
    if len(entries) < 2:
        return ""
    shown = "".join(
        f'<li class="{key}"><i></i><span>{html.escape(name)}</span></li>' for key, name in entries
    )
    return f'<ul class="legend">{shown}</ul>'


def _numbers(chart: Chart, drawn: Sequence[Series]) -> str:
    """The curve as a table, for whoever cannot see it or wants to copy it."""
    rows = "".join(
        f"<tr><td>{html.escape(chart.x_text(x))}</td><td class=n>{html.escape(chart.y_text(y))}</td></tr>"
        for x, y in thinned(drawn[-1].points, _ROWS)
    )
    return (
        f'<details><summary>Numbers</summary><div class="scroll tall"><table><thead><tr>'
        f"<th>{html.escape(chart.x_name)}</th><th class=n>{html.escape(drawn[-1].name)}</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div></details>"
    )

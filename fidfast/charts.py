"""Charts as inline SVG: they take the page's colours, light or dark, and say in words what they show."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

PALETTE = 8  # colours that the page's style names --c0 to --c7; a chart never tells by colour alone
_WIDTH = 720.0


class Point(NamedTuple):
    """``error``: half the error bar; ``says``: shown where the reader points at it."""

    x: float
    y: float
    error: float | None = None
    says: str = ""


class Curve(NamedTuple):
    """Points in order of x, and how they are drawn: a line through them, a dashed or dotted one, or none."""

    name: str
    points: Sequence[Point]
    line: Literal["solid", "dashed", "dotted", "none"] = "solid"
    colour: int = 0


class Bar(NamedTuple):
    """One row of `stacked_bars`: lengths of its parts by name, and what stands at its end."""

    name: str
    parts: Sequence[tuple[str, float]]
    says: str


class Scale:
    """Numbers → places between ``first`` and ``last`` on the page; ``ticks`` at round numbers, both ends inside."""

    def __init__(self, low: float, high: float, first: float, last: float, *, logarithmic: bool = False) -> None:
        self.low, self.high, self.first, self.last, self.logarithmic = low, high, first, last, logarithmic

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = 0.5 if high == low else (value - low) / (high - low)
        return self.first + share * (self.last - self.first)

    def ticks(self, about: int = 5) -> list[float]:
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if math.log10(self.high / self.low) < 2.5 else (1,)
            return [m * 10.0**e for e in decades for m in steps if self.low <= m * 10.0**e <= self.high]
        if self.high == self.low:
            return [self.low]
        step = round_step((self.high - self.low) / about)
        count = math.floor((self.high - self.low) / step + 1e-9)
        start = math.ceil(self.low / step - 1e-9)
        return [(start + i) * step for i in range(count + 1) if (start + i) * step <= self.high * (1 + 1e-12)]


def round_step(step: float) -> float:
    """The smallest of 1, 2, 2.5, 5 or 10 times a power of ten that is at least ``step``."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= step * (1 - 1e-9))


def value_scale(values: Sequence[float], first: float, last: float, *, highest: float | None = None) -> Scale:
    """A vertical axis for ``values``: from 0, unless that would flatten them; logarithmic where they span 30 times."""
    low, high = min(values), max(values)
    if highest is None and low > 0 and high > 30 * low:
        return Scale(low / 1.15, high * 1.15, first, last, logarithmic=True)
    if highest is not None:
        return Scale(0.0, highest, first, last)
    if low > 0 and low < 0.6 * high:
        low = 0.0
    step = round_step(max(high - low, abs(high) * 1e-3, 1e-9) / 4)
    return Scale(math.floor(low / step) * step, math.ceil(high / step) * step, first, last)


def number(value: float) -> str:
    """As short as an axis wants it: 12,000 · 120 · 12.5 · 0.25"""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}".replace("-", "−") if abs(value) >= 1e-3 else f"{value:.0e}".replace("-", "−")


def count_name(count: float) -> str:
    """2000 → 2k, 1500 → 1.5k, 800 → 800"""
    if count >= 1e6:
        return f"{count / 1e6:.3g}M"
    return f"{count / 1000:.4g}k" if count >= 1000 else f"{count:.0f}"


def line_chart(
    says: str,
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str = "FID",
    x_ticks: Sequence[tuple[float, str]] | None = None,
    logarithmic_x: bool = False,
    x_range: tuple[float, float] | None = None,
    highest: float | None = None,
    values: bool = False,
    baseline: float | None = None,
    pictures: Sequence[str] = (),
    width: float = _WIDTH,
) -> str:
    """Curves with error bars and markers, a different marker each; a legend where there are several.

    Args:
        says: the chart in words, for those who do not see it.
        x_ticks: places and names on the horizontal axis; default: round numbers.
        x_range: the ends of the horizontal axis; default: those of the points.
        highest: the top of the vertical axis, which then begins at 0; default: by the points.
        values: write the value above each point.
        baseline: a dotted line at this height.
        pictures: data URIs, one below each tick.
    """
    if not any(curve.points for curve in curves):
        raise ValueError("curves: expected at least one point, got none")
    names = [curve.name for curve in curves] if len(curves) > 1 else []
    places, legend = _in_rows(names, width, 58.0, 6.7)
    left, right, top, plot = 58.0, width - 18.0, 26.0 + legend, 190.0
    bottom = top + plot
    points = [point for curve in curves for point in curve.points]
    ends = [point.y + sign * (point.error or 0.0) for point in points for sign in (-1, 1)]
    y = value_scale(ends, bottom, top, highest=highest)
    low, high = x_range or (min(point.x for point in points), max(point.x for point in points))
    inset = (right - left) / (2 * len(x_ticks)) if pictures and x_ticks else 22.0
    x = Scale(low, high, left + inset, right - inset, logarithmic=logarithmic_x)
    named = x_ticks if x_ticks is not None else [(tick, number(tick)) for tick in x.ticks(6)]

    parts = [f'<text class="axis" x="0" y="{top - 12:.1f}">{html.escape(y_label)}'
             f"{' (logarithmic)' if y.logarithmic else ''}</text>"]  # fmt: skip
    parts += [_key(curve, shape, *place) for shape, (curve, place) in enumerate(zip(curves, places, strict=False))]
    for tick in y.ticks(4):
        height = y.place(tick)
        parts.append(f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text class="axis end" x="{left - 8:.1f}" y="{height + 4:.1f}">{number(tick)}</text>')
    for tick, name in named:
        place = x.place(tick)
        below = bottom + 20
        parts.append(f'<text class="axis middle" x="{place:.1f}" y="{below:.1f}">{html.escape(name)}</text>')
    size = min((right - left) / max(len(named), 1) - 6, 150.0)
    for (tick, _), picture in zip(named, pictures, strict=False):
        parts.append(
            f'<image href="{html.escape(picture)}" x="{x.place(tick) - size / 2:.1f}" y="{bottom + 30:.1f}" '
            f'width="{size:.1f}" height="{size:.1f}"/>'
        )
    label_at = bottom + (size + 46 if pictures else 42)
    if x_label:
        parts.append(f'<text class="axis end" x="{right:.1f}" y="{label_at:.1f}">{html.escape(x_label)}</text>')
    if baseline is not None:
        height = y.place(baseline)
        parts.append(f'<line class="base" x1="{left:.1f}" x2="{right:.1f}" y1="{height:.1f}" y2="{height:.1f}"/>')
    for shape, curve in enumerate(curves):
        parts.append(_draw(curve, shape, x, y, values))
    total = label_at + (8 if x_label else -8)
    return _svg(says, width, total, parts)


def _draw(curve: Curve, shape: int, x: Scale, y: Scale, values: bool) -> str:
    places = [(x.place(point.x), y.place(point.y)) for point in curve.points]
    parts = [f'<g class="curve c{curve.colour % PALETTE}">']
    if curve.line != "none" and len(places) > 1:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline class="{curve.line}" points="{path}"/>')
    for point, (a, b) in zip(curve.points, places, strict=True):
        parts.append("<g>")
        if point.says:
            parts.append(f"<title>{html.escape(point.says)}</title>")
        if point.error is not None:
            up, down = y.place(point.y + point.error), y.place(point.y - point.error)
            bar = f"M{a:.1f} {up:.1f}V{down:.1f}M{a - 4:.1f} {up:.1f}h8M{a - 4:.1f} {down:.1f}h8"
            parts.append(f'<path class="error" d="{bar}"/>')
        parts.append(_marker(shape, a, b))
        if values:
            parts.append(f'<text class="value middle" x="{a:.1f}" y="{b - 10:.1f}">{point.y:.1f}</text>')
        parts.append("</g>")
    parts.append("</g>")
    return "".join(parts)


def _marker(shape: int, x: float, y: float) -> str:
    outlines = (
        "",
        f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z",
        f"M{x - 4:.1f} {y - 4:.1f}h8v8h-8z",
        f"M{x:.1f} {y - 5:.1f}l5 9h-10z",
    )
    outline = outlines[shape % len(outlines)]
    if not outline:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    return f'<path class="mark{" open" if shape % 2 else ""}" d="{outline}"/>'


def _key(curve: Curve, shape: int, x: float, y: float) -> str:
    """What stands for a curve in the legend."""
    line = "" if curve.line == "none" else f'<path class="{curve.line}" d="M{x:.1f} {y + 9:.1f}h26"/>'
    return (
        f'<g class="curve c{curve.colour % PALETTE}">{line}{_marker(shape, x + 13, y + 9)}</g>'
        f'<text class="axis" x="{x + 34:.1f}" y="{y + 13:.1f}">{html.escape(curve.name)}</text>'
    )


def _in_rows(names: Sequence[str], width: float, key: float, letter: float) -> tuple[list[tuple[float, float]], float]:
    """Where the names of a legend stand, and its height: as many in a row as there is room for."""
    places, x, y = [], 0.0, 0.0
    for name in names:
        needed = key + letter * len(name)
        if x > 0 and x + needed > width:
            x, y = 0.0, y + 22.0
        places.append((x, y))
        x += needed
    return places, y + 26.0 if names else 0.0


def stacked_bars(says: str, bars: Sequence[Bar], *, width: float = _WIDTH) -> str:
    """Horizontal bars of one length, each split into parts by their share; a part has one colour in every bar."""
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))
    left = min(30 + 7.2 * max(len(bar.name) for bar in bars), 0.38 * width)
    right = width - 14 - 7.2 * max(len(bar.says) for bar in bars)
    places, legend = _in_rows(names, width, 34.0, 7.2)
    parts = [
        f'<g class="curve c{index % PALETTE}"><rect class="part" x="{x:.1f}" y="{y + 2:.1f}" width="12" height="12"/>'
        "</g>"
        f'<text class="axis" x="{x + 18:.1f}" y="{y + 13:.1f}">{html.escape(name)}</text>'
        for index, (name, (x, y)) in enumerate(zip(names, places, strict=True))
    ]
    top = legend + 12.0
    for bar in bars:
        parts.append(f'<text class="axis name" x="0" y="{top + 15:.1f}">{html.escape(bar.name)}</text>')
        begin, whole = left, sum(length for _, length in bar.parts) or 1.0
        for name, length in bar.parts:
            size = length / whole * (right - left)
            share = f"{name}: {length / whole:.0%}"
            parts.append(
                f'<g class="curve c{names.index(name) % PALETTE}"><rect class="part" x="{begin:.1f}" y="{top:.1f}" '
                f'width="{max(size, 0.5):.1f}" height="22"><title>{html.escape(share)}</title></rect></g>'
            )
            begin += size
        parts.append(f'<text class="axis" x="{begin + 8:.1f}" y="{top + 15:.1f}">{html.escape(bar.says)}</text>')
        top += 34
    return _svg(says, width, top, parts)


def _svg(says: str, width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<div class="scroll"><svg role="img" aria-label="{html.escape(says)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="min-width:{width / 24:.0f}rem">' + "".join(parts) + "</svg></div>"
    )

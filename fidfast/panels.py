"""The demo's measurements as a plain table and as one PNG picture, drawn by matplotlib."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fidfast.result import FIDResult


class ReportError(RuntimeError):
    """The picture cannot be made here."""


class Measurement(NamedTuple):
    """One FID of a series: `strength` is its label, such as "2 px"; `seconds` the wall time it took."""

    series: str
    strength: str
    fid: FIDResult
    seconds: float


class Panel(NamedTuple):
    """One small picture: FID against strength, with a thumbnail (H, W, 3) uint8 for each strength."""

    title: str
    subtitle: str
    labels: Sequence[str]
    values: Sequence[float]
    thumbnails: Sequence[np.ndarray]


_SURFACE, _INK, _MUTED, _LINE, _ACCENT = "#ffffff", "#1c1c1a", "#6b6a64", "#e3e2dc", "#1f6fd0"


def require_matplotlib() -> None:
    """ReportError naming the extra to install when matplotlib is not there; imports nothing."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ReportError('matplotlib is not installed, and the picture needs it: pip install "fidfast[report]"')


def format_table(rows: Sequence[Measurement]) -> str:
    """The measurements as a plain text table; a series is named once."""
    lines = [("distortion", "strength", "FID", "seconds")]
    previous = ""
    for row in rows:
        name = row.series if row.series != previous else ""
        lines.append((name, row.strength, f"{float(row.fid):.2f}", f"{row.seconds:.1f}"))
        previous = row.series
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    text = [
        f"{line[0]:<{widths[0]}}  {line[1]:<{widths[1]}}  {line[2]:>{widths[2]}}  {line[3]:>{widths[3]}}"
        for line in lines
    ]
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def draw_panels(panels: Sequence[Panel]) -> bytes:
    """A PNG with one small panel per series, two a row. Needs matplotlib; touches none of its global state."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(11, 4.5 * rows), dpi=150, facecolor=_SURFACE)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows, 2, left=0.045, right=0.99, top=1 - 0.13 / rows, bottom=0.0, wspace=0.15, hspace=0.2
    )
    highest = max(max(panel.values) for panel in panels) or 1.0
    for index, panel in enumerate(panels):
        cell = grid[index // 2, index % 2].subgridspec(2, 1, height_ratios=(2.15, 1.35), hspace=0.04)
        chart = figure.add_subplot(cell[0])
        _draw_chart(chart, panel, highest)
        _draw_thumbnails(figure.add_subplot(cell[1], sharex=chart), panel)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=_SURFACE)
    return buffer.getvalue()


def _draw_chart(axes: Any, panel: Panel, highest: float) -> None:
    positions = range(len(panel.values))
    axes.set_facecolor(_SURFACE)
    axes.axhline(panel.values[0], color=_MUTED, linewidth=1, linestyle=(0, (2, 3)))
    axes.plot(positions, panel.values, color=_ACCENT, linewidth=2, marker="o", markersize=6, clip_on=False)
    for position, value in zip(positions, panel.values, strict=True):
        axes.annotate(
            f"{value:.1f}",
            (position, value),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            color=_INK,
        )
    axes.set_xlim(-0.5, len(panel.values) - 0.5)
    axes.set_ylim(0, highest * 1.12)  # one scale for every panel: the distortions can be compared
    axes.set_title(panel.title, loc="left", fontsize=12.5, fontweight="bold", color=_INK, pad=12)
    axes.set_title(panel.subtitle, loc="right", fontsize=9.5, color=_MUTED, pad=12)
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=_MUTED)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y", color=_LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylabel("FID", fontsize=9.5, color=_MUTED)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)


def _draw_thumbnails(axes: Any, panel: Panel) -> None:
    """Each thumbnail stands below its point of the chart."""
    limits = axes.get_xlim()
    half = 0.46
    for position, thumbnail in enumerate(panel.thumbnails):
        axes.imshow(thumbnail, extent=(position - half, position + half, 0, 2 * half), interpolation="lanczos")
    axes.set_xlim(limits)
    axes.set_ylim(-0.02, 2 * half + 0.02)
    axes.set_aspect("equal", adjustable="box", anchor="N")
    axes.set_facecolor(_SURFACE)
    axes.set_xticks(range(len(panel.labels)), panel.labels)
    axes.tick_params(axis="x", length=0, labelsize=10, labelcolor=_INK, pad=5)
    axes.tick_params(axis="y", length=0, labelleft=False)
    for spine in axes.spines.values():
        spine.set_visible(False)

"""Tables, pictures and one-file HTML reports of FID measurements."""

from __future__ import annotations

import base64
import html
import importlib.util
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fidfast.result import FIDResult


class ReportError(RuntimeError):
    """The report cannot be made here."""


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


class _Theme(NamedTuple):
    surface: str
    ink: str
    muted: str
    line: str
    accent: str


LIGHT = _Theme(surface="#ffffff", ink="#1c1c1a", muted="#6b6a64", line="#e3e2dc", accent="#1f6fd0")
DARK = _Theme(surface="#181817", ink="#ecebe6", muted="#9a9991", line="#34332f", accent="#6aa8f5")


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


def draw_panels(panels: Sequence[Panel], *, theme: _Theme = LIGHT) -> bytes:
    """A PNG with one small panel per series, two a row. Needs matplotlib; touches none of its global state."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(11, 4.5 * rows), dpi=150, facecolor=theme.surface)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows, 2, left=0.045, right=0.99, top=1 - 0.13 / rows, bottom=0.0, wspace=0.15, hspace=0.2
    )
    highest = max(max(panel.values) for panel in panels) or 1.0
    for index, panel in enumerate(panels):
        cell = grid[index // 2, index % 2].subgridspec(2, 1, height_ratios=(2.15, 1.35), hspace=0.04)
        chart = figure.add_subplot(cell[0])
        _draw_chart(chart, panel, highest, theme)
        _draw_thumbnails(figure.add_subplot(cell[1], sharex=chart), panel, theme)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=theme.surface)
    return buffer.getvalue()


def _draw_chart(axes: Any, panel: Panel, highest: float, theme: _Theme) -> None:
    positions = range(len(panel.values))
    axes.set_facecolor(theme.surface)
    axes.axhline(panel.values[0], color=theme.muted, linewidth=1, linestyle=(0, (2, 3)))
    axes.plot(positions, panel.values, color=theme.accent, linewidth=2, marker="o", markersize=6, clip_on=False)
    for position, value in zip(positions, panel.values, strict=True):
        axes.annotate(
            f"{value:.1f}",
            (position, value),
            xytext=(0, 8),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            color=theme.ink,
        )
    axes.set_xlim(-0.5, len(panel.values) - 0.5)
    axes.set_ylim(0, highest * 1.12)  # one scale for every panel: the distortions can be compared
    axes.set_title(panel.title, loc="left", fontsize=12.5, fontweight="bold", color=theme.ink, pad=12)
    axes.set_title(panel.subtitle, loc="right", fontsize=9.5, color=theme.muted, pad=12)
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=theme.muted)
    axes.tick_params(axis="x", length=0, labelbottom=False)
    axes.locator_params(axis="y", nbins=4)
    axes.grid(axis="y", color=theme.line, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylabel("FID", fontsize=9.5, color=theme.muted)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(theme.line)


def _draw_thumbnails(axes: Any, panel: Panel, theme: _Theme) -> None:
    """Each thumbnail stands below its point of the chart."""
    limits = axes.get_xlim()
    half = 0.46
    for position, thumbnail in enumerate(panel.thumbnails):
        axes.imshow(thumbnail, extent=(position - half, position + half, 0, 2 * half), interpolation="lanczos")
    axes.set_xlim(limits)
    axes.set_ylim(-0.02, 2 * half + 0.02)
    axes.set_aspect("equal", adjustable="box", anchor="N")
    axes.set_facecolor(theme.surface)
    axes.set_xticks(range(len(panel.labels)), panel.labels)
    axes.tick_params(axis="x", length=0, labelsize=10, labelcolor=theme.ink, pad=5)
    axes.tick_params(axis="y", length=0, labelleft=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


_STYLE = """
:root { color-scheme: light dark; --surface: #ffffff; --ink: #1c1c1a; --muted: #6b6a64; --line: #e3e2dc;
  --accent: #1f6fd0; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --surface: #181817; --ink: #ecebe6; --muted: #9a9991; --line: #34332f;
  --accent: #6aa8f5; --bad: #f2867e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--surface); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.015em; font-weight: 650; margin: 0 0 1rem; }
h2 { font-size: 1.15rem; font-weight: 650; margin: 3.25rem 0 0.9rem; }
p { max-width: 44rem; margin: 0 0 0.9rem; }
.lead { font-size: 1.1rem; }
.bad { color: var(--bad); font-weight: 650; }
.note, figcaption { color: var(--muted); font-size: 0.9rem; }
figure { margin: 2.25rem 0 0; }
figure img { display: block; width: 100%; height: auto; }
figcaption { margin-top: 0.9rem; max-width: 44rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.95rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.42rem clamp(0.8rem, 4vw, 2.5rem) 0.42rem 0; text-align: left; vertical-align: baseline; }
th { color: var(--muted); font-weight: 500; font-size: 0.85rem; }
thead th { border-bottom: 1px solid var(--ink); }
tbody tr:not(:last-child) > * { border-bottom: 1px solid var(--line); }
tbody tr.more > td:first-child { border-bottom-color: transparent; }
.number { text-align: right; }
th.number:last-child, td.number:last-child { padding-right: 0.25rem; }
.facts th { white-space: nowrap; font-size: 0.95rem; }
.facts td { overflow-wrap: anywhere; padding-right: 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 0 4rem; }
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--muted);
  font-size: 0.9rem; }
@media print { main { padding: 0; max-width: none; } }
"""


def html_page(title: str, *parts: str, footer: str = "") -> str:
    """One HTML file that needs no other: parts are HTML, title and footer plain text."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + f"\n<footer>{html.escape(footer)}</footer>\n"
        "</main>\n</body>\n</html>\n"
    )


def html_text(text: str, style: str = "") -> str:
    """A paragraph of plain text; style is "", "lead", "note" or "bad"."""
    return f'<p class="{style}">{html.escape(text)}</p>' if style else f"<p>{html.escape(text)}</p>"


def html_section(title: str, *parts: str) -> str:
    """A heading and the parts below it."""
    return f"<section>\n<h2>{html.escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def html_columns(*parts: str) -> str:
    """Parts side by side where the window is wide enough."""
    return '<div class="columns">\n' + "\n".join(parts) + "\n</div>"


def html_picture(light: bytes, dark: bytes, alternative: str, caption: str) -> str:
    """A PNG inside the page, in two versions: the reader's light or dark mode chooses."""
    sources = [f"data:image/png;base64,{base64.b64encode(picture).decode()}" for picture in (light, dark)]
    return (
        f'<figure>\n<picture><source srcset="{sources[1]}" media="(prefers-color-scheme: dark)">'
        f'<img src="{sources[0]}" alt="{html.escape(alternative)}"></picture>\n'
        f"<figcaption>{html.escape(caption)}</figcaption>\n</figure>"
    )


def html_facts(facts: Mapping[str, object]) -> str:
    """Names and values; a value that is None is left out."""
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value is not None
    )
    return f'<div class="scroll"><table class="facts"><tbody>\n{rows}\n</tbody></table></div>'


def settings_of(result: FIDResult) -> dict[str, object]:
    """How an FID was made, for `html_facts`."""
    return {
        "Preprocessing": result.preset,
        "Network": f"FID Inception-v3, {result.feature_dim} features" if result.weights else "the caller's own",
        "Features": None if result.weights else result.feature_dim,
        "Weights (sha256)": f"{result.weights[:16]}…" if result.weights else None,
        "Precision": result.precision,
        "Device": result.device,
        "Distance": result.route,
        **{f"Kernel {name}": how for name, how in result.kernels.items()},
    }


def html_measurements(rows: Sequence[Measurement]) -> str:
    """The measurements as a table; a series is named once."""
    lines = []
    for index, row in enumerate(rows):
        first = index == 0 or rows[index - 1].series != row.series
        last = index == len(rows) - 1 or rows[index + 1].series != row.series
        lines.append(
            f"<tr{'' if last else ' class=more'}><td>{html.escape(row.series) if first else ''}</td>"
            f'<td>{html.escape(row.strength)}</td><td class="number">{float(row.fid):.2f}</td>'
            f'<td class="number">{row.seconds:.1f}</td></tr>'
        )
    return (
        '<div class="scroll"><table><thead><tr><th>Distortion</th><th>Strength</th><th class="number">FID</th>'
        '<th class="number">Seconds</th></tr></thead><tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        partial = Path(file.name)
    try:
        partial.write_bytes(content)
        partial.chmod(0o644)  # a temporary file is 0600, and others may read a report
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)

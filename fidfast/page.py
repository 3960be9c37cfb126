"""The parts of a one-file HTML page: it needs no other file, reads in light and dark, and escapes what it is given."""

from __future__ import annotations

import base64
import html
import io
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fidfast.result import FIDResult

_STYLE = """
:root { color-scheme: light dark; --surface: #ffffff; --ink: #1c1c1a; --muted: #6b6a64; --line: #e3e2dc;
  --accent: #1f6fd0; --bad: #b3261e; --c0: #1f6fd0; --c1: #b4531c; --c2: #1a7f5a; --c3: #8a4fbf; --c4: #8c7013;
  --c5: #c03a6b; --c6: #4d6b7d; --c7: #6b4a2f; }
@media (prefers-color-scheme: dark) { :root { --surface: #181817; --ink: #ecebe6; --muted: #9a9991; --line: #34332f;
  --accent: #6aa8f5; --bad: #f2867e; --c0: #6aa8f5; --c1: #ea9a68; --c2: #5cc79b; --c3: #c39af0; --c4: #d9bd5a;
  --c5: #f088ad; --c6: #9fb9c9; --c7: #cfa98a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--surface); color: var(--ink); -webkit-text-size-adjust: 100%;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.015em; font-weight: 650; margin: 0 0 1rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; font-weight: 650; margin: 3.25rem 0 0.9rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 1.9rem 0 0.6rem; overflow-wrap: anywhere; }
p { max-width: 44rem; margin: 0 0 0.9rem; overflow-wrap: anywhere; }
.lead { font-size: 1.1rem; }
.bad { color: var(--bad); font-weight: 650; }
.note, figcaption { color: var(--muted); font-size: 0.9rem; }
figure { margin: 1.5rem 0 0; }
figcaption { margin-top: 0.9rem; max-width: 44rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.95rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.42rem clamp(0.8rem, 3vw, 2.5rem) 0.42rem 0; text-align: left; vertical-align: baseline; }
th { color: var(--muted); font-weight: 500; font-size: 0.85rem; }
thead th { border-bottom: 1px solid var(--ink); }
tbody tr:not(:last-child) > * { border-bottom: 1px solid var(--line); }
tbody tr.more > td:first-child { border-bottom-color: transparent; }
.number { text-align: right; white-space: nowrap; }
.scroll + .scroll, .scroll + p, .scroll + .same { margin-top: 1.1rem; }
th.number:last-child, td.number:last-child { padding-right: 0.25rem; }
.facts th { white-space: nowrap; font-size: 0.95rem; }
.facts td { overflow-wrap: anywhere; padding-right: 0; }
figure > img { max-width: 100%; height: auto; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 0 4rem; }
.columns > * { min-width: 0; }
details { margin-top: 0.6rem; font-size: 0.9rem; }
summary { color: var(--muted); cursor: pointer; width: fit-content; }
details table { margin-top: 0.5rem; font-size: 0.9rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(6rem, 1fr)); gap: 0.4rem; }
.grid img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 3px; }
.same { display: flex; flex-wrap: wrap; gap: 0.9rem; margin: 0 0 1.4rem; }
.same figure { margin: 0; width: 8rem; }
.same img { display: block; width: 8rem; height: 8rem; object-fit: contain; }
.same figcaption { margin-top: 0.3rem; font-size: 0.78rem; line-height: 1.35; overflow-wrap: anywhere; }
img.small { image-rendering: pixelated; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 12px; fill: var(--muted); font-family: inherit; }
svg .value, svg .name { fill: var(--ink); }
svg .end { text-anchor: end; } svg .middle { text-anchor: middle; }
svg line { stroke: var(--line); } svg line.base { stroke: var(--muted); stroke-dasharray: 2 3; }
.curve { --c: var(--c0); }
.c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); } .c4 { --c: var(--c4); }
.c5 { --c: var(--c5); } .c6 { --c: var(--c6); } .c7 { --c: var(--c7); }
.solid, .dashed, .dotted { fill: none; stroke: var(--c); stroke-width: 2; }
.dashed { stroke-dasharray: 6 4; stroke-width: 1.5; } .dotted { stroke-dasharray: 1.5 4; stroke-width: 1.5; }
.error { fill: none; stroke: var(--c); stroke-width: 1.3; }
.mark { fill: var(--c); stroke: var(--surface); stroke-width: 1.2; }
.open { fill: var(--surface); stroke: var(--c); stroke-width: 1.6; }
.part { fill: var(--c); stroke: var(--surface); stroke-width: 1; }
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


def html_section(title: str, *parts: str, name: str = "") -> str:
    """A heading and the parts below it; ``name`` is what a link to it ends in."""
    place = f' id="{html.escape(name)}"' if name else ""
    return f"<section{place}>\n<h2>{html.escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def html_heading(title: str) -> str:
    """A heading within a section."""
    return f"<h3>{html.escape(title)}</h3>"


def html_columns(*parts: str) -> str:
    """Parts side by side where the window is wide enough."""
    return '<div class="columns">\n' + "\n".join(parts) + "\n</div>"


def html_figure(chart: str, caption: str, *parts: str) -> str:
    """A chart (:mod:`fidfast.charts`), what is to be said of it, and parts below."""
    return f"<figure>\n{chart}\n<figcaption>{html.escape(caption)}</figcaption>\n" + "\n".join(parts) + "\n</figure>"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    """A table of plain text, numbers from column ``text_columns`` on; a name that heads several rows is said once."""

    def cells(row: Sequence[str], tag: str) -> str:
        kinds = [""] * text_columns + [' class="number"'] * (len(row) - text_columns)
        return "".join(f"<{tag}{kind}>{html.escape(cell)}</{tag}>" for cell, kind in zip(row, kinds, strict=True))

    lines = []
    for index, row in enumerate(rows):
        repeated = index > 0 and rows[index - 1][0] == row[0]
        more = index + 1 < len(rows) and rows[index + 1][0] == row[0]
        said = ("", *row[1:]) if repeated else row
        lines.append(f"<tr{' class=more' if more else ''}>{cells(said, 'td')}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{cells(header, "th")}</tr></thead><tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def html_details(summary: str, *parts: str) -> str:
    """Parts that the reader opens."""
    return f"<details>\n<summary>{html.escape(summary)}</summary>\n" + "\n".join(parts) + "\n</details>"


def html_facts(facts: Mapping[str, object]) -> str:
    """Names and values; a value that is None is left out."""
    rows = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value is not None
    )
    return f'<div class="scroll"><table class="facts"><tbody>\n{rows}\n</tbody></table></div>'


def html_pictures(pictures: Sequence[str], style: str) -> str:
    """Pictures (`html_image`) in rows: style "grid", or "same" for some that stand side by side."""
    return f'<div class="{style}">\n' + "\n".join(pictures) + "\n</div>"


def html_captioned(picture: str, caption: str) -> str:
    """A picture (`html_image`) and a line below it."""
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


def html_image(image: np.ndarray, says: str, size: int) -> str:  # (H, W, 3) uint8
    """A picture of at most ``size`` pixels a side, inside the page."""
    small = max(image.shape[:2]) <= size // 2
    return f'<img src="{image_uri(image, size)}" alt="{html.escape(says)}"{" class=small" if small else ""}>'


def image_uri(image: np.ndarray, size: int) -> str:  # (H, W, 3) uint8
    """The image as a data URI, made smaller where a side is longer than ``size``."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    picture.thumbnail((size, size), Image.Resampling.LANCZOS)
    if max(picture.size) <= 64:  # a JPEG is no smaller, and wrong
        picture.save(buffer, format="png", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    picture.save(buffer, format="jpeg", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def settings_of(result: FIDResult | Mapping[str, object]) -> dict[str, object]:
    """How an FID was made, for `html_facts`; ``result`` may be what ``to_dict`` gave."""
    facts = result.to_dict() if isinstance(result, FIDResult) else result
    weights, feature_dim, kernels = facts.get("weights"), facts.get("feature_dim"), facts.get("kernels")
    return {
        "Preprocessing": facts.get("preset"),
        "Network": f"FID Inception-v3, {feature_dim} features" if weights else "the caller's own",
        "Features": None if weights else feature_dim,
        "Weights (sha256)": f"{str(weights)[:16]}…" if weights else None,
        "Precision": facts.get("precision"),
        "Device": facts.get("device"),
        "Distance": facts.get("route"),
        **({f"Kernel {name}": how for name, how in kernels.items()} if isinstance(kernels, Mapping) else {}),
    }


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

"""`fidfast report`: what training histories, saved results and sets of images say, as one HTML file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fidfast import __version__
from fidfast.duplicates import count_shared
from fidfast.gallery import Place, repeated_images, shared_counts, side_by_side, spread
from fidfast.page import (
    html_captioned,
    html_columns,
    html_facts,
    html_heading,
    html_image,
    html_page,
    html_pictures,
    html_section,
    html_table,
    html_text,
    settings_of,
    write_atomically,
)
from fidfast.readings import Inputs, Reading, read_inputs, read_picture
from fidfast.report_charts import curves_by_label, history_section, number_section, rounded, time_section

_GROUPS_SHOWN = 12  # of repeated images
_COPIES_SHOWN = 5  # of each


def write_report(
    inputs: Sequence[str | os.PathLike[str]],
    output: Path,
    *,
    real: str | os.PathLike[str] | None = None,
    title: str = "FID report",
    num_samples: int = 48,
    value_range: tuple[float, float] | None = None,
    progress: bool = True,
) -> None:
    """Write one HTML file that needs no other.

    Args:
        inputs: training histories (.jsonl), results (.json, by ``fidfast --json``), sets of images (a folder, .zip,
            .tar, .npz or .npy), and folders that hold histories.
        output: the file to write.
        real: the reference images: those of the other sets that are copies of them are shown.
        num_samples: images shown of each set.
        value_range: of float images in .npy and .npz files.

    Raises:
        ValueError, ImagesError, OSError: naming the input that cannot be used.
    """
    if not inputs and real is None:
        raise ValueError("inputs: expected at least one history, result or set of images, got none")
    found = read_inputs(inputs, real, value_range=value_range, progress=progress)
    sections: tuple[Callable[[Inputs], str], ...] = (
        _summary,
        _other_metrics,
        history_section,
        number_section,
        lambda found: _samples(found, num_samples),
        _duplicates,
        time_section,
        _settings,
        _notes,
        _missing,
    )
    page = html_page(
        title,
        *(part for section in sections if (part := section(found))),
        footer=f"Made by fidfast {__version__} with the command fidfast report.",
    )
    write_atomically(output, page.encode("utf-8", "backslashreplace"))  # file names need not be text


def _summary(found: Inputs) -> str:
    rows = []
    for label, curves in curves_by_label(found).items():
        for run, readings in curves:
            best = min(readings, key=lambda reading: reading.fid)
            name = label if len(found.runs) == 1 else f"{label}, {run.name}"
            rows.append(_summary_row(name, readings[-1], f"{best.value} at {best.where}"))
    rows += [_summary_row(result.label, result, "") for result in found.results]
    if not rows:
        return ""
    header = ("", "Images", "FID", "Best", "Bias removed", "A perfect model", "Effective images")
    return html_table(header, rows) + html_text(
        "FID falls as the number of images grows: only numbers from equally many are comparable. ± is one standard "
        "error. “Bias removed” is the FID without the bias of a finite number of images, “a perfect model” what one "
        "would score at that number, and the effective images are fewer than the images where some repeat.",
        "note",
    )


def _other_metrics(found: Inputs) -> str:
    rows = [(one.name, name, f"{value:.6g}") for one in found.results for name, value in one.others.items()]
    header = ("Result", "Metric", "Value")
    return html_section("Other metrics", html_table(header, rows, text_columns=2), name="metrics") if rows else ""


def _summary_row(name: str, reading: Reading, best: str) -> tuple[str, ...]:
    effective = reading.result.get("num_effective")
    return (
        name,
        "" if reading.num_images is None else f"{reading.num_images:,}",
        reading.value + ("" if reading.step is None else f" at {reading.where}"),
        best,
        rounded(reading.corrected),
        rounded(reading.floor),
        "" if effective is None else f"{effective:,}",
    )


def _samples(found: Inputs, num_samples: int) -> str:
    parts = []
    for label, curves in curves_by_label(found).items():
        for run, readings in curves:
            best, last = min(readings, key=lambda one: one.fid), readings[-1]
            shown = [best, last] if best is not last else [last]
            name = label if len(found.runs) == 1 else f"{label}, {run.name}"
            pictures = [
                _history_picture(one, one.images, "best" if one is best else "last") for one in shown if one.images
            ]
            if pictures:
                parts += [html_heading(f"{name}: the first images"), html_columns(*pictures)]
    for one in found.sets:
        places = spread(len(one), num_samples)
        pictures = [
            html_image(image, f"{one.name}: {one.label(index)}", 256) for index, image in one.show(places).items()
        ]
        how = f"{len(places)} of {len(one):,} images, evenly apart" if len(places) < len(one) else f"{len(one)} images"
        parts += [html_heading(one.name), html_text(how, "note"), html_pictures(pictures, "grid")]
        if one.skipped:
            path, reason = one.skipped[0]
            parts.append(html_text(f"{len(one.skipped)} could not be read; the first is {path}: {reason}", "bad"))
    return html_section("Samples", *parts, name="samples") if parts else ""


def _history_picture(reading: Reading, path: Path, which: str) -> str:
    says = f"The first images of {reading.label} at {reading.where}, FID {reading.value}"
    return html_captioned(html_image(read_picture(path), says, 768), f"{which}, {reading.where}: {reading.value}")


def _duplicates(found: Inputs) -> str:
    parts = [*_counted_in_training(found), *_counted_in_results(found), *_side_by_side(found)]
    return html_section("Repeated images", *parts, name="duplicates") if parts else ""


def _counted_in_training(found: Inputs) -> list[str]:
    """What the evaluations of each run counted, and what made them stop."""
    parts = []
    for run in found.runs:
        for record in run.records:
            if record.get("event") == "log" and record.get("kind") == "duplicates":
                parts.append(html_text(f"{run.name}, step {record.get('step')}: {record.get('message')}", "bad"))
        readings = [one for readings in run.curves.values() for one in readings]
        counted = [(one, report) for one in readings if (report := _generated(one)) is not None]
        repeated = [(one, report) for one, report in counted if report["num_unique"] < report["num_images"]]
        if repeated:
            rows = [(one.label, f"{one.step:,}", *_counts(report)) for one, report in repeated]
            header = ("Curve", "Step", "Images", "Different", "Commonest stands")
            parts += [html_heading(f"{run.name}: repeated images by evaluation"), html_table(header, rows)]
            overlap = repeated[-1][1].get("overlap")
            if isinstance(overlap, Sequence) and len(overlap) > 1:
                parts += [html_text(f"Images that two ranks have in common, at {repeated[-1][0].where}:", "note")]
                parts += [_overlap_table(overlap)]
        elif counted:
            parts.append(html_text(f"{run.name}: no image stood twice in any of {len(counted)} evaluations."))
    return parts


def _counted_in_results(found: Inputs) -> list[str]:
    rows = []
    for one in found.results:
        for side in ("real", "generated"):
            report = _side(one, side)
            if report is not None:
                rows.append((one.label, side, *_counts(report)))
    header = ("Result", "Side", "Images", "Different", "Commonest stands")
    return [html_table(header, rows, text_columns=2)] if rows else []


def _generated(reading: Reading) -> Mapping[str, Any] | None:
    return _side(reading, "generated")


def _side(reading: Reading, side: str) -> Mapping[str, Any] | None:
    duplicates = reading.result.get("duplicates")
    report = duplicates.get(side) if isinstance(duplicates, Mapping) else None
    return report if isinstance(report, Mapping) and {"num_unique", "num_images"} <= set(report) else None


def _counts(report: Mapping[str, Any]) -> tuple[str, str, str]:
    times = report.get("largest_multiplicity")
    often = "" if times is None else "once" if times == 1 else f"{times:,} times"
    return f"{report['num_images']:,}", f"{report['num_unique']:,}", often


def _overlap_table(overlap: Sequence[Sequence[int]]) -> str:
    header = ("", *(f"rank {rank}" for rank in range(len(overlap))))
    return html_table(header, [(f"rank {rank}", *(f"{n:,}" for n in row)) for rank, row in enumerate(overlap)])


def _side_by_side(found: Inputs) -> list[str]:
    """The images of the sets that were given which stand more than once, each of their places shown."""
    if not found.sets:
        return []
    rows = [(one.name, *_counts(one.counts)) for one in found.sets]
    parts = [html_table(("Set", "Images", "Different", "Commonest stands"), rows)]
    for i, j, count in shared_counts(found.sets):
        first, second = found.sets[i], found.sets[j]
        if found.has_real and j == len(found.sets) - 1:
            shared = count_shared(first.hashes, second.hashes)
            text = f"{shared:,} of {len(first):,} images of {first.name} are, byte for byte, images of the reference."
        else:
            text = f"{count:,} of {len(second):,} images of {second.name} also stand in {first.name}."
        parts.append(html_text(text, "bad"))
    groups = repeated_images(found.sets)
    if not groups:
        return [*parts, html_text("No image stands twice.")]
    shown = [side_by_side(places, _COPIES_SHOWN) for places in groups[:_GROUPS_SHOWN]]
    wanted: dict[int, set[int]] = {}
    for place in (place for places in shown for place in places):
        wanted.setdefault(place.group, set()).add(place.number)
    pixels = {group: found.sets[group].show(indices) for group, indices in wanted.items()}

    def picture(place: Place, more: int) -> str:
        name = f"{found.sets[place.group].name}: {found.sets[place.group].label(place.number)}"
        image = html_image(pixels[place.group][place.number], name, 256)
        return html_captioned(image, name + (f", and {more:,} more like it" if more else ""))

    for places, some in zip(groups, shown, strict=False):
        more = [0] * (len(some) - 1) + [len(places) - len(some)]
        parts.append(html_pictures([picture(*pair) for pair in zip(some, more, strict=True)], "same"))
    if len(groups) > len(shown):
        parts.append(html_text(f"{len(groups) - len(shown):,} more images stand more than once.", "note"))
    return parts


def _settings(found: Inputs) -> str:
    """How the numbers were made; where they were made differently, each way, with what was made so."""
    ways: dict[tuple, tuple[dict[str, object], list[str]]] = {}
    for one in [r for run in found.runs for some in run.curves.values() for r in some] + list(found.results):
        if one.result:
            settings = {name: value for name, value in settings_of(one.result).items() if value is not None}
            name = one.label if one.step is None else f"{one.label} of {one.run}"
            names = ways.setdefault(tuple(settings.items()), (settings, []))[1]
            if name not in names:
                names.append(name)
    if not ways:
        return ""
    parts = []
    for settings, names in ways.values():
        parts += [html_heading(", ".join(names))] if len(ways) > 1 else []
        parts.append(html_facts(settings))
    return html_section("Settings", *parts, name="settings")


def _notes(found: Inputs) -> str:
    """What a careful reader of the numbers should know; a note of several evaluations once, with the last of them."""
    said: dict[str, str] = {}
    for one in [r for run in found.runs for some in run.curves.values() for r in some] + list(found.results):
        for note in one.result.get("notes") or ():
            said[str(note)] = one.label if one.step is None else f"{one.label} at {one.where}"
    notes = [html_text(f"{where}: {note}") for note, where in said.items()]
    return html_section("Notes", *notes, name="notes") if notes else ""


def _missing(found: Inputs) -> str:
    """What this report could also hold, and how."""
    hints = []
    if not found.runs:
        hints.append("curves over training (the history of a fidfast.TrainingEvaluator)")
    if not found.runs and not found.results:
        hints.append("the FID and the time it took (fidfast REAL GENERATED --json > result.json)")
    if not found.sets:
        hints.append("repeated images side by side (a folder of the generated images)")
    elif not found.has_real:
        hints.append("copies of the reference (--real IMAGES)")
    return html_text(f"Not given, and so not here: {'; '.join(hints)}.", "note") if hints else ""

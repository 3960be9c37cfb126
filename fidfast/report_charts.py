"""The charts of a report: FID over training, against the number of images, and where the time went."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from fidfast.charts import Bar, Curve, Point, count_name, line_chart, stacked_bars
from fidfast.page import html_details, html_figure, html_heading, html_section, html_table, html_text
from fidfast.readings import Inputs, Reading, Run

_LINES_SHOWN = 200  # of what an evaluator did


def curves_by_label(found: Inputs) -> dict[str, list[tuple[Run, Sequence[Reading]]]]:
    """Every label's curves, one a run, by number of images: what has another label stands in another chart."""
    labels: dict[str, list[tuple[Run, Sequence[Reading]]]] = {}
    for run in found.runs:
        for label, readings in run.curves.items():
            labels.setdefault(label, []).append((run, readings))
    return dict(sorted(labels.items(), key=lambda item: item[1][0][1][0].num_images or 0))


def rounded(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}".replace("-", "−")


def history_section(found: Inputs) -> str:
    labels = curves_by_label(found)
    if not labels:
        return ""
    steps = [reading.step or 0 for curves in labels.values() for _, readings in curves for reading in readings]
    parts = []
    for label, curves in labels.items():
        several = len(curves) > 1
        drawn = [
            Curve(run.name if several else "FID", _points(readings), colour=colour)
            for colour, (run, readings) in enumerate(curves)
        ]
        if not several:
            drawn += _corrections(curves[0][1])
        says = "; ".join(_in_words(f"{label} of {run.name}" if several else label, some) for run, some in curves)
        chart = line_chart(says, drawn, x_label="training step", x_range=(min(steps), max(steps)))
        rows = [
            (run.name, f"{one.step:,}", f"{one.fid:.4f}", *map(_four, (one.standard_error, one.corrected, one.floor)))
            for run, readings in curves
            for one in readings
        ]
        header = ("Run", "Step", "FID", "Standard error", "Bias removed", "A perfect model")
        number = curves[0][1][0].num_images
        caption = f"Every point is the FID of {number:,} images. " if number else ""
        bars = any(one.standard_error is not None for _, readings in curves for one in readings)
        caption += (
            "The bars are one standard error to each side."
            if bars
            else "There are no error bars: too few images, or an evaluator with error_bars=False."
        )
        table = html_details("The numbers", html_table(header, rows))
        parts += [html_heading(label), html_figure(chart, caption, table)]
    log = _log(found.runs)
    return html_section("FID over training", *parts, *([log] if log else []), name="history")


def _points(readings: Iterable[Reading]) -> list[Point]:
    return [Point(one.step or 0, one.fid, one.standard_error, f"{one.name}: {one.value}") for one in readings]


def _corrections(readings: Sequence[Reading]) -> list[Curve]:
    corrected = [Point(r.step or 0, r.corrected, None, f"without bias: {r.corrected:.2f}") for r in readings
                 if r.corrected is not None]  # fmt: skip
    floor = [Point(r.step or 0, r.floor, None, f"a perfect model: {r.floor:.2f}") for r in readings
             if r.floor is not None]  # fmt: skip
    curves = [Curve("bias removed", corrected, "dashed", 1), Curve("a perfect model", floor, "dotted", 2)]
    return [curve for curve in curves if curve.points]


def _in_words(name: str, readings: Sequence[Reading]) -> str:
    first, last, best = readings[0], readings[-1], min(readings, key=lambda reading: reading.fid)
    if len(readings) == 1:
        return f"{name}: one evaluation, {first.value} at {first.where}"
    return (
        f"{name}: {len(readings)} evaluations, from {first.value} at {first.where} to {last.value} at {last.where}; "
        f"the lowest is {best.value} at {best.where}"
    )


def _four(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".replace("-", "−")


def _log(runs: Iterable[Run]) -> str:
    rows = [
        (run.name, f"{int(record.get('step') or 0):,}", str(record.get("label") or ""), str(record.get("message", "")))
        for run in runs
        for record in run.records
        if record.get("event") == "log"
    ]
    if not rows:
        return ""
    summary = f"What the evaluator did, {len(rows)} lines"
    if len(rows) > _LINES_SHOWN:
        summary += f", the last {_LINES_SHOWN} of them"
    header = ("Run", "Step", "Curve", "Message")
    return html_details(summary, html_table(header, rows[-_LINES_SHOWN:], text_columns=4))


def number_section(found: Inputs) -> str:
    """FID against n: the last of every curve, and every result; joined where they are of one model."""
    last = [readings[-1] for run in found.runs for readings in run.curves.values()]
    shown = sorted((one for one in [*last, *found.results] if one.num_images), key=_number)
    if not shown:
        return ""
    numbers = sorted({_number(one) for one in shown})
    says = "; ".join(f"{one.value} of {one.num_images:,} ({one.name})" for one in shown)
    chart = line_chart(
        f"FID against the number of images: {says}",
        _curves_by_number(shown),
        x_label="generated images",
        x_ticks=[(number, count_name(number)) for number in _apart(numbers)],
        logarithmic_x=len(numbers) > 1,
    )
    caption = (
        "The last of every curve, and every result that was given. FID has a bias that falls as the number of images "
        "grows; a line joins what one model scored."
    )
    rows = [
        (one.run, one.name, f"{one.num_images:,}", one.value, rounded(one.corrected), rounded(one.floor))
        for one in shown
    ]
    header = ("File", "", "Images", "FID", "Bias removed", "A perfect model")
    table = html_details("The numbers", html_table(header, rows, text_columns=2))
    return html_section("FID against the number of images", html_figure(chart, caption, table), name="number")


def _curves_by_number(shown: Sequence[Reading]) -> list[Curve]:
    models: dict[tuple[str, int | None], list[Reading]] = {}
    for one in shown:
        models.setdefault((one.run, one.step), []).append(one)
    curves: list[Curve] = []
    single: list[Reading] = []
    for (run, step), some in models.items():
        if len(some) == 1:
            single += some
        else:
            name = run if step is None else f"{run} at step {step:,}"
            curves.append(Curve(name, _by_number(some), colour=len(curves)))
    if single:
        curves.append(Curve("one model each", _by_number(single), "none", len(curves)))
    corrected = [Point(_number(one), one.corrected, None, f"{one.name}: bias removed") for one in shown
                 if one.corrected is not None]  # fmt: skip
    floor = [Point(_number(one), one.floor, None, f"{one.name}: a perfect model") for one in shown
             if one.floor is not None]  # fmt: skip
    curves.append(Curve("bias removed", corrected, "none", len(curves)))
    curves.append(Curve("a perfect model", floor, "dotted", len(curves)))
    return [curve for curve in curves if curve.points]


def _number(reading: Reading) -> int:
    return reading.num_images or 0


def _by_number(readings: Iterable[Reading]) -> list[Point]:
    return [Point(_number(one), one.fid, one.standard_error, f"{one.name}: {one.value}") for one in readings]


def _apart(numbers: Sequence[int]) -> list[int]:
    """Those whose names do not run into each other on a logarithmic axis."""
    kept: list[int] = []
    least = math.log(numbers[-1] / numbers[0]) / 10 if len(numbers) > 1 else 0.0
    for number in numbers:
        if not kept or math.log(number / kept[-1]) >= least:
            kept.append(number)
    return kept


def time_section(found: Inputs) -> str:
    """Where the seconds of an evaluation went, by curve, and what evaluations cost a training."""
    split: list[tuple[str, dict[str, float], float, int]] = []
    for label, curves in curves_by_label(found).items():
        for run, readings in curves:
            some = [one.seconds for one in readings if one.seconds]
            name = label if len(found.runs) == 1 else f"{label}, {run.name}"
            split += [(name, *_mean_split(some), len(some))] if some else []
    split += [(one.label, *_mean_split([one.seconds]), 1) for one in found.results if one.seconds]
    if not split:
        return ""
    bars, rows = [], []
    for name, parts, total, number in split:
        says = f"{total:.1f} s" + (f", mean of {number}" if number > 1 else "")
        bars.append(Bar(name, list(parts.items()), says))
        rows += [(name, part, f"{seconds:.2f}", f"{seconds / (total or 1):.0%}") for part, seconds in parts.items()]
    words = [
        f"{name}: " + ", ".join(f"{part} {seconds / (total or 1):.0%}" for part, seconds in parts.items())
        for name, parts, total, _ in split
    ]
    table = html_details("The numbers", html_table(("", "Stage", "Seconds", "Share"), rows, text_columns=2))
    caption = "Where the time of one evaluation went; every bar is the whole of it."
    cost = [html_text(sentence) for run in found.runs if (sentence := _cost(run))]
    return html_section("Time", *cost, html_figure(stacked_bars("; ".join(words), bars), caption, table), name="time")


def _mean_split(some: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], float]:
    """The mean seconds of each stage, what no stage accounts for, and the mean of the whole."""
    names = list(dict.fromkeys(name for seconds in some for name in seconds if name != "total"))
    parts = {name: sum(seconds.get(name, 0.0) for seconds in some) / len(some) for name in names}
    parts = {name: value for name, value in parts.items() if value > 0}
    total = sum(seconds.get("total", sum(seconds.values())) for seconds in some) / len(some)
    rest = total - sum(parts.values())
    if rest > 0.01 * total:
        parts["other"] = rest
    return parts, max(total, sum(parts.values()))


def _cost(run: Run) -> str:
    """What all evaluations of a training took, beside the training."""
    found = [record for record in run.records if record.get("event") == "evaluation" and record.get("train_seconds")]
    if not found:
        return ""
    training, evaluation = float(found[-1]["train_seconds"]), float(found[-1].get("evaluation_seconds") or 0.0)
    budgets = [record["budget"] for record in run.records if record.get("event") == "start" and record.get("budget")]
    budget = f"; the budget is {budgets[-1]:.1%}" if budgets else ""
    return (
        f"{run.name}: evaluations took {evaluation:,.0f} s beside {training:,.0f} s of training, "
        f"{evaluation / training:.1%} of it{budget}."
    )

"""`fidfast demo`: FID on real photographs that are blurred, noised, compressed and darkened more and more.

FID must rise with each of them, as in figure 3 of the paper that introduced it (Heusel et al. 2017, arXiv:1706.08500).
"""

from __future__ import annotations

import json
import platform
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from fidfast import __version__
from fidfast.charts import Curve, Point, line_chart
from fidfast.evaluation import compute_fid, compute_statistics
from fidfast.features import FeatureExtractor
from fidfast.page import (
    html_columns,
    html_facts,
    html_figure,
    html_heading,
    html_page,
    html_section,
    html_table,
    html_text,
    image_uri,
    settings_of,
    write_atomically,
)
from fidfast.panels import Measurement, Panel, draw_panels, require_matplotlib
from fidfast.photographs import CROP, DISTORTIONS, Crop, Distortion, choose_crops, cut, distorted_crops, load_photos
from fidfast.result import FidfastWarning

NUM_IMAGES = 200  # 14 sets: three minutes on two busy AVX-512 cores (15 images a second), five at 9 images a second
UNDISTORTED = "none"


def run_demo(
    output: Path,
    *,
    num_images: int = NUM_IMAGES,
    photos: Path | None = None,
    seed: int = 0,
    feature_extractor: Any = None,
    progress: bool = True,
) -> list[Measurement]:
    """Measure every distortion and write demo.png, report.html and results.json to the folder `output`.

    Args:
        num_images: crops in each set (≥ 2).
        photos: a folder of photographs; default: those in the scikit-image package, fetched once with pip.
        seed: of the crops and of the noise.
        feature_extractor: in the place of the FID Inception network, as in :func:`fidfast.compute_fid`.
        progress: one progress bar on standard error.

    Returns:
        list[Measurement]: the undistorted set first; `not_rising` judges them.

    Raises:
        ReportError, DemoError, WeightsError, ValueError: saying what to do, before the long work.
    """
    if num_images < 2:
        raise ValueError(f"num_images: a covariance needs at least 2 images, got {num_images}")
    require_matplotlib()
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    extractor = feature_extractor if feature_extractor is not None else FeatureExtractor()
    images, names = load_photos(photos)
    reference, others = choose_crops(images, num_images, seed)
    seconds = {"setup, photographs and crops": time.perf_counter() - started}

    steps: list[tuple[Distortion | None, float]] = [(None, 0.0)]
    for distortion in DISTORTIONS:
        steps += _steps(distortion)[1:]
    rows = []
    with (
        warnings.catch_warnings(),
        tqdm(total=(1 + len(steps)) * num_images, unit=" images", disable=not progress, file=sys.stderr) as bar,
    ):
        warnings.simplefilter("ignore", FidfastWarning)  # the results keep their notes, and the report shows them

        bar.set_description("reference")
        begin = time.perf_counter()
        statistics = compute_statistics(
            _counted(distorted_crops(images, reference, None, 0.0, seed), bar),
            feature_extractor=extractor,
            progress=False,
        )
        seconds["reference statistics"] = time.perf_counter() - begin
        for step in steps:
            series, label = _names(*step)
            bar.set_description(f"{series} {label}".strip())
            begin = time.perf_counter()
            distorted = _counted(distorted_crops(images, others, *step, seed), bar)
            result = compute_fid(statistics, distorted, feature_extractor=extractor, progress=False)
            rows.append(Measurement(series, label, result, time.perf_counter() - begin))
    for stage in ("decode", "preprocess", "network", "statistics", "distance"):
        name = "crops and distortions" if stage == "decode" else stage
        seconds[name] = sum(row.fid.seconds[stage] for row in rows)
    seconds["total"] = time.perf_counter() - started
    _write(output, rows, _thumbnails(images, others, seed), names, num_images, seed, seconds)
    return rows


def not_rising(rows: Iterable[Measurement]) -> list[str]:
    """A sentence for every place where FID does not rise with the strength of a distortion; empty when all is well."""
    rows = list(rows)
    undistorted = rows[0]
    problems = []
    previous = undistorted
    for row in rows[1:]:
        if row.series != previous.series:
            previous = undistorted
        if not row.fid > previous.fid:
            problems.append(
                f"FID must rise with {row.series}, but is {row.fid:.2f} at {row.strength} "
                f"and {previous.fid:.2f} at {previous.strength or 'no distortion'}"
            )
        previous = row
    return problems


def _counted(images: Iterable[np.ndarray], bar: tqdm) -> Iterator[torch.Tensor]:
    for image in images:
        yield torch.tensor(image).permute(2, 0, 1)  # (3, H, W) uint8
        bar.update()


def _names(distortion: Distortion | None, strength: float) -> tuple[str, str]:
    return (UNDISTORTED, "") if distortion is None else (distortion.name, distortion.label.format(strength))


def _thumbnails(images: list[np.ndarray], crops: list[Crop], seed: int) -> list[list[np.ndarray]]:
    """For each distortion, one crop undistorted and at every strength: the one with the most contrast and colour."""

    def liveliness(crop: Crop) -> float:
        image = cut(images, crop)
        return float(image.std(axis=(0, 1)).mean() * image.std(axis=2).mean())

    crop = max(crops, key=liveliness)
    return [
        [next(distorted_crops(images, [crop], kind, strength, seed)) for kind, strength in _steps(distortion)]
        for distortion in DISTORTIONS
    ]


def _steps(distortion: Distortion) -> list[tuple[Distortion | None, float]]:
    return [(None, 0.0), *((distortion, strength) for strength in distortion.strengths)]


def _write(
    output: Path,
    rows: list[Measurement],
    thumbnails: list[list[np.ndarray]],
    photographs: list[str],
    num_images: int,
    seed: int,
    seconds: dict[str, float],
) -> None:
    panels = []
    for distortion, pictures in zip(DISTORTIONS, thumbnails, strict=True):
        series = [rows[0], *(row for row in rows if row.series == distortion.name)]
        labels = [row.strength or UNDISTORTED for row in series]
        panels.append(Panel(distortion.name, distortion.measure, labels, [float(row.fid) for row in series], pictures))
    problems = not_rising(rows)
    results = {
        "rising": not problems,
        "problems": problems,
        "rows": [
            {"distortion": row.series, "strength": row.strength, "seconds": row.seconds, **row.fid.to_dict()}
            for row in rows
        ],
        "num_images": num_images,
        "seed": seed,
        "crop": CROP,
        "photographs": photographs,
        "seconds": seconds,
        "versions": _versions(),
    }
    write_atomically(output / "demo.png", draw_panels(panels))
    write_atomically(output / "results.json", (json.dumps(results, indent=2) + "\n").encode())
    write_atomically(output / "report.html", _page(results, rows, panels).encode())


def _page(results: dict[str, Any], rows: list[Measurement], panels: list[Panel]) -> str:
    num_images, seconds = results["num_images"], results["seconds"]
    verdict = (
        html_text("FID rises with the strength of every distortion, as it must.", "lead")
        if results["rising"]
        else "\n".join(html_text(f"{problem}.", "bad") for problem in results["problems"])
    )
    method = (
        f"Two sets of {num_images} random crops of {CROP} × {CROP} pixels from the same photographs share no pixel. "
        "The first is the reference. The second is compared with it as it is, then blurred, noised, compressed and "
        "darkened at three rising strengths, after figure 3 of the paper that introduced FID (Heusel et al. 2017, "
        "arXiv:1706.08500)."
    )
    caption = (
        "Each picture stands below its point. The dotted line is the undistorted set. It is not at 0: its crops show "
        f"other places, and {num_images} images are few. An FID from so few images is too high and means something "
        "only beside others from as many; papers use 50,000."
    )
    total = (len(rows) + 1) * num_images
    timings = {name: f"{value:.1f} s" for name, value in seconds.items()}
    timings["images a second"] = f"{total / seconds['total']:.1f}, all in all"
    settings: dict[str, object] = {
        **settings_of(rows[0].fid),
        "Photographs": ", ".join(results["photographs"]),
        "Images": f"{total:,} in {len(rows) + 1} sets",
        "Seed": results["seed"],
    }
    table = [(row.series, row.strength, f"{float(row.fid):.2f}", f"{row.seconds:.1f}") for row in rows]
    notes = [f"{row.series} {row.strength}: {note}" for row in rows for note in row.fid.notes]
    return html_page(
        "FID of distorted photographs",
        verdict,
        html_text(method),
        html_figure(html_columns(*_charts(panels)), caption),
        html_section("Measurements", html_table(("Distortion", "Strength", "FID", "Seconds"), table, text_columns=2)),
        html_section("Settings", html_facts(settings)),
        *([html_section("Notes", *(html_text(note) for note in notes))] if notes else []),
        html_columns(
            html_section("Time", html_facts(timings)),
            html_section("Versions", html_facts(results["versions"])),
        ),
        footer=f"Made by fidfast {__version__} with the command fidfast demo.",
    )


def _charts(panels: list[Panel]) -> list[str]:
    """One chart for each distortion, all of one scale: they can be compared."""
    highest = 1.12 * max(max(panel.values) for panel in panels) or 1.0
    charts = []
    for panel in panels:
        ticks = list(enumerate(panel.labels))
        said = [f"{value:.2f} at {name}" for name, value in zip(panel.labels, panel.values, strict=True)]
        points = [Point(place, value, says=said[place]) for place, value in enumerate(panel.values)]
        chart = line_chart(
            f"FID against {panel.title}, {panel.subtitle}: {'; '.join(said)}; the picture at each",
            [Curve(panel.title, points)],
            x_label=panel.subtitle,
            x_ticks=ticks,
            highest=highest,
            values=True,
            baseline=panel.values[0],
            pictures=[image_uri(thumbnail, 160) for thumbnail in panel.thumbnails],
            width=460,
        )
        charts.append(f"<div>{html_heading(panel.title)}{chart}</div>")
    return charts


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("numpy", "pillow", "matplotlib")}
    return {
        "fidfast": __version__,
        "torch": torch.__version__,  # with +cpu or +cu130, which the package's metadata may lack
        **packages,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
    }

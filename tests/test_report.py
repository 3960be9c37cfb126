"""`fidfast report`: every part is there, says what the files say, needs no other file, and escapes what it is given."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
import torch
from PIL import Image

import fidfast
from fidfast.cli import main
from fidfast.report import write_report

VOID = {"meta", "img"}
SECTIONS = ["history", "number", "samples", "duplicates", "time", "settings", "notes"]
# Colours that nothing else in the page has: what the screenshot is searched for.
SAMPLE, TWICE, COPIED, KEPT = (255, 0, 200), (0, 255, 170), (255, 120, 0), (120, 0, 255)


class Page(HTMLParser):
    """The elements of a page, each with its attributes and the text below it; fails where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        said: list[str] = []
        self.elements.append((tag, {name: value or "" for name, value in attributes}, said))
        if tag not in VOID:
            self._open.append((tag, said))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, said in self._open:
            said.append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        return [
            (attributes, "".join(said))
            for name, attributes, said in self.elements
            if name == tag and all(attributes.get(key.rstrip("_")) == value for key, value in wanted.items())
        ]

    def one(self, tag: str, **wanted: str) -> str:
        ((_, text),) = self.all(tag, **wanted)
        return text


def picture(path: Path, colour: tuple[int, int, int], seed: int = 0) -> Path:
    """48 x 48, of one colour but for a border that tells the seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((48, 48, 3), colour, dtype=np.uint8)
    pixels[0] = np.random.default_rng(seed).integers(0, 256, (48, 3))
    Image.fromarray(pixels).save(path)
    return path


def evaluation(label: str, step: int, number: int, fid: float, **more: Any) -> dict[str, Any]:
    result = {
        "fid": fid,
        "num_generated": number,
        "preset": "pytorch-fid",
        "feature_dim": 2048,
        "precision": "fp32",
        "device": "cpu",
        "route": "eigenvalues",
        "weights": "0123456789abcdef0123456789abcdef",
        "kernels": {"resize_normalize": "cpu avx2"},
        "num_effective": number,
        "duplicates": {"generated": {"num_images": number, "num_unique": number, "largest_multiplicity": 1}},
        "notes": [],
        **more.pop("result", {}),
    }
    return {
        "event": "evaluation", "time": "2026-11-22T09:00:00+00:00", "label": label, "step": step, "last_step": step,
        "fid": fid, "num_images": number, "standard_error": None, "corrected": None, "floor": None, "is_best": False,
        "images": None, "seconds": {"sample": 40.0, "features": 8.0, "distance": 2.0, "total": 50.0},
        "images_per_second": 40.0, "ranks": 2, "train_seconds": 20.0 * step, "evaluation_seconds": float(step),
        "result": result, **more,
    }  # fmt: skip


START = {"event": "start", "time": "", "step": 1, "ranks": 2, "budget": 0.05, "stages": [], "seed": 0, "num_real": 900}
SMALL = [(1000, 80.0), (2000, 41.5), (3000, 40.25), (4000, 43.0)]
LARGE = [(2000, 36.0), (4000, 33.5)]


def write_history(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with two curves, samples kept, and one evaluation in which ranks repeated each other's images."""
    folder = tmp_path / "run"
    records: list[dict[str, Any]] = [START]
    records += [evaluation("fid_2k", step, 2000, fid) for step, fid in SMALL]
    records[3]["images"] = "fid-images/fid_2k-3000.png"
    repeated = {
        "num_images": 2000,
        "num_unique": 1500,
        "largest_multiplicity": 2,
        "overlap": [[1000, 500], [500, 1000]],
    }
    records[4]["result"]["duplicates"] = {"generated": repeated}
    records[4]["result"]["notes"] = ["generated: only 1500 of 2000 images are different"]
    for step, fid in LARGE:
        bars = {"standard_error": 0.5, "corrected": fid - 4, "floor": 2.25}
        records.append(evaluation("fid_10k", step, 10_000, fid, **bars))
    said = {"label": "fid_10k", "kind": "estimate", "message": "10,000 images at 40 images/s on 2 ranks: 125 s"}
    records.append({"event": "log", "time": "", "step": 2000, **said})
    picture(folder / "fid-images" / "fid_2k-3000.png", KEPT)
    write_history(folder / "fid.jsonl", records)
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """Generated images, one of which stands three times and one is a copy of a real one; the real ones."""
    generated, real = tmp_path / "samples", tmp_path / "photos"
    for index in range(6):
        picture(generated / f"{index}.png", SAMPLE, index)
        picture(real / f"{index}.png", (90, 90, 90), 100 + index)
    for name in ("x", "y", "z"):
        picture(generated / f"{name}.png", TWICE, 50)
    picture(generated / "memorised.png", COPIED, 60)
    picture(real / "original.png", COPIED, 60)
    return generated, real


@pytest.fixture
def result_file(tmp_path: Path) -> Path:
    seconds = {"setup": 1.0, "decode": 2.0, "preprocess": 3.0, "network": 30.0, "statistics": 1.5, "distance": 0.5}
    result = evaluation("", 0, 50_000, 30.125)["result"]
    path = tmp_path / "papers.json"
    path.write_text(json.dumps({**result, "seconds": {**seconds, "total": 38.0}, "standard_error": 0.25}))
    return path


def made(tmp_path: Path, *inputs: Path, **options: Any) -> tuple[Page, str]:
    output = tmp_path / "report.html"
    write_report(inputs, output, progress=False, **options)
    text = output.read_text(encoding="utf-8")
    return Page(text), text


def test_every_part_is_there_and_needs_no_other_file(run_folder, sets, result_file, tmp_path):
    page, text = made(tmp_path, run_folder, result_file, sets[0], real=sets[1], title="Toy")
    assert [attributes["id"] for attributes, _ in page.all("section")] == SECTIONS
    assert page.all("title")[0][1] == page.one("h1") == "Toy"
    assert not {tag for tag, _, _ in page.elements} & {"script", "link", "iframe", "object", "embed", "form", "base"}
    for _, attributes, _ in page.elements:
        for name in {"src", "href", "srcset", "data", "action", "poster", "background"} & set(attributes):
            assert attributes[name].startswith("data:image/")
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in text and "@import" not in text
    assert page.all("html", lang="en") and "prefers-color-scheme: dark" in text
    assert page.all("img") and all(attributes["alt"].strip() for attributes, _ in page.all("img"))
    charts = page.all("svg")
    assert len(charts) == 4  # two curves, against n, time
    assert all(attributes["role"] == "img" and len(attributes["aria-label"]) > 20 for attributes, _ in charts)
    assert "Not given" not in text


def test_a_curve_for_each_label_never_mixed_with_error_bars(run_folder, tmp_path):
    page, text = made(tmp_path, run_folder)
    history = text[text.index('id="history"') : text.index('id="number"')]
    small, large = (f"<svg{part}" for part in history.split("<svg")[1:])
    assert [title for _, title in Page(small[: small.index("</svg>") + 6]).all("title")] == [
        f"fid_2k at step {step:,}: {fid:.2f}" for step, fid in SMALL
    ]
    assert small.count("<polyline") == 1 and small.count('class="error"') == 0
    assert large.count('class="error"') == len(LARGE)
    assert large.count("<polyline") == 3  # the FID, without bias, and that of a perfect model
    assert "fid_10k at step 4,000: 33.50 ± 0.50" in large and "fid_2k" not in large[: large.index("</svg>")]
    assert "one standard error" in large and "There are no error bars" in small
    assert "10,000 images at 40 images/s on 2 ranks: 125 s" in page.one("section", id="history")
    summary = page.all("table")[0][1]
    assert "40.25 at step 3,000" in summary and "33.50 ± 0.50 at step 4,000" in summary


def test_points_stand_where_the_axes_say(run_folder, tmp_path):
    _, text = made(tmp_path, run_folder)
    chart = text.split("<svg")[1]
    ticks = re.findall(r'class="axis end" x="[\d.]+" y="([\d.]+)">([\d,.]+)</text>', chart)
    steps = re.findall(r'class="axis middle" x="([\d.]+)" y="[\d.]+">([\d,.]+)</text>', chart)
    marks = re.findall(r'<circle class="mark" cx="([\d.]+)" cy="([\d.]+)"', chart)
    heights = [(float(y) - 4, float(value.replace(",", ""))) for y, value in ticks]
    places = [(float(x), float(value.replace(",", ""))) for x, value in steps]

    def read(place: float, scale: list[tuple[float, float]]) -> float:
        (a, first), (b, last) = scale[0], scale[-1]
        return first + (place - a) / (b - a) * (last - first)

    assert len(marks) == len(SMALL)
    for (x, y), (step, fid) in zip(marks, SMALL, strict=True):
        assert abs(read(float(x), places) - step) <= 10  # a tenth of a pixel
        assert abs(read(float(y), heights) - fid) <= 0.1


def test_fid_against_n_joins_what_is_of_one_model_only(run_folder, result_file, tmp_path):
    _, text = made(tmp_path, run_folder, result_file)
    number = text[text.index('id="number"') : text.index('id="samples"')]
    assert re.findall(r'class="axis middle"[^>]*>([^<]+)<', number) == ["2k", "10k", "50k"]
    assert number.count("<polyline") == 1 and "fid at step 4,000" in number  # both curves' last are of step 4000
    assert "30.12 ± 0.25 of 50,000 (papers)" in number


def test_time_is_split_by_stage_and_set_against_the_training(run_folder, result_file, tmp_path):
    page, _ = made(tmp_path, run_folder, result_file)
    time = page.one("section", id="time")
    assert "sample: 80%" in time and "distance: 4%" in time and "network: 79%" in time
    assert "50.0 s, mean of 4" in time and "38.0 s" in time
    assert "4,000 s beside 80,000 s of training, 5.0% of it; the budget is 5.0%" in time


def test_repeated_images_stand_side_by_side(run_folder, sets, tmp_path):
    page, text = made(tmp_path, run_folder, sets[0], real=sets[1])
    said = page.one("section", id="duplicates")
    assert "1 of 10 images of " in said and "are, byte for byte, images of the reference" in said
    assert "1,500" in said and "rank 1" in said  # what the evaluations counted, and between which ranks
    groups = [part[: part.index("</div>")] for part in text.split('<div class="same">')[1:]]
    names = [re.findall(r'alt="([^"]+)"', group) for group in groups]
    assert names == [
        ["samples: memorised.png", "photos: original.png"],
        [f"samples: {name}.png" for name in ("x", "y", "z")],
    ]
    without, _ = made(tmp_path, sets[1])
    assert "No image stands twice." in without.one("section", id="duplicates")


def test_samples_of_the_run_and_of_every_set(run_folder, sets, tmp_path):
    page, _ = made(tmp_path, run_folder, sets[0], num_samples=4)
    shown = [attributes["alt"] for attributes, _ in page.all("img")]
    assert "The first images of fid_2k at step 3,000, FID 40.25" in shown  # the best; of the last none was kept
    assert [name for name in shown if name.startswith("samples: ")][:4] == [
        f"samples: {name}.png" for name in ("0", "2", "5", "x")
    ]


def test_metrics_beside_the_fid_are_listed(result_file, tmp_path):
    result = json.loads(result_file.read_text())
    kid = {"mean": 0.0125, "std": 0.0005, "values": [0.01, 0.015], "subset_size": 1000}
    several = {"fid": result, "kid": kid, "sfid": 4.5, "prdc": {"precision": 0.75, "recall": 0.5}, "num_real": 9}
    result_file.write_text(json.dumps({**several, "num_generated": 9, "seconds": result["seconds"], "notes": []}))
    page, _ = made(tmp_path, result_file)
    said = re.findall(r"<td>(\w+)</td><td class=\"number\">([\d.]+)<", (tmp_path / "report.html").read_text())
    assert said[:5] == [
        ("kid_mean", "0.0125"),
        ("kid_std", "0.0005"),
        ("sfid", "4.5"),
        ("precision", "0.75"),
        ("recall", "0.5"),
    ]
    assert page.all("section")[0][0]["id"] == "metrics" and "30.12 ± 0.25" in page.all("table")[0][1]


def test_what_the_user_names_is_text_and_not_html(tmp_path):
    evil = '<script>alert("1")</script>&"\'<img src=x onerror=y>'
    name = evil.replace("/", "|")
    record = evaluation(evil, 5, 600, 3.0, result={"notes": [evil], "preset": evil, "kernels": {evil: evil}})
    record["seconds"] = {evil: 2.0}
    log = {"event": "log", "step": 5, "label": evil, "kind": "duplicates", "message": evil}
    history = write_history(tmp_path / f"{name}.jsonl", [record, log, {**record, "step": 6}])
    for index in range(2):
        picture(tmp_path / name / f"{name}{index}.png", SAMPLE)
    page, text = made(tmp_path, history, tmp_path / name, title=evil)
    assert {tag for tag, _, _ in page.elements} & {"script"} == set()
    assert not any("onerror" in attributes for _, attributes, _ in page.elements)
    assert page.one("h1") == evil and text.count("<img") == len(page.all("img")) == 4
    assert "alert" in page.one("section", id="history")


def test_a_file_name_that_is_no_text_and_an_unreadable_image(tmp_path):
    folder = tmp_path / "samples"
    picture(folder / "a.png", SAMPLE)
    picture(folder / "b.png", SAMPLE, 1)
    (folder / "a.png").rename(folder / "\udcff.png")
    (folder / "broken.png").write_bytes(b"no image")
    page, _ = made(tmp_path, folder)
    assert "1 could not be read" in page.one("section", id="samples") and "broken.png" in page.one(
        "section", id="samples"
    )
    assert [attributes["alt"].rpartition(" ")[2] for attributes, _ in page.all("img")] == ["b.png", "\\udcff.png"]


def test_array_files_and_archives_are_sets_too(tmp_path):
    array = np.random.default_rng(0).random((5, 20, 20, 3), dtype=np.float32)
    array[3] = array[1]
    np.savez(tmp_path / "floats.npz", array)
    page, _ = made(tmp_path, tmp_path / "floats.npz", value_range=(0, 1))
    names = [attributes["alt"].rpartition(": ")[2] for attributes, _ in page.all("img")]
    assert names == [*(f"image {index}" for index in range(5)), "image 1", "image 3"]


def test_two_runs_of_one_label_are_two_curves_of_one_chart(run_folder, tmp_path):
    other = write_history(
        tmp_path / "other" / "fid.jsonl", [START, *(evaluation("fid_2k", s, 2000, f) for s, f in LARGE)]
    )
    page, text = made(tmp_path, run_folder, other.parent)
    chart = text.split("<svg")[1]
    assert chart.count("<polyline") == 2 and "run: 4 evaluations" in page.all("svg")[0][0]["aria-label"].replace(
        "fid_2k of ", ""
    )
    assert ">run</text>" in chart and ">other</text>" in chart


def test_a_history_names_no_picture_outside_its_folder(tmp_path):
    secret = picture(tmp_path / "secret.png", KEPT)
    record = evaluation("fid_600", 5, 600, 3.0, images=f"../{secret.name}")
    page, _ = made(tmp_path, write_history(tmp_path / "run" / "fid.jsonl", [record]))
    assert not page.all("img")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.jsonl", None, "gone.jsonl does not exist"),
        ("a.json", "{", "a.json: expected JSON"),
        ("a.json", '{"distance": 1}', "which has a number 'fid', got an object with the keys distance"),
        ("a.json", '{"fid": NaN}', "which has a number 'fid'"),
        ("a.json", '{"fid": 1, "seconds": 3}', "a.json: not as fidfast --json prints it"),
        ("a.jsonl", '{"loss": 1}\n', "a.jsonl: line 1"),
        ("a.jsonl", '{"event": "evaluation", "label": "x", "step": 1, "num_images": 5}\n', "it has no 'fid'"),
        ("a.txt", "text", "a.txt"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, capsys, name, content, message):
    path, output = tmp_path / name, tmp_path / "out" / "report.html"
    output.parent.mkdir()
    if content is not None:
        path.write_text(content)
    assert main(["report", str(path), "-o", str(output), "--quiet"]) == 1
    assert message in capsys.readouterr().err
    assert list(output.parent.iterdir()) == []


def test_what_an_evaluator_wrote_is_read(tmp_path):
    def sample(n: int, seeds: list[int]) -> torch.Tensor:
        return (fidfast.randn_per_image((3, 8, 8), seeds) * 40 + 128).clamp(0, 255).to(torch.uint8)

    def mean_and_corner(images: torch.Tensor) -> torch.Tensor:  # (N, 3, 8, 8) uint8 -> (N, 2) float32
        return torch.stack([images.float().mean((1, 2, 3)), images[:, 0, 0, 0].float()], dim=1)

    evaluator = fidfast.TrainingEvaluator(
        sample,
        sample(60, list(range(60))),
        stages=[fidfast.Stage(20, every=2), fidfast.Stage(40, at="end")],
        budget=None,
        history=tmp_path / "fid.jsonl",
        feature_extractor=mean_and_corner,
        all_ranks=False,
    )
    for step in range(1, 5):
        evaluator.step(step)
    evaluator.finish()
    page, text = made(tmp_path, tmp_path)
    for one in evaluator.evaluations:
        assert f"{one.fid:.4f}" in text and f"{one.label} at step {one.step}: {one.fid:.2f} ± " in text
    assert [attributes["id"] for attributes, _ in page.all("section")][:6] == SECTIONS[:6]
    kept = [attributes["alt"] for attributes, _ in page.all("img")]
    assert kept and all(name.startswith("The first images of fid_") for name in kept)
    assert "no image stood twice in any of 3 evaluations" in text


def test_the_command(run_folder, sets, tmp_path, capsys):
    output = tmp_path / "toy.html"
    arguments = [str(run_folder), "--real", str(sets[1]), "-o", str(output), "--title", "Toy", "--num-samples", "3"]
    assert main(["report", *arguments, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{output}\n" and captured.err == ""
    page = Page(output.read_text())
    assert page.one("h1") == "Toy" and len(page.all("img")) == 1 + 3
    assert main(["report", str(run_folder), "-o", str(tmp_path / "toy.pdf")]) == 1
    assert "ends in .html" in capsys.readouterr().err
    assert main(["report"]) == 1
    assert "expected at least one history, result or set of images" in capsys.readouterr().err


def covers(region: np.ndarray, colour: tuple[int, int, int]) -> int:
    """Pixels of this colour, but for what a JPEG does to it."""
    return int((np.abs(region.astype(int) - colour).max(axis=2) <= 12).sum())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_every_part(run_folder, sets, result_file, tmp_path, dark):
    made(tmp_path, run_folder, result_file, sets[0], real=sets[1])
    output, width = tmp_path / "report.html", 1000
    script = (
        "Object.fromEntries([...document.querySelectorAll('section'), document.documentElement].map("
        "e => [e.id || 'page', [e.getBoundingClientRect().top, e.getBoundingClientRect().bottom]]))"
    )
    boxes = browser.measure(output, script, width=width)
    shot = tmp_path / "shot.png"
    browser.screenshot(output, shot, width=width, height=int(boxes["page"][1]) + 1, dark=dark)
    pixels = np.asarray(Image.open(shot).convert("RGB"))
    assert covers(pixels[:5], (24, 24, 23) if dark else (255, 255, 255)) == 5 * width
    blue, rust, green = (
        [(106, 168, 245), (234, 154, 104), (92, 199, 155)] if dark else [(31, 111, 208), (180, 83, 28), (26, 127, 90)]
    )
    expected = {
        "history": {blue: 400, rust: 60, green: 10},  # FID, without bias, perfect model
        "number": {blue: 60},
        "samples": {SAMPLE: 6 * 1000, KEPT: 1000},
        "duplicates": {TWICE: 3 * 1000, COPIED: 2 * 1000},
        "time": {blue: 3000, rust: 3000, green: 300},
    }
    for name, colours in expected.items():
        top, bottom = (round(edge) for edge in boxes[name])
        for colour, least in colours.items():
            assert covers(pixels[top:bottom], colour) >= least, (name, colour)
    for name in SECTIONS:  # headings and text, in the ink of the theme
        top, bottom = (round(edge) for edge in boxes[name])
        assert covers(pixels[top:bottom], (236, 235, 230) if dark else (28, 28, 26)) >= 100, name


def test_nothing_sticks_out_of_a_narrow_window(run_folder, sets, result_file, tmp_path):
    made(tmp_path, run_folder, result_file, sets[0], real=sets[1])
    script = "[document.documentElement.scrollWidth, window.innerWidth]"
    needed, available = browser.measure(tmp_path / "report.html", script, width=500)
    assert needed <= available

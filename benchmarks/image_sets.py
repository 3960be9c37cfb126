"""Image sets for tests and benchmarks, made from images inside packages: the same pixels for the same seed everywhere.

    python -m benchmarks.image_sets photographs 1000 FOLDER --size 256 --seed 1 --form png

Kinds: `photographs` (random crops of scikit-image's colour photographs), `icons` (RGBA, palette and LA images from the
npm package cryptocurrency-icons) and `gray` (random crops of scikit-image's gray photographs, mode L).
Image i depends on (kind, seed, i) and its size alone, so a longer set begins with the shorter one.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.paths import DOWNLOADS, IMAGES

SCIKIT_IMAGE = "scikit-image==0.26.0"  # BSD-3; its photographs are public domain or CC0
ICON_PACKAGE = "cryptocurrency-icons@0.18.1"  # CC0
COLOUR_PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "retina.jpg",
    "rocket.jpg",
)
GRAY_PHOTOGRAPHS = (
    "brick.png",
    "camera.png",
    "cell.png",
    "clock_motion.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "moon.png",
)
KINDS = ("photographs", "icons", "gray")
MIXED_SIZES = (32, 48, 64, 100, 128, 200, 256, 299, 301, 400, 512)


class ImageSetError(RuntimeError):
    """A package with the source images could not be had; the message says which and how to provide it."""


def scikit_image_wheel() -> Path:
    """The scikit-image wheel, downloaded by pip once; only its data folder is read, so any platform's wheel serves."""
    pattern = "scikit_image-0.26.0-*.whl"
    if not any(DOWNLOADS.glob(pattern)):
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        if sys.version_info < (3, 11):
            command += ["--python-version", "3.11"]  # 0.26 has no wheel for 3.10, and the photographs need no Python
        done = subprocess.run([*command, "--dest", str(DOWNLOADS), SCIKIT_IMAGE], check=False)
        if done.returncode != 0:
            raise ImageSetError(f"pip could not download {SCIKIT_IMAGE}: put its wheel into {DOWNLOADS} by hand")
    return next(iter(sorted(DOWNLOADS.glob(pattern))))


def photographs(names: Sequence[str], mode: str) -> list[Image.Image]:
    with zipfile.ZipFile(scikit_image_wheel()) as wheel:
        return [Image.open(io.BytesIO(wheel.read(f"skimage/data/{name}"))).convert(mode) for name in names]


def icons() -> list[Image.Image]:
    """128-pixel RGBA icons of the npm package, or shapes cut out of the photographs where npm is not to be had."""
    archive = DOWNLOADS / "cryptocurrency-icons-0.18.1.tgz"
    if not archive.exists():
        DOWNLOADS.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        command = [npm or "npm", "pack", "--silent", ICON_PACKAGE]
        done = None if npm is None else subprocess.run(command, cwd=DOWNLOADS, stdout=subprocess.DEVNULL, check=False)
        if done is None or done.returncode != 0 or not archive.exists():
            reason = "npm is not installed" if done is None else f"npm pack {ICON_PACKAGE} failed"
            message = (
                f"image_sets: {reason}: cutting icons out of photographs instead (results say icons_from=photographs)"
            )
            print(message, file=sys.stderr)
            return cut_out_icons()
    with tarfile.open(archive) as package:
        names = sorted(
            name for name in package.getnames() if name.startswith(("package/128/color/", "package/128/icon/"))
        )
        return [Image.open(io.BytesIO(package.extractfile(name).read())).convert("RGBA") for name in names]  # type: ignore[union-attr]


def cut_out_icons() -> list[Image.Image]:
    result = []
    for index, photo in enumerate(photographs(COLOUR_PHOTOGRAPHS, "RGB") * 20):
        random = np.random.default_rng((7, index))
        crop = random_crop(photo, 128, random).convert("RGBA")
        y, x = np.mgrid[-1:1:128j, -1:1:128j]
        inside = np.abs(x) ** random.uniform(0.7, 6) + np.abs(y) ** random.uniform(0.7, 6) < random.uniform(0.5, 1)
        crop.putalpha(Image.fromarray((inside * 255).astype(np.uint8)))
        result.append(crop)
    return result


def icons_from() -> str:
    """Which source `icons` uses on this machine: results name it, since the numbers depend on it."""
    return "npm" if (DOWNLOADS / "cryptocurrency-icons-0.18.1.tgz").exists() else "photographs"


def random_crop(photo: Image.Image, size: int, random: np.random.Generator) -> Image.Image:
    """A square window of 96 pixels to the whole photograph, brought to size × size, mirrored half the time."""
    side = int(random.integers(min(96, *photo.size), min(photo.size) + 1))
    left, top = (int(random.integers(0, length - side + 1)) for length in photo.size)
    crop = photo.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else crop


def random_icon(sources: Sequence[Image.Image], index: int, size: int, random: np.random.Generator) -> Image.Image:
    """One icon, turned and scaled on a canvas whose colour only its alpha hides: tools that drop alpha show it."""
    icon = sources[int(random.integers(len(sources)))].rotate(float(random.uniform(0, 360)), Image.Resampling.BICUBIC)
    side = int(random.integers(size // 2, size + 1))
    red, green, blue = (int(value) for value in random.integers(0, 256, 3))
    canvas = Image.new("RGBA", (size, size), (red, green, blue, 0))
    left, top = (int(random.integers(0, size - side + 1)) for _ in range(2))
    small = icon.resize((side, side), Image.Resampling.LANCZOS)
    canvas.paste(small, (left, top), small)
    if index % 3 == 1:
        return canvas.quantize(64, method=Image.Quantize.FASTOCTREE)  # mode P with transparency
    return canvas.convert("LA") if index % 6 == 5 else canvas


def source_of(kind: str) -> Callable[[int, int, np.random.Generator], Image.Image]:
    if kind == "icons":
        sources = icons()
        return lambda index, size, random: random_icon(sources, index, size, random)
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    sources = photographs(*((COLOUR_PHOTOGRAPHS, "RGB") if kind == "photographs" else (GRAY_PHOTOGRAPHS, "L")))
    return lambda index, size, random: random_crop(sources[int(random.integers(len(sources)))], size, random)


def make_image_set(
    kind: str, count: int, *, size: int | None = 256, seed: int = 0, form: str = "png", folder: Path | None = None
) -> Path:
    """Write `count` images and return their folder; a finished set of the same description is kept.

    size None: sizes cycle through MIXED_SIZES. form: "png" or "jpeg" (quality 75; icons have alpha, so only png).
    """
    if form not in ("png", "jpeg") or (kind == "icons" and form == "jpeg"):
        raise ValueError(f"form: expected png, or jpeg for images without alpha, got {form!r} for {kind}")
    folder = folder or IMAGES / f"{kind}-{count}-{size or 'mixed'}-{form}-seed{seed}"
    described = folder.with_name(folder.name + ".json")
    make = source_of(kind)
    description = {"kind": kind, "count": count, "size": size, "seed": seed, "form": form, "icons_from": icons_from()}
    if folder.is_dir() and described.exists() and json.loads(described.read_text()) == description:
        return folder
    unfinished = folder.with_name(folder.name + ".unfinished")
    for old in (folder, unfinished):
        shutil.rmtree(old, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for index in range(count):
        random = np.random.default_rng((KINDS.index(kind), seed, index))
        image = make(index, size or MIXED_SIZES[index % len(MIXED_SIZES)], random)
        image.save(unfinished / f"{index:05d}.{'png' if form == 'png' else 'jpg'}")
    unfinished.rename(folder)
    described.write_text(json.dumps(description))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("count", type=int)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--size", type=int, default=256, help="0: sizes from 32 to 512 in one set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--form", choices=("png", "jpeg"), default="png")
    given = parser.parse_args()
    print(
        make_image_set(
            given.kind, given.count, size=given.size or None, seed=given.seed, form=given.form, folder=given.folder
        )
    )


if __name__ == "__main__":
    main()

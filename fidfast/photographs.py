"""The demo's images: real photographs, random crops of them in two disjoint sets, and ways to spoil them."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from fidfast.images import open_images
from fidfast.weights import cache_dir

SCIKIT_IMAGE = "scikit-image==0.26.0"
WHEEL_PATTERN = "scikit_image-0.26.0-*.whl"
# Its colour photographs. Left out: drawings, and motorcycle_right.png, which shows motorcycle_left.png again.
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
CROP = 128  # pixels
CELL = 144  # a cell is at least this wide and high, so that crops vary inside it
MIN_CONTRAST = 6.0  # standard deviation in 8-bit levels: a piece of black border shows no distortion
MAX_PHOTOGRAPHS, MAX_SIDE = 100, 1024  # of the user's own: they are all held in memory


class DemoError(RuntimeError):
    """The demo cannot run here; the message says what to do."""


class Crop(NamedTuple):
    """A square of CROP pixels: which photograph, and its top left corner."""

    photo: int
    y: int
    x: int


class Distortion(NamedTuple):
    """One way to spoil an image, at rising strengths."""

    name: str
    measure: str
    strengths: tuple[float, ...]
    label: str
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def _blur(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def _noise(image: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    return np.clip(np.rint(image + rng.normal(0.0, sigma, image.shape)), 0, 255).astype(np.uint8)


def _compress(image: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer))


def _darken(image: np.ndarray, brightness: float, rng: np.random.Generator) -> np.ndarray:
    return np.rint(image * brightness).astype(np.uint8)


DISTORTIONS = (
    Distortion("Gaussian blur", "standard deviation in pixels", (1.0, 2.0, 4.0), "{:g} px", _blur),
    Distortion("Gaussian noise", "standard deviation, of 255 levels", (10.0, 25.0, 50.0), "{:g}", _noise),
    Distortion("JPEG compression", "quality", (30.0, 10.0, 3.0), "{:g}", _compress),
    Distortion("Darkening", "brightness that is left", (0.5, 0.25, 0.1), "{:.0%}", _darken),
)


def load_photos(folder: Path | None = None) -> tuple[list[np.ndarray], list[str]]:
    """Photographs (H, W, 3) uint8 and their names: from `folder`, else from the installed or fetched scikit-image."""
    if folder is not None:
        return _load_folder(folder)
    package = importlib.util.find_spec("skimage")  # finds, does not import
    if package is not None and package.origin is not None:
        data = Path(package.origin).parent / "data"
        if all((data / name).is_file() for name in PHOTOGRAPHS):
            return [_decode((data / name).read_bytes()) for name in PHOTOGRAPHS], list(PHOTOGRAPHS)
    wheel = _find_wheel() or _download_wheel()
    try:
        with zipfile.ZipFile(wheel) as archive:
            return [_decode(archive.read(f"skimage/data/{name}")) for name in PHOTOGRAPHS], list(PHOTOGRAPHS)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DemoError(
            f"{wheel} does not hold the photographs of {SCIKIT_IMAGE} ({error}): delete it and run the demo again"
        ) from error


def _decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def _load_folder(folder: Path) -> tuple[list[np.ndarray], list[str]]:
    images = []
    with open_images(folder, batch_size=1, num_workers=0, name="photos") as source:
        for (image,) in source:  # (3, H, W) uint8
            photo = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
            photo.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
            images.append(np.asarray(photo))
            if len(images) == MAX_PHOTOGRAPHS:
                break
    return images, [f"{len(images)} photographs in {folder}"]


def _find_wheel() -> Path | None:
    return next(iter(sorted(cache_dir().glob(WHEEL_PATTERN))), None)


def _download_wheel() -> Path:
    """The scikit-image wheel, fetched with pip into our cache; only its photographs are read, nothing is installed."""
    cache = cache_dir()
    reason = "no wheel came"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="photographs-") as folder:
            # --python-version: any wheel of this release holds the same photographs, on Python 3.10 too.
            options = ["--no-deps", "--only-binary=:all:", "--python-version=3.11", "--quiet", "--dest", folder]
            command = [sys.executable, "-m", "pip", "download", *options, SCIKIT_IMAGE]
            run = subprocess.run(command, capture_output=True, text=True, check=False)
            wheels = list(Path(folder).glob(WHEEL_PATTERN))
            if run.returncode == 0 and wheels:
                return wheels[0].replace(cache / wheels[0].name)
            reason = (run.stderr.strip().splitlines() or [reason])[-1]
    except OSError as error:
        reason = str(error)
    raise DemoError(
        f"the demo's photographs come from the package {SCIKIT_IMAGE}, and it cannot be fetched: {reason}. "
        f"On a machine with a network run 'pip download --no-deps {SCIKIT_IMAGE}' and copy the .whl file to {cache}; "
        "or use your own photographs: fidfast demo --photos FOLDER"
    )


def choose_crops(images: list[np.ndarray], num_images: int, seed: int) -> tuple[list[Crop], list[Crop]]:
    """Two sets of random crops without a common pixel: each photograph is a chessboard, and a set has one colour."""
    boards = [_chessboard(image) for image in images]
    usable = [photo for photo, board in enumerate(boards) if all(board)]
    if not usable:
        raise DemoError(f"photos: expected photographs of at least {CELL} x {2 * CELL} pixels, got none")
    rng = np.random.default_rng(seed)
    first, second = (_sample(images, boards, usable, colour, num_images, rng) for colour in (0, 1))
    return first, second


def _chessboard(image: np.ndarray) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The cells (top, bottom, left, right) of either colour."""
    rows, columns = (np.linspace(0, size, size // CELL + 1).astype(int) for size in image.shape[:2])
    board: tuple[list[tuple[int, ...]], list[tuple[int, ...]]] = ([], [])
    for row in range(len(rows) - 1):
        for column in range(len(columns) - 1):
            cell = (int(rows[row]), int(rows[row + 1]), int(columns[column]), int(columns[column + 1]))
            board[(row + column) % 2].append(cell)
    return board


def _sample(
    images: list[np.ndarray],
    boards: list[tuple[list[tuple[int, ...]], list[tuple[int, ...]]]],
    usable: list[int],
    colour: int,
    num_images: int,
    rng: np.random.Generator,
) -> list[Crop]:
    chosen: dict[Crop, None] = {}  # in order, and no crop twice
    for attempt in range(100 * num_images):
        photo = usable[attempt % len(usable)]
        cells = boards[photo][colour]
        top, bottom, left, right = cells[rng.integers(len(cells))]
        crop = Crop(photo, int(rng.integers(top, bottom - CROP + 1)), int(rng.integers(left, right - CROP + 1)))
        if cut(images, crop).std(axis=(0, 1)).mean() >= MIN_CONTRAST:
            chosen[crop] = None
        if len(chosen) == num_images:
            return list(chosen)
    raise DemoError(
        f"photos: expected {num_images} different crops that are not blank from {len(usable)} photographs, "
        f"got {len(chosen)}; give more photographs or a smaller --num-images"
    )


def cut(images: list[np.ndarray], crop: Crop) -> np.ndarray:
    return images[crop.photo][crop.y : crop.y + CROP, crop.x : crop.x + CROP]


def distorted_crops(
    images: list[np.ndarray], crops: list[Crop], distortion: Distortion | None, strength: float, seed: int
) -> Iterator[np.ndarray]:
    """(CROP, CROP, 3) uint8 each; one image has the same noise, scaled, at every strength."""
    for index, crop in enumerate(crops):
        image = cut(images, crop)
        if distortion is not None:
            image = distortion.apply(image, strength, np.random.default_rng((seed, index)))
        yield image

from typing import Any

def resize_normalize(
    images: list[Any],
    out: Any,
    hashes: Any,
    preset: str,
    low: float,
    high: float,
    quantize: str,
    channels_last: bool,
    threads: int,
    simd: str = "",
) -> list[int]: ...
def taps(preset: str, size: int) -> list[tuple[int, list[float]]]: ...
def preset(name: str) -> tuple[float, float, bool]: ...
def presets() -> list[str]: ...
def hash_constants() -> tuple[int, int, tuple[int, int], tuple[list[int], list[int]]]: ...
def winograd_conv_relu(
    x: Any,
    weight: Any,
    bias: Any,
    out: Any,
    taps: tuple[int, int],
    padding: tuple[int, int],
    threads: int,
    simd: str = "",
) -> None: ...
def winograd_scheme(taps_y: int, taps_x: int, simd: str = "") -> tuple[int, list[float], list[float]] | None: ...
def simd_level() -> str: ...
def simd_levels() -> list[str]: ...

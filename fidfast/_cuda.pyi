from typing import Any

max_side: int

def build() -> dict[str, Any]: ...
def devices() -> list[dict[str, Any]]: ...
def resize_normalize(
    images: list[Any],
    columns: dict[int, Any],
    rows: dict[int, Any],
    out: Any,
    hashes: Any,
    unusable: Any,
    preset: str,
    low: float,
    high: float,
    quantize: str,
    channels_last: bool,
    stream: int,
) -> None: ...
def column_table(preset: str, size: int) -> bytes: ...
def row_table(preset: str, size: int) -> bytes: ...
def add_covariance(rows: Any, shift: Any, total: Any, scatter: Any, first_index: int, stream: int) -> None: ...
def symmetric_product(
    x: Any,
    y: Any,
    addend: Any | None,
    out: Any,
    row_major: bool,
    alpha: float,
    beta: float,
    gamma: float,
    stream: int,
) -> None: ...

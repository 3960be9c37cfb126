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

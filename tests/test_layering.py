"""The arrows of the design: kernels know no torch and no Python, and no module imports one to its right."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Each module may import those of lower ranks only; siblings of one rank may import each other where ALLOWED says so.
RANKS = [
    {"_cpu", "_cuda", "_version", "__init__"},
    {"ops", "reference", "reference_metrics"},
    {"preprocessing", "torchscript", "weights", "inception", "precision", "features", "chunk_graph"}
    | {"metadata", "moments", "factors", "statistics_io", "statistics", "frechet", "groups"}
    | {"quintic", "polar", "polar_distance", "square_root", "metrics"},
    {"images", "decode", "files", "workers", "duplicates", "photographs", "result", "seeds", "eager"}
    | {"distributed", "accumulate", "landing", "error_bars", "kept_features", "sides", "measures"},
    {"evaluation", "metric"},
    {"training_schedule", "training_history", "training_sampling", "training_run", "training_results"},
    {"training", "compat", "demo", "report", "doctor", "arguments", "cli", "__main__"}
    | {"page", "charts", "panels", "gallery", "readings", "report_charts", "integrations"},
]
COMPILED = {"_cpu", "_cuda"}


def rank(module: str) -> int:
    ranks = [i for i, names in enumerate(RANKS) if module in names]
    assert ranks, f"fidfast/{module}.py has no place in tests/test_layering.py: give it one"
    return ranks[0]


def imports_of(path: Path) -> set[str]:
    """Modules of fidfast that a file imports, at the top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fidfast.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "fidfast":
            modules = {p.stem for p in (ROOT / "fidfast").iterdir()}
            found |= {alias.name for alias in node.names if alias.name in modules | COMPILED}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fidfast."):
            found.add(str(node.module).split(".")[1])
    return found


def test_no_module_imports_one_to_its_right() -> None:
    for path in sorted((ROOT / "fidfast").rglob("*.py")):
        module = path.relative_to(ROOT / "fidfast").parts[0].removesuffix(".py")  # a folder has one place
        if module == "__init__":
            continue
        for imported in imports_of(path):
            assert rank(imported) <= rank(module), f"{path.relative_to(ROOT)} imports {imported}"


def test_only_ops_imports_the_compiled_modules() -> None:
    for path in sorted((ROOT / "fidfast").rglob("*.py")):
        if path.parent.name != "ops":
            assert not imports_of(path) & COMPILED, path.name


def test_only_tests_import_the_twins() -> None:
    for path in sorted((ROOT / "fidfast").rglob("*.py")):
        assert not any(name.startswith("reference") for name in imports_of(path)), path.name


def includes_of(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.M)


def test_kernels_include_no_torch_no_python_and_nothing_of_the_bindings() -> None:
    sources = [p for p in (ROOT / "csrc/kernels").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")]
    assert sources
    for path in sources:
        for include in includes_of(path):
            assert not re.match(r"torch|ATen|c10|pybind11|Python\.h|bindings|omp\.h|dlpack", include), (
                path.name,
                include,
            )


def test_shared_headers_use_nothing_that_device_code_lacks() -> None:
    for name in ("resample.h", "content_hash.h"):
        allowed = {"cmath", "cstdint", "cstring", "kernels/resample.h"}
        assert set(includes_of(ROOT / "csrc/kernels" / name)) <= allowed


def test_files_are_of_readable_size() -> None:
    for folder in ("csrc", "fidfast"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".h", ".cpp", ".cu", ".py"):
                lines = path.read_text().splitlines()
                assert len(lines) <= 400, f"{path.name} has {len(lines)} lines: split the idea"
                if path.suffix != ".py":  # ruff looks at those
                    assert max(map(len, lines), default=0) <= 120, f"{path.name} has a line over 120 characters"

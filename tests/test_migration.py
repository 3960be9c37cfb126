"""docs/migration.md: every new line is one that works, and every façade has its line."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import fidfast.compat.imports

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| `")]


def test_new_imports_and_names_exist() -> None:
    found = 0
    for row in ROWS:
        new = row.split(" | ")[1]
        for module, name in re.findall(r"from (fidfast\.compat[\w.]*) import (\w+)", new):
            assert hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}"), row
            found += 1
        for module in re.findall(r"-m (fidfast\.compat[\w.]*)", new):
            spec = importlib.util.find_spec(module)
            assert spec is not None, row
            if spec.submodule_search_locations is not None:
                assert importlib.util.find_spec(f"{module}.__main__") is not None, row
            found += 1
        for path in re.findall(r"`(fidfast\.compat[\w.]+)\(?", new):
            module, _, name = path.rpartition(".")
            assert hasattr(importlib.import_module(module), name), row
            found += 1
    assert found >= 12


def test_the_installable_tools_are_those_of_the_page() -> None:
    tools = set(fidfast.compat.imports._REPLACED)
    named = set(re.findall(r"fidfast\.compat\.(\w+)", PAGE)) | set(re.findall(r'install\("(\w+)"', PAGE))
    assert tools <= named, tools - named
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.replace("   ", ""), flags=re.DOTALL)
    for call in re.findall(r"install\((\".*?\")\)", example):
        assert set(re.findall(r'"(\w+)"', call)) <= tools
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target

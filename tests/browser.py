"""Headless Chromium: what a page looks like, and what its own script measures."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str:
    """The test skips without one, and fails if FIDFAST_REQUIRE_BROWSER=1."""
    for name in NAMES:
        if (path := shutil.which(name)) is not None:
            return path
    message = f"no Chromium on this machine: none of {', '.join(NAMES)} on the PATH (apt-get install chromium)"
    if os.environ.get("FIDFAST_REQUIRE_BROWSER") == "1":
        pytest.fail(message)
    pytest.skip(message)


def run(page: Path, *options: str, width: int, height: int, dark: bool = False) -> str:
    """What the browser prints; nothing outside the page can be reached."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-sync",
            "--no-first-run", f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--window-size={width},{height}", f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *options, page.resolve().as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def screenshot(page: Path, picture: Path, *, width: int, height: int, dark: bool = False) -> None:
    run(page, f"--screenshot={picture}", width=width, height=height, dark=dark)


def measure(page: Path, script: str, *, width: int, height: int = 800) -> Any:
    """The value of a JavaScript expression in the page, laid out at this width."""
    copy = page.with_name(f"measured-{page.name}")
    text = page.read_text(encoding="utf-8")
    write = f"<script>document.title = 'measured ' + JSON.stringify({script})</script></body>"
    copy.write_text(text.replace("</body>", write), encoding="utf-8")
    found = re.search(r"<title>measured (.*?)</title>", run(copy, "--dump-dom", width=width, height=height), re.DOTALL)
    assert found is not None
    return json.loads(html.unescape(found[1]))

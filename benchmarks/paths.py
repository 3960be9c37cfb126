"""Where benchmarks keep what they make: everything under build/, which git ignores, except the results."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
BUILD = REPOSITORY / "build" / "benchmarks"
DOWNLOADS = BUILD / "downloads"
IMAGES = BUILD / "images"
TORCH_HOME = BUILD / "torch-home"  # pytorch-fid, torch-fidelity and torchmetrics look for their weights under it
CLEAN_FID_WEIGHTS = BUILD / "clean-fid"  # the folder that holds inception-2015-12-05.pt

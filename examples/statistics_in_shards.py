"""One shard of a large image folder, as one task of a job array (Slurm, or any other scheduler) computes it.

    sbatch --array=0-15 --wrap "python statistics_in_shards.py IMAGES parts"
    fidfast merge parts/*.npz -o images.npz        # when all tasks are done

Each task reads every 16th file; the merged statistics are those of the whole folder, and ``fidfast images.npz SAMPLES``
takes them in its place. No task talks to another; where they can, torchrun -m fidfast stats does it in one command.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import fidfast

SUFFIXES = {".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}  # what fidfast reads of a folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("output", type=Path, help="folder for the parts")
    parser.add_argument("--task", type=int, default=int(os.environ.get("SLURM_ARRAY_TASK_ID", 0)))
    parser.add_argument("--tasks", type=int, default=int(os.environ.get("SLURM_ARRAY_TASK_COUNT", 1)))
    parser.add_argument("--feature-dim", type=int, default=2048)
    options = parser.parse_args()
    if not 0 <= options.task < options.tasks:
        parser.error(f"--task: expected 0 to {options.tasks - 1}, got {options.task}: is the array numbered from 0?")

    files = sorted(path for path in options.images.rglob("*") if path.suffix.lower() in SUFFIXES)
    shard = files[options.task :: options.tasks]
    options.output.mkdir(parents=True, exist_ok=True)
    statistics = fidfast.compute_statistics(shard, feature_dim=options.feature_dim, progress=False)
    path = statistics.save(options.output / f"{options.task:05d}.npz")
    print(f"{path}: {statistics.num_samples} of {len(files)} images")


if __name__ == "__main__":
    main()

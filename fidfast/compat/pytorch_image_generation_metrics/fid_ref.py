"""``python -m fidfast.compat.pytorch_image_generation_metrics.fid_ref --path FOLDER --output FILE.npz``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from fidfast.compat.pytorch_image_generation_metrics.utils import calc_fid_ref


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="fid_ref", description="FID statistics of a folder's images.")
    parser.add_argument("--path", required=True, help="the folder, with its subfolders")
    parser.add_argument("--output", required=True, help="the statistics file")
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--img_size", type=int, default=None, help="resize to this square first")
    parser.add_argument("--use_torch", action="store_true", help="without effect")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count())
    options = parser.parse_args(argv)
    try:
        calc_fid_ref(
            options.path, options.output, options.batch_size, options.img_size, options.use_torch, options.num_workers
        )
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"fid_ref: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

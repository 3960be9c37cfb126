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
from typing import TYPE_CHECKING, Any, TextIO

from fidfast.arguments import (
    demo_parser,
    doctor_parser,
    fid_parser,
    inspect_parser,
    merge_parser,
    report_parser,
    stats_parser,
    weights_parser,
)

if TYPE_CHECKING:
    from fidfast.result import FIDResult


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
    return command, fid_parser()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"fidfast: note: {message}", file=sys.stderr)


def _run_fid(options: argparse.Namespace) -> int:
    from fidfast.evaluation import evaluate

    with _process_group(options) as (all_ranks, rank):
        arguments = vars(options).copy()
        as_json, metrics = arguments.pop("json"), arguments.pop("metrics")
        sides = arguments.pop("real"), arguments.pop("generated")
        evaluation = evaluate(*sides, metrics=metrics or ("fid",), all_ranks=all_ranks, **arguments)
    if rank != 0:
        return 0
    result: FIDResult | None = evaluation.get("fid")
    if as_json:
        print(json.dumps((evaluation if metrics or result is None else result).to_dict()))
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
    import torch.distributed.nn  # before there is a group: torch.compile imports it, and it keeps the one that it finds

    if options.device is None:
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device: expected one that torch can use here, got {options.device}: no CUDA device")
    if options.device.startswith("cuda:") and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise ValueError(f"--device: expected cuda, each process then takes a GPU of its own, got {options.device}")
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


def _run_report(options: argparse.Namespace) -> int:
    from fidfast.report import write_report

    output = _output_file(options.output, ".html")
    write_report(**{**vars(options), "output": output})
    print(output)
    return 0


def _run_demo(options: argparse.Namespace) -> int:
    from fidfast.demo import not_rising, run_demo
    from fidfast.panels import format_table

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


def _output_file(path: Path, suffix: str = ".npz") -> Path:
    """Refuse a result's place before the work, not after it."""
    if path.is_dir():
        raise ValueError(f"--output {path}: expected a file name, got a folder")
    if not path.parent.is_dir():
        raise ValueError(f"--output {path}: there is no folder {path.parent}")
    if path.suffix != suffix:
        raise ValueError(f"--output {path}: expected a file name that ends in {suffix}")
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        raise ValueError(f"--output {path}: the folder {path.resolve().parent} cannot be written to")
    return path


_COMMANDS: dict[str, tuple[Callable[[], argparse.ArgumentParser], Callable[[argparse.Namespace], int]]] = {
    "stats": (stats_parser, _run_stats),
    "merge": (merge_parser, _run_merge),
    "inspect": (inspect_parser, _run_inspect),
    "weights": (weights_parser, _run_weights),
    "doctor": (doctor_parser, _run_doctor),
    "report": (report_parser, _run_report),
    "demo": (demo_parser, _run_demo),
}

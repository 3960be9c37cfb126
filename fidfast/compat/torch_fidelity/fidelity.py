"""The command ``fidelity``: ``python -m fidfast.compat.torch_fidelity.fidelity --input1 … --input2 … --fid``.

Options, defaults and printed lines are torch-fidelity's; unknown options are ignored with a word, as there. Exit
status: 0 success; 1 bad input or nothing to do; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence

import torch

from fidfast.compat.torch_fidelity.defaults import DEFAULTS
from fidfast.compat.torch_fidelity.metrics import calculate_metrics
from fidfast.compat.torch_fidelity.registry import (
    DATASETS_REGISTRY,
    FEATURE_EXTRACTORS_REGISTRY,
    INTERPOLATION_REGISTRY,
    NOISE_SOURCE_REGISTRY,
)

_HELP = {
    "input1": "the generated images: a folder, a registered name or the TorchScript .pth of a generator",
    "input2": "the reference images, likewise",
    "feature_extractor_internal_dtype": "of the network; float64 computes in float64",
    "fid_statistics_file": "an .npz of mu and sigma in the place of --input2, for FID",
    "kid_subset_size": "subset size in KID",
    "samples_resize_and_crop": "resize and crop the images of a folder to this square size (0: as they are)",
    "datasets_root": "of torchvision's datasets (default: $TORCH_HOME/fidelity_datasets)",
    "cache_root": "of cached features (default: $TORCH_HOME/fidelity_cache)",
}
_SWITCHES = {
    "isc": ("-i", "Inception Score"),
    "fid": ("-f", "Fréchet Inception Distance"),
    "kid": ("-k", "Kernel Inception Distance"),
    "prc": ("-r", "precision and recall"),
    "ppl": ("-p", "not computed by fidfast"),
    "mind": ("-m", "not computed by fidfast"),
}
_OFF = {
    "samples_shuffle": "--no-samples-shuffle",
    "datasets_download": "--no-datasets-download",
    "cache": "--no-cache",
    "verbose": "--silent",
}
_FLAGS = ("feature_extractor_compile", "samples_find_deep", "save_cpu_ram")
_INTEGERS = ("input1_model_z_size", "input1_model_num_samples", "input2_model_z_size", "input2_model_num_samples")
_FLOATS = ("kid_kernel_poly_gamma", "kid_kernel_poly_coef0", "kid_kernel_rbf_sigma", "ppl_epsilon")


def make_parser() -> argparse.ArgumentParser:
    choices = {
        "feature_extractor": list(FEATURE_EXTRACTORS_REGISTRY),
        "feature_extractor_internal_dtype": ["float32", "float64"],
        "kid_kernel": ["poly", "rbf"],
        "ppl_reduction": ["mean", "none"],
        "ppl_z_interp_mode": list(INTERPOLATION_REGISTRY),
        "input1_model_z_type": list(NOISE_SOURCE_REGISTRY),
        "input2_model_z_type": list(NOISE_SOURCE_REGISTRY),
    }
    parser = argparse.ArgumentParser(
        prog="fidelity",
        description="Inception Score, FID, KID, precision and recall; fidfast behind torch-fidelity's command.",
        epilog=f"registered names: {', '.join(DATASETS_REGISTRY)}",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("-g", "--gpu", default=None, help="compute on this CUDA device, such as 0")
    where.add_argument("-c", "--cpu", action="store_true", help="compute on the CPU")
    parser.add_argument("-j", "--json", action="store_true", help="print JSON")
    for name, default in DEFAULTS.items():
        option, text = f"--{name.replace('_', '-')}", _HELP.get(name, "(default: %(default)s)")
        if name == "cuda":
            continue
        if name in _SWITCHES:
            short, what = _SWITCHES[name]
            parser.add_argument(short, option, action="store_true", help=what)
        elif name in _FLAGS:
            parser.add_argument(option, action="store_true")
        elif name in _OFF:
            parser.add_argument(_OFF[name], dest=name, action="store_false")
        else:
            kind = float if name in _FLOATS else int if name in _INTEGERS or type(default) is int else str
            short_names = ["-b"] if name == "batch_size" else []
            also = ["--fid_statistics_file"] if name == "fid_statistics_file" else []  # as LTH14's fork spells it
            parser.add_argument(
                *short_names, option, *also, default=default, type=kind, choices=choices.get(name), help=text
            )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options, unknown = make_parser().parse_known_args(argv)
    if unknown:
        print(
            f"fidelity: unknown options are ignored: {' '.join(unknown)}; --help lists those there are", file=sys.stderr
        )
    arguments = vars(options)
    gpu, cpu, as_json = (arguments.pop(name) for name in ("gpu", "cpu", "json"))
    if not any(arguments[name] for name in _SWITCHES):
        print("fidelity: error: expected a metric: --isc, --fid, --kid or --prc, got none", file=sys.stderr)
        return 1
    arguments["cuda"] = not cpu and (gpu is not None or os.environ.get("CUDA_VISIBLE_DEVICES", "") != "")
    if torch.cuda.is_available() and not arguments["cuda"] and not cpu:
        print("fidelity: note: there is a CUDA device, but no --gpu: computing on the CPU", file=sys.stderr)
    try:
        with _device(gpu) if gpu is not None else contextlib.nullcontext():
            metrics = calculate_metrics(**arguments)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        print(f"fidelity: error: {error}", file=sys.stderr)
        return 1
    print(
        json.dumps(metrics, indent=4)
        if as_json
        else "\n".join(f"{name}: {value:.7g}" for name, value in metrics.items())
    )
    return 0


def _device(gpu: str) -> contextlib.AbstractContextManager[None]:
    first = gpu.split(",")[0].strip()
    if not first.isdigit() or int(first) >= torch.cuda.device_count():
        raise ValueError(
            f"--gpu: expected the number of a CUDA device, of which there are {torch.cuda.device_count()}, got {gpu!r}"
        )
    return torch.cuda.device(int(first))


if __name__ == "__main__":
    sys.exit(main())

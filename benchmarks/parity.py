"""Parity on thousands of images: our FID against each tool's, below and above n = 2048, on three kinds of images.

    python -m benchmarks.parity                     all stages; about 15 minutes of two cores at the default size
    python -m benchmarks.parity --common 0          n = 300 a side only
    python -m benchmarks.parity --stage peers       the other tools' features alone (kept, so a run can be resumed)

Per kind there are two sets of 300 images that differ; four sets of 440 photographs are shared by both sides and by
all kinds. Below 2048: 300 against 300. Above: 300 + 1760 against 300 + 1760. The sides share images so that FID is
small, where the tolerance is tightest, and so that each tool's network sees every image once. Features are the tool's
own, and so is the arithmetic after them (benchmarks/peer_runs.py); ours come from `compute_statistics`, merged as a
user would. Each peer's value also stands beside the exact one for the peer's own features (nuclear norm, SVD in
float64), which says whose rounding a difference is. The tools' features and distances are kept under build/; ours are
computed anew unless --resume is given.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.image_sets import KINDS, icons_from, make_image_set
from benchmarks.paths import BUILD
from benchmarks.peer_runs import TOOLS, load_features, missing
from benchmarks.peer_weights import make_peer_weights, peer_environment
from benchmarks.timing import environment, write_result

SIZES = {"photographs": 256, "icons": 128, "gray": 64}
FEATURE_DIMS = (64, 192, 768, 2048)
RELATIVE, ABSOLUTE = 1e-4, 1e-4  # tests/tolerances.py, row "fid/peer"
PARITY = BUILD / "parity"
OURS = PARITY / "ours"


def blocks(common: int) -> dict[str, int]:
    return {"real": 300, "generated": 300, **{f"common-{part}": common // 4 for part in range(4) if common >= 4}}


def folder_of(kind: str, block: str, count: int) -> Path:
    kind = "photographs" if block.startswith("common") else kind
    seed = 100 + ["real", "generated", *(f"common-{part}" for part in range(4))].index(block)
    form = "jpeg" if block == "generated" and kind != "icons" else "png"
    return make_image_set(kind, count, size=SIZES[kind], seed=seed, form=form)


def cases(tool: str, common: int) -> Iterator[tuple[str, int, list[str], list[str]]]:
    """(name, feature_dim, blocks of the real side, blocks of the generated side) of a tool or preset."""
    shared = [block for block in blocks(common) if block.startswith("common")]
    for feature_dim in FEATURE_DIMS if tool == "pytorch-fid" else (2048,):
        yield "below", feature_dim, ["real"], ["generated"]
    if shared:
        yield "above", 2048, ["real", *shared], ["generated", *shared]


def run_peer(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.peer_runs", *arguments]
    done = subprocess.run(command, env=peer_environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(arguments[:2])} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def peer_features(tool: str, kind: str, block: str, count: int) -> Path:
    """The tool's activations of one block, computed once: a peer's features never change for the same folder."""
    folder = folder_of(kind, block, count)
    output = PARITY / f"{tool}-{folder.name}.npz"
    if not output.exists():
        PARITY.mkdir(parents=True, exist_ok=True)
        unfinished = output.with_suffix(".unfinished.npz")
        run_peer("features", tool, str(folder), str(unfinished))
        unfinished.rename(output)
        print(f"parity: features of {tool}, {kind}, {block}", file=sys.stderr)
    return output


def source_tool(tool: str, kind: str, block: str) -> str:
    """torchmetrics without antialiasing calls torch-fidelity's network and resize: one pass of its own shows that."""
    own_pass = kind == "photographs" and not block.startswith("common")
    return "torch-fidelity" if tool == "torchmetrics-antialias-false" and not own_pass else tool


def exact_distance(real: np.ndarray, generated: np.ndarray) -> float:
    """FID of features (N, D) from ‖Xc Ycᵀ‖_*: no square root of an eigenvalue near zero, at any rank."""
    x, y = (values.astype(np.float64) for values in (real, generated))
    difference = x.mean(0) - y.mean(0)
    factors = [(values - values.mean(0)) / np.sqrt(len(values) - 1) for values in (x, y)]
    # An n × D factor has the singular values of its R: with n > D the product below is D × D.
    tall = [np.linalg.qr(factor, mode="r") if len(factor) > factor.shape[1] else factor for factor in factors]
    nuclear = np.linalg.svd(tall[0] @ tall[1].T, compute_uv=False).sum()
    return float(difference @ difference + sum((factor**2).sum() for factor in factors) - 2 * nuclear)


def our_distances(preset: str, kinds: Sequence[str], common: int, weights: str | None) -> Iterator[tuple[str, float]]:
    """("preset/kind/below/64", FID) of every case, each folder passed through the network once a dimension."""
    import fidfast
    from fidfast.frechet import statistics_distance

    def part(folder: Path, feature_dim: int) -> fidfast.FeatureStatistics:
        file = OURS / f"{folder.name}-{preset}-{feature_dim}.npz"
        if not file.exists():
            found = fidfast.compute_statistics(
                folder, preset=preset, feature_dim=feature_dim, weights=weights, progress=False
            )
            found.save(file)
        return fidfast.FeatureStatistics.load(file)

    def joined(kind: str, names: Sequence[str], feature_dim: int) -> fidfast.FeatureStatistics:
        first, *others = (part(folder_of(kind, name, blocks(common)[name]), feature_dim) for name in names)
        for other in others:
            first.merge(other)
        return first

    for kind in kinds:
        for name, feature_dim, real, generated in cases(preset, common):
            term = statistics_distance(joined(kind, generated, feature_dim), joined(kind, real, feature_dim))
            print(
                f"parity: ours, {preset}, {kind}, {name}, D={feature_dim}: {term.value:.6f} ({term.route})",
                file=sys.stderr,
            )
            yield f"{preset}/{kind}/{name}/{feature_dim}", float(term.value)


def peer_distances(tool: str, kind: str, common: int) -> list[dict[str, Any]]:
    """Every case of one tool on one kind: its FID, and the exact one of its features. Computed once, as they are."""
    output = PARITY / f"{tool}-{kind}-{common}.json"
    if output.exists():
        return list(json.loads(output.read_text()))
    rows, runs = [], []
    for name, feature_dim, real, generated in cases(tool, common):
        files = [
            [str(peer_features(source_tool(tool, kind, block), kind, block, blocks(common)[block])) for block in side]
            for side in (real, generated)
        ]
        sets = [load_features(side, feature_dim) for side in files]
        runs.append({"real": files[0], "generated": files[1], "feature_dim": feature_dim})
        counts = [len(values) for values in sets]
        rows.append({"case": name, "feature_dim": feature_dim, "n": counts, "peer_exact": exact_distance(*sets)})
    for row, value in zip(rows, run_peer("distances", tool, json.dumps(runs))["fid"], strict=True):
        row["peer"] = value
    output.write_text(json.dumps(rows))
    return rows


def compare(tools: list[str], kinds: list[str], common: int, ours: dict[str, float]) -> list[dict[str, Any]]:
    rows = []
    for tool in tools:
        for kind in kinds:
            for found in peer_distances(tool, kind, common):
                peer, feature_dim = found["peer"], found["feature_dim"]
                value = ours[f"{TOOLS[tool][0]}/{kind}/{found['case']}/{feature_dim}"]
                tolerance = RELATIVE * abs(peer) + ABSOLUTE
                difference, rounding = value - peer, peer - found["peer_exact"]
                within = abs(difference) <= tolerance
                rows.append(
                    {
                        "tool": tool,
                        "kind": kind,
                        **found,
                        "ours": value,
                        "difference": difference,
                        "tolerance": tolerance,
                        "within": within,
                    }
                )
                print(
                    f"{tool:29s} {kind:12s} n={found['n'][0]:<5d} D={feature_dim:<5d} peer {peer:11.6f} "
                    f"(rounding {rounding:+.1e})  ours {value:11.6f}  difference {difference:+.1e}  "
                    f"{'ok' if within else f'TOO FAR (tolerance {tolerance:.1e})'}"
                )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("sets", "peers", "distances", "ours", "compare", "all"), default="all")
    parser.add_argument(
        "--common", type=int, default=1760, help="images that both sides share, for n above 2048; 0: none"
    )
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--resume", action="store_true", help="keep our statistics of an earlier run too")
    parser.add_argument("--blocks", nargs="+", help="with --stage peers: only these blocks")
    parser.add_argument("--weights", help="the weight file that fidfast uses (default: where it finds them)")
    given = parser.parse_args()
    absent = [f"{tool} ({missing(tool)})" for tool in given.tools if missing(tool)]
    if absent:
        parser.error(f"not installed here: {', '.join(absent)}: run benchmarks/peers.sh and use .venv-peers/bin/python")
    counts = blocks(given.common)
    make_peer_weights()
    if given.stage == "sets":
        for kind in given.kinds:
            for block, count in counts.items():
                folder_of(kind, block, count)
    if given.stage in ("peers", "all"):
        for kind in given.kinds:
            for block in given.blocks or counts:
                for tool in dict.fromkeys(source_tool(tool, kind, block) for tool in given.tools):
                    peer_features(tool, kind, block, counts[block])
    if given.stage == "distances":
        for tool in given.tools:
            for kind in given.kinds:
                peer_distances(tool, kind, given.common)
    presets = list(dict.fromkeys(TOOLS[tool][0] for tool in given.tools))
    if given.stage in ("ours", "all"):
        if not given.resume:
            shutil.rmtree(OURS, ignore_errors=True)
        OURS.mkdir(parents=True, exist_ok=True)
        for preset in presets:
            found = dict(our_distances(preset, given.kinds, given.common, given.weights))
            (OURS / f"{preset}.json").write_text(json.dumps(found))
    if given.stage in ("compare", "all"):
        ours: dict[str, float] = {}
        for preset in presets:
            ours |= json.loads((OURS / f"{preset}.json").read_text())
        rows = compare(given.tools, given.kinds, given.common, ours)
        settings = {"relative": RELATIVE, "absolute": ABSOLUTE, "icons_from": icons_from(), "sizes": SIZES}
        write_result("parity", {"settings": settings, "rows": rows}, environment())
        far = [row for row in rows if not row["within"]]
        print(f"parity: {len(rows) - len(far)} of {len(rows)} within {RELATIVE}·FID + {ABSOLUTE}")
        return 1 if far else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

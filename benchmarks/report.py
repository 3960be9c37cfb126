"""From benchmarks/results/*.json to README's and migration.md's tables, docs/parity.md and docs/benchmarks.svg.

python -m benchmarks.report            rewrites them
python -m benchmarks.report --check    exits with 1 if a page does not say what the results say
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.paths import REPOSITORY, RESULTS

BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
CHART = REPOSITORY / "docs" / "benchmarks.svg"
README = REPOSITORY / "README.md"
PARITY = REPOSITORY / "docs" / "parity.md"
MIGRATION = REPOSITORY / "docs" / "migration.md"


def load(name: str) -> dict[str, Any] | None:
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] + ["---:"] * (len(header) - 1), *rows)]


def machine(result: dict[str, Any]) -> str:
    where = result["environment"]
    versions = where["versions"]
    return f"{where['cores']} cores of {where['cpu']}, torch {versions.get('torch', '?')}, {where['date']}"


def end_to_end(result: dict[str, Any]) -> list[str]:
    wall = result["wall_seconds"]
    images = 2 * result["images_per_side"]
    rows = []
    for name, seconds in sorted(wall.items(), key=lambda item: item[1]):
        ours = name.startswith("fidfast")
        fid = result["runs"][name][0]["fid"]
        rows.append(
            [
                f"**`{name}`**" if ours else f"`{name}`",
                f"{seconds:.0f} s",
                f"{images / seconds:.1f}",
                "" if ours else f"{result['ratios'][f'fidfast / {name}']:.2f}×",
                f"{fid:.4f}",
            ]
        )
    lines = [
        f"Whole commands, {result['images_per_side']} images of 256 × 256 a side, nothing cached ({machine(result)}):",
        "",
        *table(["command", "wall time", "images/s", "`fidfast` is faster by", "FID"], rows),
        "",
        "FIDs differ between tools that preprocess differently; each equals ours with that tool's preset "
        "(`benchmarks/results/parity.json`).",
    ]
    pays = result.get("compile_pays_from_images")
    if pays is not None:
        lines += ["", f"`--compile` costs seconds of compilation and pays from about {round(pays, -2):.0f} images on."]
    return lines


def parts(results: dict[str, dict[str, Any] | None]) -> list[str]:
    rows = []
    if (resize := results["resize"]) is not None:
        for row in resize["rows"]:
            if row["size"] in (256, 512) and row["preset"] in ("pytorch-fid", "clean-fid"):
                what = "Pillow, per core" if row["preset"] == "clean-fid" else "pytorch-fid's path"
                name = f"resize + normalise, {row['size']}², `{row['preset']}`"
                rows.append(
                    [name, what, f"{row['ratio']:.1f}×", f"{row['fraction_of_copy']:.0%} of a copy's bandwidth"]
                )
        most = max(max(row["hash_share"], 0) for row in resize["rows"] if row["size"] == 256)
        rows.append(["content hash in the same call, 256²", "none", f"adds {most:.0%} at most", ""])
    if (covariance := results["covariance"]) is not None:
        name = f"mean and covariance, n = {covariance['n']:,}, streamed"
        bound = f"{covariance['fraction_of_gemm']:.0%} of the GEMM rate"
        rows.append([name, "torchmetrics' update", f"{covariance['ratio_torchmetrics']:.1f}×", bound])
    if (frechet := results["frechet"]) is not None:
        names = {
            "sqrtm": "`scipy.linalg.sqrtm`",
            "sqrtm, nothing cached": "`sqrtm`, our reference not cached",
            "sqrtm, n < D": f"`sqrtm`, n = {frechet['n_low']:,}",
            "eigvals": "`eigvals` (torchmetrics)",
        }
        bound = f"{frechet['fraction_of_eigvalsh']:.0%} of one `eigvalsh`"
        for key, ratio in frechet["ratios"].items():
            last = bound if key in ("sqrtm", "eigvals") else ""
            rows.append([f"Fréchet distance, D = {frechet['feature_dim']}", names[key], f"{ratio:.1f}×", last])
    if (network := results["network"]) is not None:
        best = network["best_batch"]
        for key, ratio in network["ratios"].items():
            mode, _, rival = key.partition(", ")
            if rival in ("pytorch-fid, batch 50", best):
                share = network["images_per_second"][mode] / network["bound_images_per_second"]
                rows.append([f"network, {mode}", rival, f"{ratio:.2f}×", f"{share:.0%} of the GEMM rate"])
    if not rows:
        return []
    return ["", "Its parts, against the same work in other tools, and against what the machine can do:", "",
            *table(["part", "against", "faster by", "of the bound"], rows)]  # fmt: skip


def parity(result: dict[str, Any]) -> list[str]:
    rows = result["rows"]
    within = sum(row["within"] for row in rows)
    worst = max(rows, key=lambda row: abs(row["difference"]) / row["tolerance"])
    settings = result["settings"]
    counts = sorted({count for row in rows for count in row["n"]})
    return [
        "",
        f"Parity: {within} of {len(rows)} comparisons with pytorch-fid, clean-fid, torch-fidelity and torchmetrics on "
        f"photographs, icons and gray images, n = {' and '.join(map(str, counts))}, "
        f"are within {settings['relative']:g}·FID + {settings['absolute']:g}; the furthest uses "
        f"{abs(worst['difference']) / worst['tolerance']:.0%} of that.",
    ]


def facades(result: dict[str, Any]) -> list[str]:
    """How much faster a program is with our façade, than at the tool's default batch size and than at its best."""
    rows = []
    for tool, row in result["rows"].items():
        runs, ratios = row["runs"], row["ratios"]
        ours = statistics.median(run["wall_seconds"] for run in runs["ours"])
        other = [f"{ratio:.2f}×, {name.partition(', ')[2]}" for name, ratio in ratios.items() if name != "theirs"]
        fids = [f"{runs[name][0]['fid']:.4f}" for name in ("theirs", "ours")]
        rows.append([tool, f"{ours:.0f} s", f"{ratios['theirs']:.2f}×", *(other or [""]), *fids])
    header = ["tool", "ours, whole program", "faster by", "than the tool's best batch", "its FID", "ours"]
    rounds = max(len(row["runs"]["ours"]) for row in result["rows"].values())
    return [
        f"{result['images_per_side']} images of 256 × 256 a side, {rounds} round{'s' if rounds > 1 else ''} "
        f"({machine(result)}); `benchmarks/bench_compat.py`:",
        "",
        *table(header, rows),
    ]


def facades_line(result: dict[str, Any]) -> list[str]:
    ratios = [f"{tool} {row['ratios']['theirs']:.1f}×" for tool, row in result["rows"].items()]
    return ["", f"Other tools' users' programs, {result['images_per_side']} images a side, are faster after "
                f"`fidfast.compat.install(…)`: {', '.join(ratios)}."]  # fmt: skip


def measures(result: dict[str, Any]) -> list[str]:
    rows = [
        [
            row["tool"],
            row["kind"],
            row["measure"],
            *(f"{row[column]:.6f}" for column in ("peer", "same_features", "from_images")),
        ]
        for row in result["rows"]
    ]
    of_features, of_images = result["settings"]["from_features"], result["settings"]["from_images"]
    return [
        "",
        "## The measures beside FID",
        "",
        "The tool's functions, and ours under the same names in `fidfast.compat`, with the same subsets and splits: "
        "first of the tool's own features, then of ours, that is from the images on. Allowed: "
        f"{of_features[0]:g} of the value + {of_features[1]:g}, and {of_images[0]:g} + {of_images[1]:g}. "
        "The Inception Score's logits are the features through one random layer: no package has the trained one "
        "(`benchmarks/parity_measures.py`).",
        "",
        *table(["tool", "images", "measure", "theirs", "ours, same features", "ours, from images"], rows),
    ]


def parity_page(result: dict[str, Any], others: dict[str, Any] | None) -> str:
    """docs/parity.md: every comparison, ours and theirs."""
    rows = [
        [
            row["tool"],
            row["kind"],
            " + ".join(map(str, row["n"])),
            str(row["feature_dim"]),
            f"{row['peer']:.6f}",
            f"{row['ours']:.6f}",
            f"{abs(row['difference']):.0e}",
        ]
        for row in result["rows"]
    ]
    settings, sizes = result["settings"], result["settings"]["sizes"]
    kinds = ", ".join(f"{kind} of {size} × {size}" for kind, size in sizes.items())
    lines = [
        "# Our FID beside every tool's",
        "",
        "<!-- written by python -m benchmarks.report from benchmarks/results/parity.json -->",
        f"Same images, same weights, each tool's own features and arithmetic ({machine(result)}): {kinds}. Below 2048 "
        "images a side the covariances have not full rank. Allowed: "
        f"{settings['relative']:g}·FID + {settings['absolute']:g}. `make peers-test` compares whole calls, façades "
        "included.",
        "",
        *table(["tool", "images", "n", "features", "theirs", "ours", "apart by"], rows),
        *(measures(others) if others is not None else []),
    ]
    return "\n".join(lines) + "\n"


def precisions(result: dict[str, Any]) -> list[str]:
    rate = result["images_per_second"]
    rows = []
    for name in list(rate)[1:]:
        own = {row["kind"]: row for row in result["rows"] if row["precision"] == name}
        both = ", ".join(f"{kind} {row['shift']:+.2%}" for kind, row in own.items())
        one = ", ".join(f"{kind} {row['shift_against_fp32_reference']:+.2%}" for kind, row in own.items())
        rows.append([f"`{name}`", f"{rate[name] / rate['fp32']:.1f}×", both, one])
    return [
        "",
        f"What a lower precision of the network gains and how far it moves FID, n = {result['images_per_side']}:",
        "",
        *table(["precision", "network faster by", "both sides in it", "reference in float32"], rows),
    ]


def chart(result: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fidfast"  # the same file for the same numbers
    from matplotlib import pyplot

    wall = sorted(result["wall_seconds"].items(), key=lambda item: -item[1])
    figure, axes = pyplot.subplots(figsize=(8, 0.42 * len(wall) + 1.1))
    colours = ["#d1495b" if name.startswith("fidfast") else "#8d99ae" for name, _ in wall]
    bars = axes.barh([name for name, _ in wall], [seconds for _, seconds in wall], color=colours)
    axes.bar_label(bars, labels=[f"{seconds:.0f} s" for _, seconds in wall], padding=4)
    axes.set_xlabel(f"seconds for the whole command, {result['images_per_side']} images of 256 × 256 a side, 2 cores"
                    if result["environment"]["cores"] == 2 else "seconds for the whole command")  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
    figure.tight_layout()
    CHART.parent.mkdir(exist_ok=True)
    figure.savefig(CHART, metadata={"Date": None})
    pyplot.close(figure)


def section() -> str:
    whole, checked = load("end_to_end"), load("parity")
    lines = end_to_end(whole) if whole is not None else []
    if whole is not None:
        lines += ["", "![Wall time of the whole command](docs/benchmarks.svg)"]
    lines += parts({name: load(name) for name in ("resize", "covariance", "frechet", "network")})
    compared = load("compat")
    lines += facades_line(compared) if compared is not None else []
    lines += parity(checked) if checked is not None else []
    measured = load("precision")
    lines += precisions(measured) if measured is not None else []
    lines += ["", "How these were measured: [benchmarks/README.md](benchmarks/README.md)."] if lines else []
    return "\n".join(lines)


def between_markers(page: Path, lines: str) -> str:
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"{page.name}: expected the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    wanted = {README: between_markers(README, section())}
    compared, checked = load("compat"), load("parity")
    if compared is not None:
        wanted[MIGRATION] = between_markers(MIGRATION, "\n".join(facades(compared)))
    if checked is not None:
        wanted[PARITY] = parity_page(checked, load("parity_measures"))
    if given.check:
        stale = [file.name for file, page in wanted.items() if not file.exists() or file.read_text("utf-8") != page]
        print(f"{', '.join(stale)}: stale: python -m benchmarks.report" if stale else "they say what the results say")
        return int(bool(stale))
    for file, page in wanted.items():
        file.write_text(page, encoding="utf-8")
    whole = load("end_to_end")
    if whole is not None:
        chart(whole)
    return 0


if __name__ == "__main__":
    sys.exit(main())

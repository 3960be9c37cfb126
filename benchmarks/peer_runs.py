"""Run other FID tools, each through its own public code, on folders of images; the answer is JSON on standard output.

    python -m benchmarks.peer_runs fid TOOL '[{"real": DIR, "generated": DIR, "feature_dim": 64, "batch_size": 50}, …]'
    python -m benchmarks.peer_runs features TOOL FOLDER OUT.npz [--batch-size N]
    python -m benchmarks.peer_runs distances TOOL '[{"real": FILE.npz, "generated": FILE.npz, "feature_dim": 64}, …]'

`fid` is one whole call of the tool per entry. `features` and `distances` split that call in two, so that parity on
thousands of images pays for one pass of the tool's network per set: the features are the tool's own, and so is the
arithmetic after them. fidfast is never imported here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.paths import CLEAN_FID_WEIGHTS

# Our preset with the same preprocessing, and the module that must be importable.
TOOLS = {
    "pytorch-fid": ("pytorch-fid", "pytorch_fid"),
    "clean-fid": ("clean-fid", "cleanfid"),
    "torch-fidelity": ("tensorflow", "torch_fidelity"),
    "torchmetrics": ("torchmetrics", "torchmetrics"),
    "torchmetrics-antialias-false": ("tensorflow", "torchmetrics"),
}
CPUS = len(os.sched_getaffinity(0))


def missing(tool: str) -> str | None:
    """The module that `tool` needs and this Python lacks, or None."""
    names = (TOOLS[tool][1], *(("torch_fidelity",) if tool.startswith("torchmetrics") else ()))
    return next((name for name in names if importlib.util.find_spec(name) is None), None)


class Uint8Folder(torch.utils.data.Dataset):
    """What a torchmetrics user writes: sorted files of one folder as uint8 (3, H, W) RGB tensors."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(file for file in folder.iterdir() if file.suffix in (".png", ".jpg"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.files[index]) as image:
            return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def uint8_batches(folder: Path, batch_size: int) -> Iterator[torch.Tensor]:
    return iter(torch.utils.data.DataLoader(Uint8Folder(folder), batch_size, num_workers=CPUS))  # type: ignore[arg-type]


def torchmetrics_metric(tool: str, feature_dim: int) -> Any:
    from torchmetrics.image.fid import FrechetInceptionDistance

    return FrechetInceptionDistance(feature=feature_dim, antialias=tool == "torchmetrics")


def clean_fid_network() -> Any:
    """clean-fid's own wrapper of the TorchScript network; its build_feature_extractor knows no folder but /tmp."""
    from cleanfid.inception_torchscript import InceptionV3W

    return InceptionV3W(str(CLEAN_FID_WEIGHTS), download=False).eval()


def fid(tool: str, real: str, generated: str, feature_dim: int = 2048, batch_size: int | None = None) -> float:
    """One whole call of `tool`, at its default batch size unless one is given (images of mixed sizes need 1)."""
    device = torch.device("cpu")
    if tool == "pytorch-fid":
        from pytorch_fid.fid_score import calculate_fid_given_paths

        return float(calculate_fid_given_paths([real, generated], batch_size or 50, device, feature_dim, CPUS))
    if tool == "clean-fid":
        import cleanfid.fid

        return float(
            cleanfid.fid.compute_fid(
                real,
                generated,
                mode="clean",
                num_workers=12 if batch_size is None else CPUS,
                batch_size=batch_size or 32,
                device=device,
                custom_feat_extractor=clean_fid_network(),
            )
        )
    if tool == "torch-fidelity":
        import torch_fidelity

        values = torch_fidelity.calculate_metrics(
            input1=real,
            input2=generated,
            fid=True,
            cuda=False,
            cache=False,
            batch_size=batch_size or 64,
            feature_layer_fid=str(feature_dim),
        )
        return float(values["frechet_inception_distance"])
    metric = torchmetrics_metric(tool, feature_dim)
    with torch.no_grad():
        for folder, is_real in ((real, True), (generated, False)):
            for batch in uint8_batches(Path(folder), batch_size or 32):
                metric.update(batch, real=is_real)
        return float(metric.compute())


@torch.no_grad()
def features(tool: str, folder: str, batch_size: int = 16) -> dict[str, np.ndarray]:
    """The tool's own activations of every image: key str(feature_dim), each (N, feature_dim) float32, files sorted."""
    if tool == "pytorch-fid":
        from pytorch_fid.fid_score import ImagePathDataset
        from pytorch_fid.inception import InceptionV3
        from torchvision.transforms import ToTensor

        network = InceptionV3([0, 1, 2, 3]).eval()
        dataset = ImagePathDataset(Uint8Folder(Path(folder)).files, ToTensor())
        loader = torch.utils.data.DataLoader(dataset, batch_size, num_workers=CPUS)
        blocks = [[block.mean((2, 3)) for block in network(batch)] for batch in loader]
        joined = [torch.cat(block).numpy() for block in zip(*blocks, strict=True)]
        return {str(values.shape[1]): values for values in joined}
    if tool == "clean-fid":
        import cleanfid.fid

        network = clean_fid_network()
        values = cleanfid.fid.get_folder_features(
            folder, network, num_workers=CPUS, batch_size=batch_size, device=torch.device("cpu"), mode="clean"
        )
        return {"2048": values}
    layers = ["64", "192", "768", "2048"]
    if tool == "torch-fidelity":
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        network = FeatureExtractorInceptionV3("inception-v3-compat", layers).eval()
    else:
        from torchmetrics.image.fid import NoTrainInceptionV3

        network = NoTrainInceptionV3("inception-v3-compat", layers, antialias=tool == "torchmetrics")
        network.forward = network._torch_fidelity_forward
    outputs = [network(batch) for batch in uint8_batches(Path(folder), batch_size)]
    return {str(layer[0].shape[1]): torch.cat(layer).numpy() for layer in zip(*outputs, strict=True)}


def distance(tool: str, real: np.ndarray, generated: np.ndarray) -> float:
    """The tool's own arithmetic from features (N, D) float32 to FID."""
    if tool == "pytorch-fid":
        from pytorch_fid.fid_score import calculate_frechet_distance

        # calculate_activation_statistics: get_activations copies float32 features into a float64 array.
        sets = [np.asarray(values, dtype=np.float64) for values in (real, generated)]
        moments = [moment for values in sets for moment in (np.mean(values, axis=0), np.cov(values, rowvar=False))]
        return float(calculate_frechet_distance(*moments))
    if tool == "clean-fid":
        from cleanfid.fid import fid_from_feats

        return float(fid_from_feats(real, generated))
    if tool == "torch-fidelity":
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        statistics = [fid_features_to_statistics(torch.from_numpy(values)) for values in (real, generated)]
        return float(fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])
    metric = torchmetrics_metric(tool, real.shape[1])
    metric.inception = torch.nn.Identity()  # update() and compute() are the tool's; the network ran before
    for values, is_real in ((real, True), (generated, False)):
        for batch in torch.from_numpy(values).split(32):
            metric.update(batch, real=is_real)
    return float(metric.compute())


def load_features(files: str | list[str], feature_dim: int) -> np.ndarray:
    names = [files] if isinstance(files, str) else files
    return np.concatenate([np.load(name)[str(feature_dim)] for name in names])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("fid", "features", "distances"))
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("what", help="JSON list of runs, or a folder for `features`")
    parser.add_argument("output", nargs="?", help="the .npz that `features` writes")
    parser.add_argument("--batch-size", type=int, default=16)
    given = parser.parse_args()
    start = time.perf_counter()
    answer: dict[str, Any]
    with contextlib.redirect_stdout(sys.stderr):  # the tools print as they go
        if given.action == "fid":
            answer = {"fid": [fid(given.tool, **run) for run in json.loads(given.what)]}
        elif given.action == "features":
            values = features(given.tool, given.what, given.batch_size)
            np.savez(given.output, **values)
            answer = {"images": len(next(iter(values.values())))}
        else:
            answer = {
                "fid": [
                    distance(
                        given.tool, *(load_features(run[side], run["feature_dim"]) for side in ("real", "generated"))
                    )
                    for run in json.loads(given.what)
                ]
            }
    print(json.dumps({**answer, "seconds": time.perf_counter() - start}))


if __name__ == "__main__":
    main()

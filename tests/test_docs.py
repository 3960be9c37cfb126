"""The Python of docs/extractors.md and docs/metrics.md runs as it stands, with stand-ins for the large networks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from test_evaluate import make_images, save_folder
from torch import nn

import fidfast
from fidfast.metrics.kid import kernel_distance

DOCS = Path(__file__).resolve().parent.parent / "docs"


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), flags=re.DOTALL)


class StandIn(nn.Module):
    """Normalised float images (N, 3, size, size) → (N, 6): their channels' means and deviations."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.dtype == torch.float32 and x.shape[1:] == (3, self.size, self.size)
        assert x.abs().max() < 4, "not normalised"
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], dim=1)

    def encode_image(self, x: torch.Tensor) -> torch.Tensor:
        return self(x).half()  # as open_clip's on a GPU


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_folder(tmp_path / "real", make_images(14, seed=1))
    save_folder(tmp_path / "generated", make_images(12, seed=2))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("folders")
@pytest.mark.filterwarnings("ignore:kid")
def test_recipes_for_other_networks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[Any, ...]] = []

    def hub(*names: str) -> nn.Module:
        asked.append(names)
        return StandIn(224)

    def create(name: str, pretrained: str) -> tuple[nn.Module, None, None]:
        asked.append((name, pretrained))
        return StandIn(336 if "336" in name else 224), None, None

    open_clip = ModuleType("open_clip")
    open_clip.create_model_and_transforms = create  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "open_clip", open_clip)
    monkeypatch.setattr(torch.hub, "load", hub)
    names: dict[str, Any] = {"__name__": "recipe"}
    for block in blocks("extractors.md"):
        exec(compile(block, "docs/extractors.md", "exec"), names)
    first, again, clip, cmmd = capsys.readouterr().out.split("\n")[:4]
    assert first == (
        f"FD-DINOv2 {names['result']['fid']:.2f}, precision {names['result']['prdc'].precision:.3f}, "
        f"recall {names['result']['prdc'].recall:.3f}"
    )
    assert float(again) == pytest.approx(float(names["result"]["fid"]), rel=1e-9)
    assert float(clip) > 0
    rows = [
        fidfast.compute_features(side, feature_extractor=names["clip"], progress=False)
        for side in ("real", "generated")
    ]
    norms = torch.cat([side["features"] for side in rows]).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(26), rtol=1e-3, atol=0)
    expected = kernel_distance(*(side["features"] for side in rows), kernel="rbf", sigma=10, subsets=None).mean
    assert float(cmmd) == pytest.approx(1000 * expected, rel=1e-9)
    assert set(asked) == {
        ("facebookresearch/dinov2", "dinov2_vitl14"),
        ("ViT-B-32", "openai"),
        ("ViT-L-14-336", "openai"),
    }


@pytest.mark.weights
@pytest.mark.usefixtures("folders")
@pytest.mark.filterwarnings("ignore:kid")
def test_the_example_of_the_measures(weights_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = blocks("metrics.md")
    names: dict[str, Any] = {}
    exec(compile(block, "docs/metrics.md", "exec"), names)
    printed = [float(word) for word in capsys.readouterr().out.split()]
    result = names["result"]
    assert printed == [float(result["fid"]), result["kid"].mean, result["kid"].std, result["prdc"].recall]
    (listed,) = re.findall(r"scalars\(\)  # (.*)", block)
    assert listed.split(", ") == list(names["logged"])

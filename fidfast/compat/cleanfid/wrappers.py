"""cleanfid.wrappers: images added batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fidfast.compat.cleanfid.features import CUDA, build_feature_extractor
from fidfast.compat.cleanfid.fid import check_model_name, fid_from_feats
from fidfast.compat.cleanfid.resize import build_resizer


class CleanFID:
    """Real and generated images in [0, 255], one or a batch at a time; :meth:`calculate_fid` compares them."""

    def __init__(self, mode: str = "clean", model_name: str = "inception_v3", device: Any = "cuda") -> None:
        check_model_name(model_name)
        self.real_features: list[np.ndarray] = []
        self.gen_features: list[np.ndarray] = []
        self.mode, self.device = mode, device
        self.feat_model = build_feature_extractor(mode, CUDA if device == "cuda" else device)
        self.fn_resize = build_resizer(mode)

    def compute_features(self, x: Any) -> np.ndarray:
        """(N, 2048) float32 of a Pillow image, an array (H, W, 3), or a tensor (3, H, W) or (N, 3, H, W)."""
        if isinstance(x, Image.Image):
            x = np.array(x.convert("RGB"))
        if isinstance(x, np.ndarray):
            x = torch.from_numpy(x).permute(2, 0, 1)
        if not isinstance(x, Tensor):
            raise ValueError(f"x: expected a Pillow image, an array or a tensor, got {type(x).__name__}")
        return self.feat_model.of_images(x[None] if x.ndim == 3 else x).cpu().numpy()

    def add_real_images(self, x: Any) -> None:
        self.real_features.append(self.compute_features(x))

    def add_gen_images(self, x: Any) -> None:
        self.gen_features.append(self.compute_features(x))

    def calculate_fid(self, verbose: bool = True) -> np.float64:
        """The FID of the images added so far."""
        for name, rows in (("real", self.real_features), ("generated", self.gen_features)):
            if not rows:
                raise ValueError(f"{name}: expected at least 2 images before calculate_fid, got none")
        real, generated = np.concatenate(self.real_features), np.concatenate(self.gen_features)
        if verbose:
            print(f"# real images = {len(real)}")
            print(f"# generated images = {len(generated)}")
        return fid_from_feats(real, generated)

    def reset_real_features(self) -> None:
        self.real_features = []

    def reset_gen_features(self) -> None:
        self.gen_features = []

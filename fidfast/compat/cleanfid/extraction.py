"""Features of files, folders and generators: those functions of cleanfid.fid, which imports them from here."""

from __future__ import annotations

import os
import random
import zipfile
from collections.abc import Callable, Sequence
from glob import escape, glob
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fidfast import ImagesError, compute_features
from fidfast.compat.cleanfid.features import CUDA, InceptionFeatures, build_feature_extractor, resolve_device
from fidfast.compat.cleanfid.resize import build_resizer
from fidfast.compat.cleanfid.utils import (
    EXTENSIONS,
    ResizeDataset,
    ZipMembers,
    is_float_array,
    is_zip,
    to_array,
    to_tensor,
)

_Transform = Callable[[np.ndarray], np.ndarray] | None


def get_batch_features(batch: Tensor, model: Callable[[Tensor], Tensor], device: Any) -> np.ndarray:
    """The model's features of one batch."""
    with torch.no_grad():
        return model(batch.to(resolve_device(device))).detach().cpu().numpy()


def get_files_features(
    l_files: Sequence[Any],
    model: Any = None,
    num_workers: int = 12,
    batch_size: int = 128,
    device: Any = CUDA,
    mode: str = "clean",
    custom_fn_resize: _Transform = None,
    description: str = "",
    fdir: str | None = None,
    verbose: bool = True,
    custom_image_tranform: _Transform = None,
) -> np.ndarray:
    """(N, D) features of image files in their order, or of members of the zip file fdir."""
    if not len(l_files):
        raise ImagesError(f"l_files: expected images{f' in {fdir}' if fdir else ''}, got none")
    model = build_feature_extractor(mode, device) if model is None else model
    workers = min(num_workers, os.cpu_count() or 1)
    zipped = fdir is not None and is_zip(fdir)
    if _is_own(model, mode, custom_fn_resize, custom_image_tranform):
        names = list(dict.fromkeys(str(file) if zipped else os.path.abspath(file) for file in l_files))
        if len(names) == len(l_files) and (zipped or not any(map(is_float_array, names))):
            images: Any = ZipMembers(str(fdir), names) if zipped else names
            (rows,) = compute_features(
                images, batch_size=batch_size, num_workers=workers, feature_extractor=model.extractor, progress=verbose
            ).values()
            return rows.cpu().numpy()
    dataset = ResizeDataset(l_files, mode, fdir=fdir)
    dataset.custom_image_tranform = custom_image_tranform
    dataset.fn_resize = custom_fn_resize or dataset.fn_resize
    loader = torch.utils.data.DataLoader(dataset, batch_size, num_workers=workers)
    return np.concatenate([
        get_batch_features(batch, model, device) for batch in tqdm(loader, desc=description, disable=not verbose)
    ])  # fmt: skip


def get_folder_features(
    fdir: str,
    model: Any = None,
    num_workers: int = 12,
    num: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    batch_size: int = 128,
    device: Any = CUDA,
    mode: str = "clean",
    custom_fn_resize: _Transform = None,
    description: str = "",
    verbose: bool = True,
    custom_image_tranform: _Transform = None,
) -> np.ndarray:
    """(N, D) features of the images in a folder and its subfolders, or in a .zip; of the first `num` of them."""
    fdir = os.fspath(fdir)
    if is_zip(fdir):
        try:
            with zipfile.ZipFile(fdir) as archive:
                files = sorted(name for name in archive.namelist() if _suffix(name).lower() in EXTENSIONS - {"npy"})
        except zipfile.BadZipFile as error:
            raise ImagesError(f"{fdir}: expected a zip file, but it cannot be read: {error}") from error
    else:
        files = sorted(
            file for suffix in EXTENSIONS for file in glob(os.path.join(escape(fdir), f"**/*.{suffix}"), recursive=True)
        )
    if verbose:
        print(f"Found {len(files)} images in the folder {fdir}")
    if num is not None:
        if shuffle:
            random.Random(seed).shuffle(files)
        files = files[:num]
    return get_files_features(
        files,
        model,
        num_workers=num_workers,
        batch_size=batch_size,
        device=device,
        mode=mode,
        custom_fn_resize=custom_fn_resize,
        custom_image_tranform=custom_image_tranform,
        description=description,
        fdir=fdir,
        verbose=verbose,
    )


def get_model_features(
    G: Callable[[Tensor], Tensor],
    model: Any,
    mode: str = "clean",
    z_dim: int = 512,
    num_gen: int = 50_000,
    batch_size: int = 128,
    device: Any = CUDA,
    desc: str = "FID model: ",
    verbose: bool = True,
    return_z: bool = False,
    custom_image_tranform: _Transform = None,
    custom_fn_resize: _Transform = None,
) -> Any:
    """(num_gen, D) features of images G(z), in [0, 255], z normal (batch_size, z_dim); with return_z also all z."""
    device = resolve_device(device)
    resize = custom_fn_resize or build_resizer(mode)
    model = build_feature_extractor(mode, device) if model is None else model
    own = _is_own(model, mode, custom_fn_resize, custom_image_tranform)
    feats, latents = [], []
    for _ in tqdm(range(-(-num_gen // batch_size)), desc=desc, disable=not verbose):
        with torch.no_grad():
            z = torch.randn((batch_size, z_dim)).to(device)
            images = G(z)
            if len(images) < batch_size:
                raise ValueError(f"G: expected {batch_size} images of z {tuple(z.shape)}, got {len(images)}")
            latents += [z] if return_z else []
            if own:
                feats.append(model.of_images(images).cpu().numpy())
                continue
            if mode != "legacy_tensorflow":
                arrays = [to_array(image) for image in images]
                if custom_image_tranform is not None:
                    arrays = [custom_image_tranform(array) for array in arrays]
                images = torch.stack([to_tensor(resize(array)) for array in arrays])
            feats.append(get_batch_features(images, model, device))
    rows = np.concatenate(feats)[:num_gen]
    return (rows, torch.cat(latents)) if return_z else rows


def _is_own(model: Any, mode: str, *custom: _Transform) -> bool:
    """Whether fidfast's whole pass, resize included, is what the caller asks for."""
    return isinstance(model, InceptionFeatures) and model.mode == mode and not any(custom)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1][1:]

"""From an input of ``calculate_metrics`` to the features of its images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from tqdm import tqdm

import fidfast
from fidfast.compat.torch_fidelity.cache import cached_features, settings_key
from fidfast.compat.torch_fidelity.datasets import ImagesPathDataset, ResizeAndCrop
from fidfast.compat.torch_fidelity.feature_extractor_base import FeatureExtractorBase
from fidfast.compat.torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from fidfast.compat.torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
from fidfast.compat.torch_fidelity.generative_model_base import GenerativeModelBase
from fidfast.compat.torch_fidelity.generative_model_modulewrapper import GenerativeModelModuleWrapper
from fidfast.compat.torch_fidelity.helpers import get_kwarg, vassert, vprint
from fidfast.compat.torch_fidelity.registry import (
    DATASETS_REGISTRY,
    FEATURE_EXTRACTORS_REGISTRY,
    INTERPOLATION_REGISTRY,
    NOISE_SOURCE_REGISTRY,
)

DEFAULT_FEATURE_EXTRACTOR = {
    "isc": "inception-v3-compat",
    "fid": "inception-v3-compat",
    "kid": "inception-v3-compat",
    "prc": "vgg16",
}


def glob_samples_paths(
    path: str,
    samples_find_deep: bool,
    samples_find_ext: str,
    samples_ext_lossy: str | None = None,
    verbose: bool = True,
) -> list[str]:
    """The image files of a folder, sorted; extensions in any case."""
    vassert(
        type(samples_find_ext) is str and samples_find_ext != "",
        f"samples_find_ext: expected extensions such as 'png,jpg', got {samples_find_ext!r}",
    )
    wanted = {one.strip() for one in samples_find_ext.split(",") if one.strip()}
    lossy = {one.strip() for one in (samples_ext_lossy or "").split(",") if one.strip()}
    files, extensions = [], set()
    for folder, _, names in os.walk(path):
        for name in names:
            extension = os.path.splitext(name)[1].lower().removeprefix(".")
            if extension in wanted:
                files.append(os.path.join(folder, name))
                extensions.add(extension)
        if not samples_find_deep:
            break
    note = ", some of them lossy (this may affect metrics)" if extensions & lossy else ""
    vprint(verbose, f"Found {len(files)} samples in {path}{note}")
    return sorted(files, key=os.path.realpath)


def resolve_feature_extractor(**kwargs: Any) -> str:
    """The name of the network: ``feature_extractor``, else the one of the wanted metrics."""
    name = get_kwarg("feature_extractor", kwargs)
    if name is None:
        names = {network for metric, network in DEFAULT_FEATURE_EXTRACTOR.items() if get_kwarg(metric, kwargs)}
        vassert(
            len(names) == 1, f"feature_extractor: expected metrics of one network, got {sorted(names) or 'no metric'}"
        )
        name = names.pop()
    known = ", ".join(FEATURE_EXTRACTORS_REGISTRY)
    vassert(
        name in FEATURE_EXTRACTORS_REGISTRY,
        f"feature_extractor: expected one of {known}, got {name!r}; CLIP and DINOv2 do not come with "
        "fidfast, register_feature_extractor() takes yours",
    )
    return name


def resolve_feature_layer_for_metric(metric: str, **kwargs: Any) -> str:
    layer = get_kwarg(f"feature_layer_{metric}", kwargs)
    if layer is None:
        network = FEATURE_EXTRACTORS_REGISTRY[resolve_feature_extractor(**kwargs)]
        layer = network.get_default_feature_layer_for_metric(metric)
    return layer


def create_feature_extractor(
    name: str, list_features: list[str], cuda: bool = True, **kwargs: Any
) -> FeatureExtractorBase:
    vprint(get_kwarg("verbose", kwargs), f'Creating feature extractor "{name}" with features {list_features}')
    extractor = FEATURE_EXTRACTORS_REGISTRY[name](name, list_features, **kwargs)
    extractor.requires_grad_(False)
    extractor.eval()
    if cuda:
        vassert(
            torch.cuda.is_available(), "cuda: expected False, torch has no CUDA device here (on the command line --cpu)"
        )
        extractor.cuda()
    own = isinstance(extractor, FeatureExtractorInceptionV3)
    if get_kwarg("feature_extractor_compile", kwargs) and extractor.can_be_compiled() and not own:
        extractor.forward = torch.compile(extractor.forward)  # type: ignore[method-assign]
    return extractor


def sample_random(rng: np.random.RandomState, shape: tuple[int, ...], z_type: str) -> Tensor:
    """Noise of a registered kind."""
    known = ", ".join(NOISE_SOURCE_REGISTRY)
    vassert(z_type in NOISE_SOURCE_REGISTRY, f"z_type: expected one of {known}, got {z_type!r}")
    return NOISE_SOURCE_REGISTRY[z_type](rng, shape)


def batch_interp(a: Tensor, b: Tensor, t: float, method: str) -> Tensor:
    """A registered interpolation between two batches."""
    known = ", ".join(INTERPOLATION_REGISTRY)
    vassert(method in INTERPOLATION_REGISTRY, f"method: expected one of {known}, got {method!r}")
    return INTERPOLATION_REGISTRY[method](a, b, t)


def get_cacheable_input_name(input_id: int, **kwargs: Any) -> str | None:
    """What the cache calls an input: a registered name, else ``input1_cache_name``; None is not cached."""
    given = get_kwarg(f"input{input_id}", kwargs)
    return (
        given
        if isinstance(given, str) and given in DATASETS_REGISTRY
        else get_kwarg(f"input{input_id}_cache_name", kwargs)
    )


def prepare_input_from_id(input_id: int, **kwargs: Any) -> Any:
    """A Dataset or a generator from ``input1`` or ``input2``. ValueError, FileNotFoundError."""
    given, argument = get_kwarg(f"input{input_id}", kwargs), f"input{input_id}"
    if isinstance(given, (Dataset, GenerativeModelBase)):
        return given
    if isinstance(given, (str, os.PathLike)):
        given = os.fspath(given)
        if given in DATASETS_REGISTRY:
            root = get_kwarg("datasets_root", kwargs) or os.path.join(
                os.path.dirname(torch.hub.get_dir()), "fidelity_datasets"
            )
            os.makedirs(root, exist_ok=True)
            return DATASETS_REGISTRY[given](root, get_kwarg("datasets_download", kwargs))
        if os.path.isdir(given):
            return _files_of(given, argument, kwargs)
        if os.path.isfile(given) and given.endswith(".pth"):
            return GenerativeModelModuleWrapper(
                torch.jit.load(given, map_location="cpu"),
                *(get_kwarg(f"{argument}_model_{what}", kwargs) for what in ("z_size", "z_type", "num_classes")),
            )
        vassert(
            not given.endswith(".onnx"),
            f"{argument}: ONNX generators are not supported, got {given}; load it and wrap it in "
            "GenerativeModelModuleWrapper",
        )
    what = repr(given) if isinstance(given, str) else type(given).__name__
    raise ValueError(
        f"{argument}: expected a folder of images, one of the registered names {', '.join(DATASETS_REGISTRY)}, a "
        f"Dataset, a GenerativeModelBase or a TorchScript .pth file of one, got {what}"
    )


def _files_of(folder: str, argument: str, kwargs: Mapping[str, Any]) -> Any:
    extensions = get_kwarg("samples_find_ext", kwargs)
    deep, lossy = get_kwarg("samples_find_deep", kwargs), get_kwarg("samples_ext_lossy", kwargs)
    files = glob_samples_paths(folder, deep, extensions, lossy, get_kwarg("verbose", kwargs))
    hint = "" if deep else ", at its top level (samples_find_deep=True looks further)"
    vassert(files, f"{argument}: expected images in {folder} with an extension of {extensions}{hint}, found none")
    size = get_kwarg("samples_resize_and_crop", kwargs)
    return ImagesPathDataset(files, ResizeAndCrop(size) if size > 0 else None)


class GeneratedImages:
    """What a generator makes of seeded noise, batch by batch, as torch-fidelity draws it.

    Args:
        rgb: whether that must be uint8 images (n, 3, H, W), as fidfast's networks take them.
    """

    def __init__(
        self, model: GenerativeModelBase, count: Any, batch_size: int, cuda: bool, seed: int, argument: str, rgb: bool
    ) -> None:
        vassert(
            isinstance(count, int) and count > 0,
            f"{argument}_model_num_samples: expected a positive whole number beside a generator, got {count!r}",
        )
        self.model = model.cuda() if cuda else model
        self.count, self.batch_size, self.device, self.seed = count, batch_size, "cuda" if cuda else "cpu", seed
        self.argument, self.rgb = argument, rgb

    @torch.no_grad()
    def __iter__(self) -> Iterator[Tensor]:  # (n, ...)
        rng = np.random.RandomState(self.seed)
        for start in range(0, self.count, self.batch_size):
            size = min(self.batch_size, self.count - start)
            arguments = [sample_random(rng, (size, self.model.z_size), self.model.z_type).to(self.device)]
            if self.model.num_classes > 0:
                labels = rng.randint(low=0, high=self.model.num_classes, size=(size,), dtype=np.int64)
                arguments.append(torch.from_numpy(labels).to(self.device))
            images = self.model(*arguments)
            got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            vassert(
                not self.rgb
                or (isinstance(images, Tensor) and images.dtype == torch.uint8 and images.shape[:2] == (size, 3)),
                f"{self.argument}: expected the generator to make torch.uint8 ({size}, 3, H, W), got {got}",
            )
            yield images


def image_source(input_id: int, extractor: FeatureExtractorBase, **kwargs: Any) -> tuple[Any, int | None]:
    """What is read for an input, and in how many processes."""
    argument, cuda, in_process = f"input{input_id}", get_kwarg("cuda", kwargs), get_kwarg("save_cpu_ram", kwargs)
    source = prepare_input_from_id(input_id, **kwargs)
    if isinstance(source, GenerativeModelBase):
        count = get_kwarg(f"{argument}_model_num_samples", kwargs)
        batch_size, seed = get_kwarg("batch_size", kwargs), get_kwarg("rng_seed", kwargs)
        return GeneratedImages(source, count, batch_size, cuda, seed, argument, _takes_rgb(extractor)), 0
    if isinstance(source, ImagesPathDataset) and source.transforms is None:
        return source.files, 0 if in_process else None
    vassert(not _is_empty(source), f"{argument}: expected images, got an empty {type(source).__name__}")
    if _takes_rgb(extractor):
        check_uint8(source, argument)
    return source, workers_of(in_process)


def workers_of(save_cpu_ram: bool) -> int:
    """In how many processes a Dataset is read."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if save_cpu_ram else min(4, max(1, cores - 1))


def _is_empty(source: Any) -> bool:
    return isinstance(source, Sized) and not len(source)


def _takes_rgb(extractor: FeatureExtractorBase) -> bool:
    """fidfast's networks; a registered one takes whatever the inputs of its user hold."""
    return isinstance(extractor, (FeatureExtractorInceptionV3, FeatureExtractorVGG16))


def check_uint8(dataset: Any, argument: str) -> None:
    """ValueError unless the first image of the Dataset is uint8: what float images mean is not ours to guess."""
    dtype = getattr(_first_item(dataset), "dtype", None)
    vassert(
        dtype is None or str(dtype).endswith("uint8"),
        f"{argument}: expected a Dataset of uint8 images (3, H, W) in [0, 255], got {dtype}",
    )


def _first_item(dataset: Any) -> Any:
    """The image of the first item, with or without a label beside it; None where to look would be to take."""
    return None if isinstance(dataset, IterableDataset) else _image_of(dataset[0])


def _image_of(item: Any) -> Any:
    while isinstance(item, (tuple, list)) and item:
        item = item[0]
    return item


class _SideBySide(nn.Module):
    """A registered network's features in one matrix; ``widths`` of each once it has run."""

    def __init__(self, extractor: FeatureExtractorBase) -> None:
        super().__init__()
        self.extractor = extractor
        self.widths: list[int] = []

    def forward(self, images: Tensor) -> Tensor:  # (N, 3, H, W) uint8 → (N, sum of widths)
        features = features_dict(self.extractor, images)
        self.widths = [values.shape[1] for values in features.values()]
        return torch.cat([values.float() for values in features.values()], dim=1)


def features_dict(extractor: FeatureExtractorBase, images: Tensor) -> dict[str, Tensor]:
    """{feature: (N, D)} of one batch. ValueError: a network that returns something else."""
    features = extractor.convert_features_tuple_to_dict(extractor(images))
    for name, values in features.items():
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        vassert(
            isinstance(values, Tensor) and values.ndim == 2,
            f"{extractor.get_name()}: expected features (N, D) under {name!r}, got {got}",
        )
    return features


def is_plain_inception(extractor: FeatureExtractorBase) -> bool:
    """Whether fidfast's own route computes what this network would."""
    return type(extractor) is FeatureExtractorInceptionV3 and not extractor.in_double


def extract_featuresdict_from_input_id(
    input_id: int, feat_extractor: FeatureExtractorBase, **kwargs: Any
) -> dict[str, Tensor]:
    """{feature: (N, D) float32} of one input, on the CPU."""
    source, workers = image_source(input_id, feat_extractor, **kwargs)
    options = (get_kwarg(name, kwargs) for name in ("batch_size", "cuda", "verbose"))
    return _features_of(source, workers, feat_extractor, *options)


def get_featuresdict_from_dataset(
    input: Dataset, feat_extractor: FeatureExtractorBase, batch_size: int, cuda: bool, save_cpu_ram: bool, verbose: bool
) -> dict[str, Tensor]:
    """{feature: (N, D) float32} of a Dataset, on the CPU."""
    vassert(isinstance(input, Dataset), f"input: expected a Dataset, got {type(input).__name__}")
    return _features_of(input, workers_of(save_cpu_ram), feat_extractor, batch_size, cuda, verbose)


def get_featuresdict_from_generative_model(
    gen_model: GenerativeModelBase,
    feat_extractor: FeatureExtractorBase,
    num_samples: int,
    batch_size: int,
    cuda: bool,
    rng_seed: int,
    verbose: bool,
) -> dict[str, Tensor]:
    """{feature: (N, D) float32} of what a generator makes, on the CPU."""
    rgb = _takes_rgb(feat_extractor)
    made = GeneratedImages(gen_model, num_samples, batch_size, cuda, rng_seed, "gen_model", rgb)
    return _features_of(made, 0, feat_extractor, batch_size, cuda, verbose)


def _features_of(
    source: Any, workers: int | None, extractor: FeatureExtractorBase, batch_size: int, cuda: bool, verbose: bool
) -> dict[str, Tensor]:
    options: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers, "progress": verbose}
    if is_plain_inception(extractor):
        network = extractor.network()  # type: ignore[operator]
        taps = fidfast.compute_features(source, feature_extractor=network, preset="tensorflow", **options)
        return {name: values.cpu() for name, values in taps.items()}
    device = "cuda" if cuda else "cpu"
    if not _takes_rgb(extractor):
        if isinstance(source, Dataset) and isinstance(_first_item(source), Tensor):
            source = DataLoader(source, batch_size, num_workers=workers or 0)
        if isinstance(source, (DataLoader, GeneratedImages)):
            return _features_as_they_come(source, extractor, device, verbose)
    joined = _SideBySide(extractor)
    found = fidfast.compute_features(source, feature_extractor=joined, device=device, preset="tensorflow", **options)
    features = found["features"].cpu()
    return dict(zip(extractor.get_requested_features_list(), features.split(joined.widths, dim=1), strict=True))


def _features_as_they_come(
    batches: Iterable[Any], extractor: FeatureExtractorBase, device: str, verbose: bool
) -> dict[str, Tensor]:  # {feature: (N, D) float32}
    """Of batches of any shape and type, such as gray or float images, that only the user's own network understands."""
    parts: dict[str, list[Tensor]] = {name: [] for name in extractor.get_requested_features_list()}
    for batch in tqdm(batches, desc="input", unit=" batches", disable=not verbose, file=sys.stderr):
        with torch.no_grad():
            for name, values in features_dict(extractor, _image_of(batch).to(device)).items():
                parts[name].append(values.float().cpu())
    return {name: torch.cat(rows) for name, rows in parts.items()}


def extract_featuresdict_from_input_id_cached(
    input_id: int, feat_extractor: FeatureExtractorBase, **kwargs: Any
) -> dict[str, Tensor]:
    """The same, from the cache where ``cache`` allows and the input has a name there."""
    name = get_cacheable_input_name(input_id, **kwargs)
    if name is None or not get_kwarg("cache", kwargs):
        return extract_featuresdict_from_input_id(input_id, feat_extractor, **kwargs)
    return cached_features(
        f"{name}-{feat_extractor.get_name()}",
        feat_extractor.get_requested_features_list(),
        settings_key(input_id, kwargs),
        get_kwarg("cache_root", kwargs),
        lambda: extract_featuresdict_from_input_id(input_id, feat_extractor, **kwargs),
        verbose=get_kwarg("verbose", kwargs),
    )

"""pytorch-image-generation-metrics, once pytorch-gan-metrics: FID and Inception Score of tensors, loaders, folders."""

from fidfast.compat.pytorch_image_generation_metrics.utils import (
    ImageDataset,
    get_fid,
    get_fid_from_directory,
    get_inception_score,
    get_inception_score_and_fid,
    get_inception_score_and_fid_from_directory,
    get_inception_score_from_directory,
)

__version__ = "0.6.1"  # whose interface this is

__all__ = [
    "ImageDataset",
    "get_fid",
    "get_fid_from_directory",
    "get_inception_score",
    "get_inception_score_and_fid",
    "get_inception_score_and_fid_from_directory",
    "get_inception_score_from_directory",
]

"""fidfast: the Fréchet Inception Distance, exact and fast.

The public names load on first use, so that ``import fidfast`` (and ``fidfast --help``) does no work.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "FID": "fidfast.metric",
    "DuplicateImagesError": "fidfast.duplicates",
    "FIDResult": "fidfast.result",
    "RanksError": "fidfast.distributed",
    "FidfastWarning": "fidfast.result",
    "EvaluationResult": "fidfast.measures",
    "compute_features": "fidfast.evaluation",
    "compute_fid": "fidfast.evaluation",
    "compute_statistics": "fidfast.evaluation",
    "evaluate": "fidfast.evaluation",
    "FeatureStatistics": "fidfast.statistics",
    "StatisticsError": "fidfast.statistics",
    "frechet_distance": "fidfast.frechet",
    "FrechetBracket": "fidfast.polar_distance",
    "matrix_sqrt": "fidfast.square_root",
    "FeatureExtractor": "fidfast.features",
    "PRESETS": "fidfast.preprocessing",
    "Preset": "fidfast.preprocessing",
    "preprocess": "fidfast.preprocessing",
    "ImagesError": "fidfast.images",
    "WeightsError": "fidfast.weights",
    "image_seeds": "fidfast.seeds",
    "randn_per_image": "fidfast.seeds",
    "rank_seed": "fidfast.seeds",
    "TrainingEvaluator": "fidfast.training",
    "Evaluation": "fidfast.training_results",
    "Stage": "fidfast.training_schedule",
}

__all__ = [
    "FID",
    "PRESETS",
    "DuplicateImagesError",
    "Evaluation",
    "EvaluationResult",
    "FIDResult",
    "FeatureExtractor",
    "FeatureStatistics",
    "FidfastWarning",
    "FrechetBracket",
    "ImagesError",
    "Preset",
    "RanksError",
    "Stage",
    "StatisticsError",
    "TrainingEvaluator",
    "WeightsError",
    "compute_features",
    "compute_fid",
    "compute_statistics",
    "evaluate",
    "frechet_distance",
    "image_seeds",
    "matrix_sqrt",
    "preprocess",
    "randn_per_image",
    "rank_seed",
]

if TYPE_CHECKING:
    from fidfast.distributed import RanksError
    from fidfast.duplicates import DuplicateImagesError
    from fidfast.evaluation import compute_features, compute_fid, compute_statistics, evaluate
    from fidfast.features import FeatureExtractor
    from fidfast.frechet import frechet_distance
    from fidfast.images import ImagesError
    from fidfast.measures import EvaluationResult
    from fidfast.metric import FID
    from fidfast.polar_distance import FrechetBracket
    from fidfast.preprocessing import PRESETS, Preset, preprocess
    from fidfast.result import FidfastWarning, FIDResult
    from fidfast.seeds import image_seeds, randn_per_image, rank_seed
    from fidfast.square_root import matrix_sqrt
    from fidfast.statistics import FeatureStatistics, StatisticsError
    from fidfast.training import TrainingEvaluator
    from fidfast.training_results import Evaluation
    from fidfast.training_schedule import Stage
    from fidfast.weights import WeightsError


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fidfast' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

"""torch-fidelity's interface (0.4) over fidfast: ``calculate_metrics``, the ``fidelity`` command, the registries.

ISC, FID, KID and PRC; PPL and MIND are refused. Other networks than Inception and VGG-16 come through
:func:`register_feature_extractor`.
"""

from fidfast.compat.torch_fidelity.feature_extractor_base import FeatureExtractorBase
from fidfast.compat.torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from fidfast.compat.torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
from fidfast.compat.torch_fidelity.generative_model_base import GenerativeModelBase
from fidfast.compat.torch_fidelity.generative_model_modulewrapper import GenerativeModelModuleWrapper
from fidfast.compat.torch_fidelity.metric_fid import KEY_METRIC_FID
from fidfast.compat.torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD
from fidfast.compat.torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD
from fidfast.compat.torch_fidelity.metric_prc import KEY_METRIC_F_SCORE, KEY_METRIC_PRECISION, KEY_METRIC_RECALL
from fidfast.compat.torch_fidelity.metrics import calculate_metrics
from fidfast.compat.torch_fidelity.registry import (
    register_dataset,
    register_feature_extractor,
    register_interpolation,
    register_noise_source,
    register_sample_similarity,
)
from fidfast.compat.torch_fidelity.sample_similarity_base import SampleSimilarityBase

__version__ = "0.4.0"  # whose interface this is

__all__ = [
    "KEY_METRIC_FID",
    "KEY_METRIC_F_SCORE",
    "KEY_METRIC_ISC_MEAN",
    "KEY_METRIC_ISC_STD",
    "KEY_METRIC_KID_MEAN",
    "KEY_METRIC_KID_STD",
    "KEY_METRIC_PRECISION",
    "KEY_METRIC_RECALL",
    "FeatureExtractorBase",
    "FeatureExtractorInceptionV3",
    "FeatureExtractorVGG16",
    "GenerativeModelBase",
    "GenerativeModelModuleWrapper",
    "SampleSimilarityBase",
    "calculate_metrics",
    "register_dataset",
    "register_feature_extractor",
    "register_interpolation",
    "register_noise_source",
    "register_sample_similarity",
]

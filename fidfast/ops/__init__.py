"""torch.library ops over fidfast's kernels: schema, fake, checks; the only importer of the compiled modules."""

from fidfast.ops.covariance import add_covariance
from fidfast.ops.images import content_hash, kernels, resize_normalize, simd_level
from fidfast.ops.lower_triangle import add_lower_product, mirror_lower
from fidfast.ops.symmetric_product import symmetric_product
from fidfast.ops.winograd import winograd_conv_relu, winograd_weight

__all__ = [
    "add_covariance",
    "add_lower_product",
    "content_hash",
    "kernels",
    "mirror_lower",
    "resize_normalize",
    "simd_level",
    "symmetric_product",
    "winograd_conv_relu",
    "winograd_weight",
]

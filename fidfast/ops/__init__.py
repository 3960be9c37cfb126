"""torch.library ops over fidfast's kernels: schema, fake, checks; the only importer of the compiled modules."""

from fidfast.ops.images import content_hash, kernels, resize_normalize, simd_level
from fidfast.ops.winograd import winograd_conv_relu, winograd_weight

__all__ = ["content_hash", "kernels", "resize_normalize", "simd_level", "winograd_conv_relu", "winograd_weight"]

"""clean-fid 0.1.35 by its own names: ``from cleanfid import fid`` → ``from fidfast.compat.cleanfid import fid``.

Modes clean, legacy_pytorch and legacy_tensorflow give clean-fid's numbers (presets "clean-fid", "pytorch-fid" and
"tensorflow"). Not kept: names of statistics that are found in one case and not in another, subsets of a zip that differ
from run to run, weights in a temporary folder shared by all users. CLIP is not here: pass your own as
``custom_feat_extractor`` and ``custom_fn_resize``.
"""

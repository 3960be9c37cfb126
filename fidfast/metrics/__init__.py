"""Measures of generated images other than the Fréchet distance, each a function of features (N, D) or logits (N, C).

They take torch tensors or numpy arrays, give what float64 gives, on the device of the first, in tiles: memory grows
with N, never with N². Each names its paper, and has a plain twin in :mod:`fidfast.reference_metrics`.
"""

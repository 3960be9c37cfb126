"""NVIDIA's FID commands over fidfast: EDM's ``fid.py``, EDM2's ``calculate_metrics.py``, StyleGAN's ``FeatureStats``.

``python -m fidfast.compat.edm.fid calc --images=… --ref=…``, and with ``torchrun --nproc_per_node=8 -m …`` on 8 ranks;
``fidfast.compat.edm.calculate_metrics`` likewise. Preset "tensorflow", verified by format and preprocessing only: the
originals are no packages that a test could install.
"""

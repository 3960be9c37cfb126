#!/bin/sh
# Make an environment with one torch, the other FID tools, training frameworks and fidfast:
# benchmarks/peers.sh [FOLDER]   (default .venv-peers)
# It is apart from the one that tests use because the tools need torchvision, which comes beside a CUDA torch only.
set -eu
cd "$(dirname "$0")/.."
folder=${1:-.venv-peers}
pip="$folder/bin/python -m pip --quiet --disable-pip-version-check"

if ! cmp -s benchmarks/peers.txt "$folder/peers-installed"; then
  "${PYTHON:-python3}" -m venv "$folder"
  # Pillow and tqdm are fidfast's too; requests is clean-fid's; lightning-utilities and packaging are torchmetrics'.
  # accelerate and einops are denoising-diffusion-pytorch's.
  # transformers comes with what it needs; pyyaml and fsspec, which that and torch bring, are lightning's.
  # scipy 1.18 removed the argument of sqrtm that pytorch-fid and clean-fid pass.
  $pip install torch==2.11.0 torchvision==0.26.0 "numpy>=1.24" "scipy<1.18" "pillow>=10" "tqdm>=4.60" \
    requests lightning-utilities packaging accelerate==1.15.0 transformers==5.23.0 einops "matplotlib>=3.7" "pytest>=8" "pytest-xdist>=3.6"
  $pip install --no-deps -r benchmarks/peers.txt
  cp benchmarks/peers.txt "$folder/peers-installed"
fi
# Compiling takes a minute or two: only where a source is newer than what is installed.
stamp=$folder/fidfast-installed
newer_sources() { find csrc fidfast setup.py pyproject.toml -type f ! -name '*.pyc' ! -name '*.so' -newer "$stamp"; }
if [ ! -e "$stamp" ] || [ -n "$(newer_sources)" ]; then
  touch "$stamp.part"
  $pip install --no-deps .
  mv "$stamp.part" "$stamp"
fi
"$folder/bin/python" -m benchmarks.peer_weights

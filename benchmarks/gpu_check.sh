#!/usr/bin/env bash
# `make gpu-check`: builds, runs the GPU tests, compute-sanitizer over the kernels and the GPU benchmarks. No network.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} FIDFAST_CUDA=1 FIDFAST_REQUIRE_CUDA=1

"$PYTHON" - <<'PROGRAM'
import importlib.util, sys
absent = [name for name in ("torch", "pytest", "setuptools", "pybind11", "ninja") if not importlib.util.find_spec(name)]
if absent:
    sys.exit(f"gpu-check: {sys.executable} has no {', '.join(absent)}: name another with make gpu-check PYTHON=...")
import torch
if not torch.cuda.is_available():
    sys.exit(f"gpu-check: torch {torch.__version__} of {sys.executable} sees no CUDA device")
PROGRAM
if [ -z "${TORCH_CUDA_ARCH_LIST:-}" ]; then
    TORCH_CUDA_ARCH_LIST=$("$PYTHON" -c 'import torch; print("{}.{}".format(*torch.cuda.get_device_capability()))')
    export TORCH_CUDA_ARCH_LIST
fi

"$PYTHON" setup.py -q build_ext --inplace
"$PYTHON" -m pytest -m cuda

SANITIZER=$(PATH=$PATH:/usr/local/cuda/bin:${CUDA_HOME:-}/bin command -v compute-sanitizer || true)
if [ -n "$SANITIZER" ]; then
    for tool in memcheck racecheck synccheck; do
        echo "compute-sanitizer $tool"
        "$SANITIZER" --tool $tool --kernel-name kernel_substring=fidfast --error-exitcode 1 \
            "$PYTHON" -m pytest -q -m "kernels and cuda" -k "not large"
    done
else
    echo "compute-sanitizer is not installed here: memcheck, racecheck and synccheck were not run"
fi

"$PYTHON" -m benchmarks.gpu --quick

#!/usr/bin/env bash
# `make gpu-check`: builds, tests and measures on a machine with a GPU; benchmarks/gpu_check.py says what and how.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m benchmarks.gpu_check "$@"

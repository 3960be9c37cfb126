# Two commands on a fresh machine that has python3 (3.10 or later), make and g++:
#   make demo    set up, then FID on real photographs at rising distortion, with a report
#   make test    set up, then every test
# Both work in .venv here. Where the python3 at hand already has torch >= 2.6, that torch is used and never replaced.

PYTHON ?= python3
VENV   ?= .venv
PEERS  ?= .venv-peers
BIN    := $(VENV)/bin
SOURCES := setup.py pyproject.toml $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu')

# Installed only where there is no torch: this release has a small CPU build under its plain name.
TORCH := torch==2.13.0

# Prints the version of the torch at hand if it is new enough, and the folders that make it importable.
define FIND_TORCH
import os, sys, warnings
warnings.simplefilter("ignore")
try:
    import torch
except Exception:
    sys.exit(1)
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 6):
    sys.exit(1)
print("torch==" + torch.__version__)
print("\n".join(path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages"))))
endef
export FIND_TORCH

.PHONY: help setup weights demo test sanitize gpu-check lint install-test peers peers-test benchmarks benchmarks-quick clean

help:
	@sed -n '1,4p' Makefile | cut -c3-
	@echo '  make lint, make sanitize, make peers-test, make benchmarks, make benchmarks-quick, make clean'
	@echo '  make gpu-check PYTHON=python3   on a machine with a GPU: build, test, measure'

$(VENV)/constraints.txt:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "fidfast needs Python 3.10 or later, and $(PYTHON) is `$(PYTHON) --version`."; \
	    echo "Install a newer one, then: make PYTHON=python3.11 demo"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment (the lines above say why)."; \
	    echo "On Debian or Ubuntu: apt-get install python3-venv python3-dev, then the same command again."; exit 1; }
	@if $(PYTHON) -c "$$FIND_TORCH" > $(VENV)/found-torch.txt 2>/dev/null; then \
	   head -n 1 $(VENV)/found-torch.txt > $(VENV)/constraints.part; \
	   tail -n +2 $(VENV)/found-torch.txt > `echo $(VENV)/lib/python3*/site-packages`/torch-at-hand.pth; \
	   echo "using the `cat $(VENV)/constraints.part` that is already here"; \
	 else \
	   echo "$(TORCH)" > $(VENV)/constraints.part; \
	   $(BIN)/pip install --quiet --disable-pip-version-check $(TORCH); \
	 fi
	@mv $(VENV)/constraints.part $@

$(VENV)/installed: $(VENV)/constraints.txt $(SOURCES)
	FIDFAST_EMULATION=1 \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt --editable ".[dev,report]"
	@touch $@

setup: $(VENV)/installed

weights: setup
	@$(BIN)/fidfast weights >/dev/null 2>&1 || $(BIN)/fidfast weights install

demo: weights
	$(BIN)/fidfast demo

# One thread to a process: on two cores that takes a quarter of the time of one process with two threads.
test: weights
	OMP_NUM_THREADS=1 FIDFAST_REQUIRE_WEIGHTS=1 FIDFAST_REQUIRE_EMULATION=1 \
	  $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

# The kernel tests again, in emulation under AddressSanitizer, which must be loaded before Python.
sanitize: setup
	FIDFAST_CUDA=0 FIDFAST_EMULATION=asan $(BIN)/python setup.py -q build_ext --inplace
	LD_PRELOAD="`g++ -print-file-name=libasan.so` `g++ -print-file-name=libstdc++.so`" ASAN_OPTIONS=detect_leaks=0 \
	  OMP_NUM_THREADS=1 FIDFAST_EMULATION=asan FIDFAST_REQUIRE_EMULATION=1 \
	  $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal -m "kernels and not cuda"

# On a machine with a GPU: $(PYTHON) has torch with CUDA, pytest, setuptools 77, pybind11 and ninja; nvcc is installed.
# Nothing is downloaded or installed. The GPU's own architecture is compiled, unless TORCH_CUDA_ARCH_LIST says others.
gpu-check:
	PYTHON=$(PYTHON) benchmarks/gpu_check.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# `pip install .` as a user does it, beside nothing of this folder: the installed package alone must work.
install-test: weights
	rm -rf build/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/installed .
	cd build && PYTHONPATH=installed ../$(BIN)/python -m fidfast doctor

# The other tools need torchvision, which stands beside a CUDA torch only: an environment of its own (4.7 GB).
peers:
	PYTHON=$(PYTHON) benchmarks/peers.sh $(PEERS)

peers-test: weights peers
	OMP_NUM_THREADS=1 FIDFAST_REQUIRE_WEIGHTS=1 FIDFAST_REQUIRE_FRAMEWORKS=1 \
	  $(PEERS)/bin/pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal -m peers

benchmarks-quick: setup peers
	$(PEERS)/bin/python -m benchmarks.run --quick

benchmarks: setup peers
	$(PEERS)/bin/python -m benchmarks.run --full

clean:
	rm -rf build demo-output $(VENV) $(PEERS)
	find . -name '__pycache__' -prune -exec rm -rf {} +
	find fidfast -name '*.so' -delete

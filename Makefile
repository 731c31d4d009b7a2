# `make` lists the targets. PYTHON names the interpreter that .venv is made with, and
# TEST_PROCESSES is how many run tests, each with TensorFlow in about 1.5 GB.

PYTHON ?= python3.11
LOCK_FLAGS ?=
TEST_PROCESSES ?= 2
PYTEST_FLAGS ?=

# What `make images` builds, with what, and on which base image.
TARGETS ?= cpu
IMAGE_TOOL ?= auto

BIN := .venv/bin
UV := $(BIN)/uv
LOCK := requirements/py311.txt
UV_LOCK := requirements/uv.txt
BUILD_LOCK := requirements/build.txt
SBOM_LOCK := requirements/sbom.txt
IMAGE_LOCKS := requirements/images
UV_STAMP := .venv/.uv
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cluster test-engines test-images check format golden gpu-test memory-table images lock site clean
.DELETE_ON_ERROR:

## help    list the targets
help:
	@sed -n 's/^## /  make /p' Makefile

## setup   make .venv from the locks; does nothing when it is current
setup: $(STAMP)

$(UV_STAMP): $(UV_LOCK)
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not on the PATH. Install Python 3.11 with its venv module (Debian: apt install python3.11 python3.11-venv), or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make: the lock is for Python 3.11, and $(PYTHON) is another. Name a 3.11: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(UV_LOCK)
	touch $@

# Compiled once, since not every machine lets Python keep bytecode, and without it
# TensorFlow takes three times as long to import.
$(STAMP): $(UV_STAMP) $(LOCK) pyproject.toml
	$(UV) pip sync --python $(BIN)/python --require-hashes --compile-bytecode $(LOCK) $(UV_LOCK)
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q components/paring pipelines/paring_pipelines
	touch $@

## demo    train a model on real digits, optimize it, and report in out/demo
demo: $(STAMP)
	$(BIN)/paring demo --out out/demo

## test    everything that can be tested here: check, then the tests
test: check
	$(BIN)/pytest -m "not gpu and not cluster and not engines and not images" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
	  --max-worker-restart 0 $(PYTEST_FLAGS)

## test-cluster  what needs a real Kubernetes, which it starts here, as root: see CONTRIBUTING.md
test-cluster: $(STAMP)
	tests/cluster/prepare.sh "$${XDG_CACHE_HOME:-$$HOME/.cache}/paring-tests"
	$(BIN)/pytest -m cluster -n 0 tests/cluster $(PYTEST_FLAGS)

## test-images   build the images for TPUs and GPUs, and start them without: docs/images.md
test-images: $(STAMP)
	$(BIN)/pytest -m images -n 0 tests/images $(PYTEST_FLAGS)

## test-engines  evaluate on Flink and Spark, which it starts here, as root: see CONTRIBUTING.md
test-engines: $(STAMP)
	tests/engines/prepare.sh "$${XDG_CACHE_HOME:-$$HOME/.cache}/paring-tests"
	$(BIN)/pytest -m engines -n 0 tests/engines $(PYTEST_FLAGS)

## site    the documentation with the API reference, in out/site
site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

## check   formatting, lint, types, import direction, wording and documentation
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.docs.wording
	$(MAKE) --no-print-directory site

## format  rewrite the code the way `check` wants it
format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## golden  write what is compiled and committed: packages, resources and components
golden: $(STAMP)
	$(BIN)/paring compile --image paring:golden --out tests/golden/optimize.yaml
	$(BIN)/paring compile --runtime k8s/runtime.toml --runtime k8s/runtime.gke.toml --target gpu --out tests/golden/optimize-gke-gpu.yaml
	$(BIN)/paring compile --runtime k8s/runtime.toml --runtime k8s/runtime.gke.toml --target tpu --out tests/golden/optimize-gke-tpu.yaml
	$(BIN)/paring compile --runtime k8s/runtime.toml --resources kubeflow --out k8s/gitops/pipeline.yaml
	$(BIN)/paring components --out components/yaml

# An environment of its own, with CUDA's libraries: about 5 GB. What you install in it
# besides, such as TensorRT for servers, stays until the locks change.
GPU_BIN := .venv-gpu/bin
GPU_STAMP := .venv-gpu/.installed

$(GPU_STAMP): $(UV_STAMP) $(LOCK) $(IMAGE_LOCKS)/tensorrt.txt pyproject.toml
	$(UV) venv --allow-existing --python $(BIN)/python .venv-gpu
	$(UV) pip sync --python $(GPU_BIN)/python --require-hashes $(LOCK) $(IMAGE_LOCKS)/tensorrt.txt
	$(UV) pip install --python $(GPU_BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

## gpu-test  what needs an NVIDIA GPU, where there is one: figures in out/gpu-test.json
gpu-test:
	@PYTHONPATH=components $(PYTHON) benchmarks/gpu_test.py --check
	@$(MAKE) --no-print-directory $(GPU_STAMP)
	$(GPU_BIN)/python benchmarks/gpu_test.py --out out/gpu-test.json

## memory-table  measure how much memory each step takes, in hours: docs/kubeflow.md
memory-table: $(STAMP)
	$(BIN)/python benchmarks/memory.py --work out/memory

## images  build container images and print their names and digests; see docs/images.md
images:
	@TARGETS="$(TARGETS)" IMAGE_TOOL="$(IMAGE_TOOL)" REGISTRY="$(REGISTRY)" VERSION="$(VERSION)" BASE="$(BASE)" SOURCE="$(SOURCE)" IMAGE_TOOL_FLAGS="$(IMAGE_TOOL_FLAGS)" IMAGE_BUILD_FLAGS="$(IMAGE_BUILD_FLAGS)" components/build-images.sh

## lock    pin what pyproject.toml asks for; LOCK_FLAGS=--upgrade takes newer releases
COMPILE = $(UV) pip compile --python-version 3.11 --generate-hashes --no-header --quiet $(LOCK_FLAGS)
GLIBC_2_28 := --python-platform x86_64-manylinux_2_28
GLIBC_2_31 := --python-platform x86_64-manylinux_2_31
COMPILE_IMAGE = $(COMPILE) pyproject.toml --all-extras --constraint $(LOCK) --override $(IMAGE_LOCKS)/left-out.txt
OTHER_TENSORFLOW := --override $(IMAGE_LOCKS)/other-tensorflow.txt
lock: $(UV_STAMP)
	$(COMPILE) requirements/uv.in -o $(UV_LOCK)
	$(COMPILE) pyproject.toml --all-extras --group dev $(GLIBC_2_28) -o $(LOCK)
	$(COMPILE) --no-deps requirements/kfp/oldest.in -o requirements/kfp/oldest.txt
	$(COMPILE) requirements/build.in --constraint $(LOCK) -o $(BUILD_LOCK)
	$(COMPILE) requirements/sbom.in $(GLIBC_2_28) -o $(SBOM_LOCK)
	$(COMPILE) requirements/engines.in -o requirements/engines.txt
	$(COMPILE_IMAGE) $(IMAGE_LOCKS)/cpu.in $(OTHER_TENSORFLOW) $(GLIBC_2_28) -o $(IMAGE_LOCKS)/cpu.txt
	$(COMPILE_IMAGE) $(IMAGE_LOCKS)/gpu.in $(GLIBC_2_28) -o $(IMAGE_LOCKS)/gpu.txt
	$(COMPILE_IMAGE) $(IMAGE_LOCKS)/tensorrt.in $(GLIBC_2_28) -o $(IMAGE_LOCKS)/tensorrt.txt
	$(COMPILE_IMAGE) $(IMAGE_LOCKS)/tpu.in $(OTHER_TENSORFLOW) $(GLIBC_2_31) -o $(IMAGE_LOCKS)/tpu.txt

## clean   remove what was made, .venv and the packages in it excepted
clean:
	rm -rf out dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

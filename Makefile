# `make` lists the targets. PYTHON names the interpreter that .venv is made with, and
# TEST_PROCESSES is how many run tests, each with TensorFlow in about 1.5 GB.

PYTHON ?= python3.11
LOCK_FLAGS ?=
TEST_PROCESSES ?= 2
PYTEST_FLAGS ?=

BIN := .venv/bin
UV := $(BIN)/uv
LOCK := requirements/py311.txt
UV_LOCK := requirements/uv.txt
UV_STAMP := .venv/.uv
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format golden lock clean
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

$(STAMP): $(UV_STAMP) $(LOCK) pyproject.toml
	$(UV) pip sync --python $(BIN)/python --require-hashes $(LOCK) $(UV_LOCK)
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

## demo    train a model on real digits, optimize it, and report in out/demo
demo: $(STAMP)
	$(BIN)/paring demo --out out/demo

## test    everything that can be tested here: check, then the tests
test: check
	$(BIN)/pytest -m "not gpu" -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_FLAGS)

## check   formatting, lint, types and import direction
check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

## format  rewrite the code the way `check` wants it
format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## golden  write what is compiled and committed: packages, resources and components
golden: $(STAMP)
	$(BIN)/paring compile --image paring:golden --out tests/golden/optimize.yaml
	$(BIN)/paring compile --runtime k8s/runtime.toml --out tests/golden/optimize-cpu-server.yaml
	$(BIN)/paring compile --runtime k8s/runtime.toml --runtime k8s/runtime.gke.toml --target gpu --out tests/golden/optimize-gke-gpu.yaml
	$(BIN)/paring compile --runtime k8s/runtime.toml --resources kubeflow --out k8s/gitops/pipeline.yaml
	$(BIN)/paring components --out components/yaml

## lock    pin what pyproject.toml asks for; LOCK_FLAGS=--upgrade takes newer releases
lock: $(UV_STAMP)
	$(UV) pip compile requirements/uv.in --generate-hashes --no-header --quiet $(LOCK_FLAGS) -o $(UV_LOCK)
	$(UV) pip compile pyproject.toml --all-extras --group dev --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --quiet $(LOCK_FLAGS) -o $(LOCK)

## clean   remove what was made, .venv and the packages in it excepted
clean:
	rm -rf out dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache

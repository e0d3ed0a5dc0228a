# The two commands are `make demo` and `make test`; `make check` is the inner loop, and `make bench`
# measures.
# Each makes the virtual environment in .venv if it is missing or pyproject.toml is newer.

.PHONY: demo check test test-all bench export-onnx style types lint audit docs generate format clean
.DEFAULT_GOAL := demo

PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
  $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
  && echo $$p && break; done)
SHIPPED := lensemble cli client evaluation export demo model_repository
VENV := .venv
BIN := $(VENV)/bin
# Two workers, a file at a time, so that a file's tests share its servers.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

demo: $(VENV)/.made
	@$(BIN)/python -m demo.demo

# The inner loop: format, lint, types, unit and contract tests.
check: style types
	@$(PYTEST) -m "not slow" tests/unit tests/contract

# Everything but the long tests that are marked `slow`: kills, fuzzing, full disks, training.
test: $(VENV)/.made
	@$(PYTEST) -m "not slow"

# Everything.
test-all: $(VENV)/.made
	@$(PYTEST)

bench: $(VENV)/.made
	@$(BIN)/python -m benchmarks.bench

# ONNX graphs of the demo checkpoint, and whether they give the reference's vectors.
export-onnx: $(VENV)/.made
	@rm -rf .cache/onnx && mkdir -p .cache
	@$(BIN)/python -m lensemble_export onnx demo/checkpoint .cache/onnx
	@$(BIN)/python -m lensemble_export verify-onnx demo/checkpoint .cache/onnx

style: $(VENV)/.made
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.made
	@$(BIN)/mypy

# What CI asks of the code before it runs the tests.
lint: style types
	@$(BIN)/bandit --quiet --configfile pyproject.toml --recursive $(SHIPPED)

# Packages with known holes, by PyPI's service.
audit: $(VENV)/.made
	@$(BIN)/pip-audit --progress-spinner off --skip-editable

# docs/settings.md, from the settings classes.
docs: $(VENV)/.made
	@$(BIN)/python docs/generate_settings.py

# The synchronous client, from the asynchronous one.
generate: $(VENV)/.made
	@$(BIN)/python client/generate_sync.py

format: $(VENV)/.made
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

$(VENV)/.made: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and neither is on PATH;" \
	  "say where one is: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON): a few minutes, once"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --upgrade 'pip>=25'
	@$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

clean:
	rm -rf .cache .venv

# Needs make and Python 3.11 or later; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export FLWR_TELEMETRY_ENABLED = 0
export FLWR_DISABLE_UPDATE_CHECK = 1
export RAY_USAGE_STATS_ENABLED = 0
# Where this is set, every process would compile PyTorch's sources anew: seconds for each worker, phone and server.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install demo test test-long check pictures clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## Set up .venv with the locked versions

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "pocketfed needs Python 3.11 or later; point PYTHON at one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --requirement requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# A run that is there goes on, or is shown again.
demo: install  ## Ten phones learn from drawn photos and synthesised sounds (2 to 4 minutes); runs/demo
	$(BIN)/pocketfed simulate $(if $(wildcard runs/demo/config.toml),--resume runs/demo,--config configs/demo.toml --out runs/demo)

test: install  ## The test suite but for the long ones
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

test-long: install  ## The tests that take longest: killed servers, real captures, whole bundles
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m long

check: install  ## Formatting, lint, types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

pictures: demo  ## Take the pictures of the report and of the server's page again; needs Chromium
	$(BIN)/python docs/pictures.py

clean:  ## Remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# `make help` lists the targets. `make demo` and `make test` need Python 3.11 and nothing else.

SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV_VERSION := 0.13.9
WORKSPACE ?= workspace
WORKERS ?= 2
WITH_ENGINE := tests/cluster tests/containers

VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
INSTALLED := $(VENV)/.installed
EXTRAS := train serve data pipeline

# uv does not read pip's settings: a folder of wheels that pip knows holds for uv as well.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PYTHONNOUSERSITE := 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
# Every step is a process of its own: without bytecode each would compile its libraries again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z][a-z0-9-]*:.*## / {printf "  \033[1m%-18s\033[0m %s\n", $$1, $$2}' Makefile

# --- environment -----------------------------------------------------------------------------

.PHONY: setup
setup: $(INSTALLED) ## Make .venv and install everything from requirements.lock

# The stamp is written last, so an interrupted installation starts again.
$(INSTALLED): requirements.lock pyproject.toml | $(UV)
	$(UV) pip install --requirements requirements.lock
	$(UV) pip install --no-deps --no-build-isolation --editable .
	@touch $@

$(UV):
	@$(if $(PYTHON),,echo "error: no python3 found; install Python 3.11" >&2; exit 1;) \
	"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { \
	  echo "error: $(PYTHON) is $$("$(PYTHON)" --version 2>&1 | head -1); MEGL needs Python 3.11 or 3.12:" \
	       "make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

.PHONY: lock
lock: | $(UV) ## Resolve the locks anew from pyproject.toml and constraints.txt
	$(call compile_lock,requirements.lock,constraints.txt,--extra dev)
	$(foreach extra,$(EXTRAS),$(call compile_lock,requirements-$(extra).lock,requirements.lock,--extra $(extra)))

# A local build such as torch 2.13.0+cpu is locked as the public version that it stands for.
define compile_lock
	$(UV) pip compile pyproject.toml $(3) --constraints $(2) --output-file $(1) --upgrade --quiet \
	  --python-version 3.11 --index-strategy unsafe-best-match --custom-compile-command "make lock" \
	  --no-annotate --no-emit-find-links --no-emit-index-url
	sed -i -E 's/^([a-z0-9._-]+==[^ +]+)\+[a-z0-9.]+/\1/' $(1)

endef

.PHONY: params
params: setup ## Write params.yaml anew from the defaults in megl_core/config.py
	$(BIN)/python scripts/write_params.py

# --- the main job ----------------------------------------------------------------------------

.PHONY: demo
demo: setup ## Run the whole pipeline on the procedural dataset: data to a registered model
	$(BIN)/megl pipeline run --workspace $(WORKSPACE)

.PHONY: ui
ui: setup ## Open the MLflow screen of the workspace on http://127.0.0.1:5000
	$(BIN)/mlflow ui --backend-store-uri sqlite:///$(WORKSPACE)/mlflow.db --host 127.0.0.1 --port 5000

.PHONY: doctor
doctor: setup ## Say what is installed, reachable and missing
	$(BIN)/megl doctor

# --- checks ----------------------------------------------------------------------------------

.PHONY: test
test: setup ## Run every test: in WORKERS processes, but one after the other what shares a Docker engine
	@status=0; \
	$(BIN)/pytest tests/unit --numprocesses $(WORKERS) || status=1; \
	$(BIN)/pytest $(WITH_ENGINE) || status=1; \
	$(BIN)/pytest tests $(patsubst %,--ignore %,tests/unit $(WITH_ENGINE)) \
	  --numprocesses $(WORKERS) --dist loadfile || status=1; \
	exit $$status

.PHONY: test-unit
test-unit: setup ## Run the tests that need no service
	$(BIN)/pytest tests/unit --numprocesses $(WORKERS)

.PHONY: test-integration
test-integration: setup ## Run the tests against real servers (MLflow, S3) and DVC repositories
	$(BIN)/pytest tests/integration

.PHONY: test-e2e
test-e2e: setup ## Run whole pipelines
	$(BIN)/pytest tests/e2e

.PHONY: lint
lint: setup ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.PHONY: format
format: setup ## Sort imports and format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: compile
compile: setup ## Compile the pipelines to pipelines/compiled
	$(BIN)/megl pipeline compile

.PHONY: compile-check
compile-check: setup ## Fail if a compiled pipeline is stale
	$(BIN)/megl pipeline compile --check

# --- images ----------------------------------------------------------------------------------

.PHONY: images
images: setup ## Build the images with Docker and print their sizes (VARIANTS="cpu cuda"; docs/images.md)
	$(BIN)/python -m infra.images.build $(VARIANTS)

# --- measurements ----------------------------------------------------------------------------

.PHONY: benchmark-method
benchmark-method: setup ## Measure the method, its parts and its rivals (ARGS=--full: all of it, hours)
	$(BIN)/python -m benchmarks.method $(ARGS)

.PHONY: benchmark-photos
benchmark-photos: setup ## Measure the method on photographs, hours (DATA=folder of the sets, ARGS=--help: the rest)
	$(BIN)/python -m benchmarks.photos $(if $(DATA),--data "$(DATA)") $(ARGS)

.PHONY: benchmark-training
benchmark-training: setup ## Measure what training costs beyond a plain classifier (ARGS=--help: the rest)
	$(BIN)/python -m benchmarks.training $(ARGS)

.PHONY: clean
clean: ## Delete .venv and the caches; the workspace stays, it holds your models
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

# `make demo` and `make test` are the two commands; all targets set up what they need in .venv.
PYTHON ?= python3
DATA ?=
UV_VERSION := >=0.9,<1
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# The shell reads it from the environment, and make expands no `$` in it: any folder name is taken as it is written.
override DATA := $(value DATA)
export DATA

.PHONY: help demo test test-gpu ui dashboard lint setup pull lock clean

help:                       ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup pull            ## run the whole pipeline; DATA=folder takes your own videos
	@if [ -n "$$DATA" ]; then lora-tta params --data-root="$$DATA" --check-data; fi
	dvc repro
	@lora-tta summary

test: setup                 ## the test suite; it needs nothing but this checkout
	pytest -n 3 --dist loadfile --no-loadscope-reorder

test-gpu: setup             ## the tests that need a GPU, and why any of them was skipped
	pytest -m gpu -rs

ui: setup                   ## MLflow on http://127.0.0.1:5000
	lora-tta ui

dashboard: setup            ## Optuna's dashboard on the stored study
	optuna-dashboard .cache/lora-tta/studies/journal.log

lint: setup                 ## style, types, and the source files in dvc.yaml
	ruff check src tests benchmarks
	ruff format --check src tests benchmarks
	pyrefly check --summary=none
	python -m lora_tta.stages.deps --check

setup: .venv/.ready         ## the environment, in .venv

pull: setup                 ## the versioned data and model, from the remote in the repository
	dvc pull --quiet data.dvc models/embedded.dvc

lock: setup                 ## write requirements.lock anew for pyproject.toml; pinned versions stay
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --quiet --no-annotate \
	    --no-emit-index-url --custom-compile-command "make lock" -o requirements.lock

clean:                      ## remove caches of tools and compiled files; never data, outputs or finished work
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache build dist src/*.egg-info

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), "Python 3.11 to 3.13 is needed, e.g. make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv$(UV_VERSION)"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

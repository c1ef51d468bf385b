# The two commands are `make demo` and `make test`; both set up what they need.
PYTHON ?= python3
DATA ?=
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test ui dashboard setup pull lint

demo: setup pull            ## run the whole pipeline; DATA=folder takes your own videos
	$(if $(DATA),lora-tta params data.root=$(DATA))
	dvc repro
	@lora-tta summary

test: setup                 ## the test suite; it needs nothing but this checkout
	pytest -n 2 --dist loadfile --no-loadscope-reorder

ui: setup                   ## MLflow on http://127.0.0.1:5000
	lora-tta ui

dashboard: setup            ## Optuna's dashboard on the stored study
	optuna-dashboard outputs/search/study/journal.log

lint: setup
	ruff check src tests benchmarks
	ruff format --check src tests benchmarks

setup: .venv/.ready

pull: setup                 ## the versioned data and model, from the remote in the repository
	dvc pull --quiet data.dvc models/embedded.dvc

.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), "Python 3.11 to 3.13 is needed, e.g. make PYTHON=python3.12"'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

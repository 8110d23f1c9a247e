# Everything runs in .venv, which is made when it is missing or pyproject.toml is newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint docs bench

# Trains the quickstart for real: a model of ten million parameters, two processes, a few minutes.
quickstart: .venv/made ; $(BIN)/headrace train examples/quickstart.yaml

# Format, lint, types and walls, then every test; one thread each, since many processes share the cores.
test: lint ; OMP_NUM_THREADS=1 $(BIN)/pytest

lint: .venv/made ; $(BIN)/ruff format --check && $(BIN)/ruff check && $(BIN)/mypy && $(BIN)/lint-imports

# Builds the pages into site/, and a broken link is an error.
docs: .venv/made ; $(BIN)/pip install --quiet --editable '.[docs]' && $(BIN)/mkdocs build --strict --quiet

bench: .venv/made ; $(BIN)/python -m benchmarks.simulate

.venv/made: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev,tensorboard]'
	touch $@

# The environment lies in .venv; VENV=/another/place moves it. It is rebuilt when the dependency files change.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
READY = $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)

.PHONY: setup check test quickstart cover

setup: $(READY)

$(READY):
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "prunesweep needs Python 3.11 or 3.12; say which with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	rm -f $(VENV)/.ready-*
	touch $@

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: setup
	$(BIN)/python -m pytest

cover: setup
	$(BIN)/python -m pytest --cov=orchestrator --cov-report=term-missing:skip-covered

quickstart: setup
	$(BIN)/prunesweep run searchspaces/quickstart.yaml
	@echo
	@echo "Look at the tables:   $(BIN)/python -c \"from orchestrator import load_results; print(load_results('runs/quickstart')[0])\""
	@echo "Look at it in MLflow: $(BIN)/prunesweep ui"
	@echo "Another question:     copy searchspaces/quickstart.yaml, then $(BIN)/prunesweep plan YOURS.yaml"

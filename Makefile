# The environment is in .venv, or in VENV=/another/folder. It is updated when the dependency files change.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
READY = $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)

.PHONY: setup check test quickstart cover cluster-test simulate docs

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

# Sweeps in a world of faults, one a seed: `make simulate SEEDS=10000`, or one that failed again: `make simulate SEED=179`.
simulate: setup
	SEEDS=$(or $(SEEDS),1000) SEED=$(SEED) $(BIN)/python -m pytest tests/simulation -s

quickstart: setup
	$(BIN)/prunesweep run searchspaces/quickstart.yaml
	$(BIN)/prunesweep report quickstart
	@echo
	@echo "Look at the report:   runs/quickstart/report/index.html"
	@echo "Look at it in MLflow: $(BIN)/prunesweep ui"
	@echo "Another question:     copy searchspaces/quickstart.yaml, then $(BIN)/prunesweep plan YOURS.yaml"

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict
	@echo "Read it: build/site/index.html"

# Tests a cluster of three hosts made of namespaces on this machine: `ray up`, a lost connection, a lost head. Needs Linux,
# root, about five minutes and 4 GB, and Debian's openssh-server, openssh-client, rsync, iproute2 and util-linux.
cluster-test: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'ray[default]'
	PRUNESWEEP_CLUSTER_TEST=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/cluster -s -rs

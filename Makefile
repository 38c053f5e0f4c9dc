# Everything a newcomer needs is `make run` and `make test`; both begin from nothing but Python 3.11+ and make.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# How many processes the tests use.
JOBS   ?= 2

RUNTIME := $(VENV)/.runtime
DEV     := $(VENV)/.dev

.DEFAULT_GOAL := help
.PHONY: help run test test-pg15 chaos bench lint format types schema schema-check psql lock clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUNTIME) ## Start everything on this machine and send the demo traffic; Ctrl-C stops it
	$(BIN)/landed up

test: $(DEV) ## Run the whole test suite
	$(BIN)/pytest -n $(JOBS)

test-pg15: $(DEV) ## Run the database part of the suite on PostgreSQL 15
	tests/run_on_postgres15.sh $(BIN)/pytest

chaos: $(DEV) ## Run only the tests that kill, stop and cut, each time with other choices
	LANDED_CHAOS_SEED=$${LANDED_CHAOS_SEED:-$$(shuf -i 0-999999 -n 1)} $(BIN)/pytest tests/chaos

bench: $(DEV) ## Measure ingest, drain and latency against baselines in the same run
	$(BIN)/landed bench

lint: $(DEV) ## Check style, formatting and who imports whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

format: $(DEV) ## Rewrite the code in the house format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(DEV) ## Check types
	$(BIN)/mypy

schema: $(DEV) ## Write sql/schema.sql from the migrations
	$(BIN)/python -m app.schema_dump

schema-check: $(DEV)
	$(BIN)/python -m app.schema_dump --check

psql: $(RUNTIME) ## Open psql on the running service's database
	$(BIN)/python -m app.embedded psql

# --- the virtual environment, made again whenever what it is made from changes ---

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Landed needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) lacks the venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): requirements.lock pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

lock: | $(VENV)/bin/python ## Pin the dependencies anew, by hash and without an index address
	$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(COMPILE) --extra build --extra dev pyproject.toml -o requirements-dev.lock
	$(COMPILE) --extra build -c requirements-dev.lock pyproject.toml -o requirements.lock

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate

clean: ## Remove the embedded PostgreSQL with its data, the virtual environment and every cache
	@if [ -x $(BIN)/python ] && [ -e var/postgres ]; then $(BIN)/python -m app.embedded destroy; fi
	rm -rf $(VENV) var build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find app jobs tests sql -name __pycache__ -type d -prune -exec rm -rf {} +

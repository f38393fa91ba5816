# Everything a person does with this repository. `make serve` and `make test` need nothing set up before.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup serve examples test check check-all style async types layers bench soak format lock
help:
	@echo 'make serve   set up, then serve on http://127.0.0.1:8000 with its own database (ARGS="--bind …")'
	@echo 'make examples  set up, then serve six example apps: open http://127.0.0.1:8001'
	@echo 'make test    set up, then every check and test'
	@echo 'make check   types, lint, architecture'
	@echo 'make check-all  the same on every Python from 3.11 to 3.14 that is installed'
	@echo 'make soak    the long runs: every byte, fifty kills, five hundred examples of each law'
	@echo 'make bench   figures, side by side (ARGS=--list names them)'
	@echo 'make format  let ruff format'
	@echo 'make lock    choose the newest allowed versions of all dependencies again'

# One stamp: done again when a dependency changes.
$(VENV)/.done: pyproject.toml requirements.lock tools/setup
	PYTHON='$(PYTHON)' VENV='$(VENV)' tools/setup
	@touch $@

setup: $(VENV)/.done

serve: setup
	@$(BIN)/tokentape serve $(ARGS)

examples: setup
	@$(BIN)/python examples/run_all.py $(ARGS)

# Two at a time: mypy and flake8-async take about half a minute of one core each.
check: setup
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target style types async layers

# One environment for each interpreter, beside the one that everything else uses.
check-all:
	@for version in 3.11 3.12 3.13 3.14; do \
	    python$$version -c '' >/dev/null 2>&1 || { echo "check-all: Python $$version is not installed: NOT CHECKED"; continue; }; \
	    echo "check-all: Python $$version"; \
	    $(MAKE) --no-print-directory check PYTHON=python$$version VENV=.venv-$$version || exit 1; \
	done

style: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Only the files that have anything asynchronous in them: without it these rules find nothing, slowly.
async: setup
	$(BIN)/flake8 --jobs=1 $$(grep -rlwE --include='*.py' 'async|trio' server eventstore migrations tokentape tokentape_packages.py)

layers: setup
	$(BIN)/lint-imports --no-logo

# Compiled files are kept, whatever the environment says: every worker and every process needs them again. In a fresh
# clone one process makes them, beside the checks; else each worker would compile every file.
test: export PYTHONDONTWRITEBYTECODE =
test: setup
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target style types async layers $(VENV)/.compiled
	@tools/test-needs
	$(BIN)/python -m pytest -n 6 --dist loadfile --no-loadscope-reorder -m "not soak"

$(VENV)/.compiled: $(VENV)/.done
	$(BIN)/python -m pytest --quiet --collect-only >$(VENV)/collected.log || { tail $(VENV)/collected.log; exit 1; }
	@touch $@

soak: setup
	@tools/test-needs
	$(BIN)/python -m pytest -m 'soak or hypothesis' --hypothesis-profile=many --timeout=3600

bench: setup
	$(BIN)/python -m bench $(ARGS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup
	$(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	    --all-extras --upgrade --output-file requirements.lock pyproject.toml

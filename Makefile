# Everything a person does with this repository. `make serve` and `make test` need nothing set up before.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: help setup serve test check bench soak format lock
help:
	@echo 'make serve   set up, then serve on http://127.0.0.1:8000 with its own database (ARGS="--bind …")'
	@echo 'make test    set up, then every check and test'
	@echo 'make check   types, lint, architecture'
	@echo 'make soak    the long runs: every byte, fifty kills'
	@echo 'make bench   figures, side by side (ARGS=--list names them)'
	@echo 'make format  let ruff format'
	@echo 'make lock    choose the newest allowed versions of all dependencies again'

# One stamp: done again when a dependency changes.
.venv/.done: pyproject.toml requirements.lock tools/setup
	PYTHON='$(PYTHON)' tools/setup
	@touch $@

setup: .venv/.done

serve: setup
	@$(BIN)/tokentape serve $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/flake8 server eventstore migrations tokentape
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

test: check
	@tools/test-needs
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not soak"

soak: setup
	@tools/test-needs
	$(BIN)/python -m pytest -m soak --timeout=3600

bench: setup
	$(BIN)/python -m bench $(ARGS)

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup
	$(BIN)/pip-compile --quiet --strip-extras --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	    --all-extras --upgrade --output-file requirements.lock pyproject.toml

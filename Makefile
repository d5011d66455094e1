# Needs Python 3.11 or newer, git and make; everything else goes into .venv.
# A stamp file in the environment records what is installed: a second run installs nothing.
# `make clean test PYTHON=python3.13` has a certain Python in it.

SHELL := /bin/sh
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

BIN := .venv/bin
LOWEST := .venv-lowest/bin
PIP := -m pip --disable-pip-version-check -qq
PYTEST := -m pytest -n auto --maxprocesses 4

.PHONY: help demo test lint check format docs test-lowest samples bench clean

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 20

demo: .venv/package.stamp ## stage the sample data into build/demo and show what came out
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh tools/demo.sh

test: .venv/dev.stamp ## run the whole test suite
	@$(BIN)/python $(PYTEST)

lint: .venv/dev.stamp ## check format, style, types and floors
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary tests
	@printf '%s\n' tests/*/conftest.py | xargs -n 1 $(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary tools bench
	@mkdir -p build
	@$(BIN)/lint-imports --no-logo > build/floors.txt || { cat build/floors.txt; exit 1; }

check: lint demo test ## run all that CI runs

format: .venv/dev.stamp ## rewrite the code in the house's format
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

docs: .venv/package.stamp ## write config.toml, docs/configuration.md and docs/commands.md from the code
	@$(BIN)/python tools/make_docs.py

test-lowest: .venv-lowest/dev.stamp ## run the suite, but what tests the system, with the oldest libraries allowed
	@$(LOWEST)/python $(PYTEST) --ignore=tests/reliability --ignore=tests/systemd

samples: .venv/dev.stamp ## write the sample data in data/01_raw again
	@$(BIN)/python tools/make_samples.py

bench: .venv/bench.stamp ## measure ingestd against floors and peers; BENCH="--full --write" for docs/performance.md
	@$(BIN)/python bench/run.py $(BENCH)

clean: ## remove the environments and everything built
	@rm -rf .venv .venv-lowest build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find bench ingestd tests tools -name __pycache__ -prune -exec rm -rf {} +

.venv/python.stamp .venv-lowest/python.stamp:
	@for python in $(PYTHON) python3.11 python3 python; do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        $$python -m venv --clear $(@D) && touch $@; exit; \
	    fi; \
	done; \
	echo "ingestd needs Python 3.11 or newer: none of python3.11, python3, python is one. Install it, then type make again." >&2; \
	exit 1

.venv/package.stamp: .venv/python.stamp pyproject.toml
	@$(BIN)/python $(PIP) install -e .
	@touch $@

# Dependency groups need pip 25.1, build constraints 25.3.
.venv/dev.stamp: .venv/package.stamp
	@$(BIN)/python $(PIP) install --upgrade pip
	@$(BIN)/python $(PIP) install -e . --group dev
	@touch $@

.venv/bench.stamp: .venv/dev.stamp
	@$(BIN)/python $(PIP) install --group bench
	@touch $@

.venv-lowest/dev.stamp: .venv-lowest/python.stamp pyproject.toml tools/lowest.py
	@mkdir -p build
	@$(LOWEST)/python tools/lowest.py > build/lowest.txt
	@$(LOWEST)/python $(PIP) install --upgrade pip
	@$(LOWEST)/python $(PIP) install -c build/lowest.txt --build-constraint build/lowest.txt -e . --group dev
	@touch $@

# Everything happens in .venv and target/; delete both to start afresh.
SHELL  := /bin/bash
.SHELLFLAGS := -o pipefail -c  # a command that fails before a pipe fails its line
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUST   := Cargo.toml $(wildcard Cargo.lock) $(shell find rust -name '*.rs' -o -name Cargo.toml)
SAY    := @printf '\033[1m==> %s\033[0m\n'

export VIRTUAL_ENV := $(CURDIR)/$(VENV)
export PYO3_PYTHON := $(CURDIR)/$(BIN)/python
export NO_MKDOCS_2_WARNING := 1  # of mkdocs-material: not about this project
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test wheel docs lint format bench clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.built  ## Create .venv, install every dependency, build the Rust core

demo: setup  ## The main job on a trained network: search, plan, prediction beside measurement
	@$(BIN)/aiq demo

test: setup  ## Every test: cargo test and pytest
	$(SAY) "Rust tests"
	@cargo test --quiet
	$(SAY) "Python tests"
	@command -v chromium chromium-browser >/dev/null || echo "There is no chromium, so the tests of the report in a browser are skipped (Debian: apt install chromium)."
	@$(BIN)/python -m pytest

wheel: setup  ## Build a wheel and try it in an empty environment
	@.ci/wheel

docs: setup  ## The documentation as a web site, in target/site
	$(BIN)/mkdocs build --quiet --strict

lint: setup  ## Formatters, linters, type checkers, documentation
	cargo fmt --all --check
	cargo clippy --quiet --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS=-Dwarnings cargo doc --quiet --no-deps
	$(BIN)/ruff format --check python tests benches examples
	$(BIN)/ruff check python tests benches examples
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest aiq._core
	$(BIN)/mkdocs build --quiet --strict
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

format:  ## Rewrite the sources the way `make lint` wants them
	cargo fmt --all
	$(BIN)/ruff format python tests benches examples
	$(BIN)/ruff check --fix python tests benches examples

bench: setup  ## Every claim of the README, measured on this machine (hours)
	@$(BIN)/python -m pip install --quiet --group bench
	@set -e; for script in paper solver sensitivity prediction throughput report readme; do \
	  echo "==> benches/$$script.py"; $(BIN)/python benches/$$script.py; done
	cargo bench

clean:  ## Remove .venv and target/
	rm -rf $(VENV) target

# The environment: made once, filled again only when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	@command -v cargo >/dev/null || { echo "aiq needs a Rust toolchain: cargo was not found on PATH; install Rust (rustup) and run make again." >&2; exit 1; }
	@command -v $(PYTHON) >/dev/null || { echo "aiq needs Python 3.11 or newer: $(PYTHON) was not found; install it, or run make PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "aiq needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1 | cut -d" " -f2); run make PYTHON=python3.11 or newer." >&2; exit 1; }
	$(SAY) "1/3 virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "aiq needs Python's venv module; install it (Debian: apt install python3-venv) and run make again." >&2; rm -rf $(VENV); exit 1; }
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" "maturin>=1.14,<2"
	$(SAY) "2/3 dependencies (PyTorch is large; a few minutes the first time)"
	@$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' > $(VENV)/requirements.txt
	@$(BIN)/python -m pip install --progress-bar on --requirement $(VENV)/requirements.txt --group dev | sed '/already satisfied/d' || { echo "The dependencies could not be installed (the reason is above). They need about 10 GB of disk while they are installed, and 7 GB afterwards; $$(df -Ph . | awk 'NR == 2 {print $$4}') are free here." >&2; exit 1; }
	@touch $@

# The Rust core: rebuilt only when a source changes.
$(VENV)/.built: $(VENV)/.installed $(RUST)
	$(SAY) "3/3 Rust core"
	@$(BIN)/maturin develop --release
	@touch $@

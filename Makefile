# Everything runs in .venv, made by the first target that needs it. Python 3.11 or newer is the only requirement.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread: two threads beside another busy process are many times slower, and tests stay reproducible.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: quickstart test check format lint types imports slow clean

quickstart: $(STAMP)
	$(BIN)/alignbench run quickstart
	$(BIN)/alignbench compare results/

# Compiled files are kept whatever the shell says: some thirty processes of the tests read them.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= $(ONE_THREAD) HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu"

# What reads the code takes a core each, and the tests take both: so the first three run beside each other.
check: $(STAMP)
	$(MAKE) --jobs=2 --output-sync lint types imports
	$(MAKE) test

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports --no-cache

slow: $(STAMP)
	$(ONE_THREAD) HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

# torch first and as pinned: asked for by another package, pip may take the newest build instead.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v >= (3, 11) else "Python 3.11 or newer is needed, got %d.%d: make PYTHON=python3.11 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,browser,png]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

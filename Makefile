# Every target makes the environment that it needs; nothing else has to be installed but Python and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Compiled files are kept, as they are for users: many tests and benches start Python again and again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help test lint check format demo bench-classify bench-startup docs test-slow clean

help:
	@echo "make demo   run the main job on real photographs, from nothing"
	@echo "make test   all tests, in a fresh environment"
	@echo "make check  format, lint, types, import rules and the fast tests"

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[video,auth,dev]'
	@touch $@

test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/generate.py --check

check: lint test

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/installed
	$(BIN)/python scripts/generate.py

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

bench-classify: $(VENV)/installed
	$(BIN)/python benchmarks/classify.py

bench-startup: $(VENV)/installed
	$(BIN)/python benchmarks/startup.py

clean:
	rm -rf $(VENV) demo-out build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache

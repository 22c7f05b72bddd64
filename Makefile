# Every target makes the environment that it needs; nothing else has to be installed but Python and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
GATEWAY_PEERS := .venv-gateway-peers
SDKS := .venv-sdks
TORCH := .venv-torch
RAY := .venv-ray

# Compiled files are kept, as they are for users: many tests and benches start Python again and again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help test lint check format demo bench-classify bench-startup bench-serving bench-gateway bench-flow bench-batch bench-jobs bench-celery bench-overload soak docs test-slow test-sdks test-torch test-ray fuzz check-arm64 clean

help:
	@echo "make demo   run the main job on real photographs, from nothing"
	@echo "make test   all tests, in a fresh environment"
	@echo "make test-sdks   other people's clients against our server"
	@echo "make test-torch   vision-language models on PyTorch"
	@echo "make test-ray   batches on Ray"
	@echo "make check  format, lint, types, import rules and the fast tests"
	@echo "make bench-gateway   what our server costs between clients and a provider"
	@echo "make bench-batch     ten thousand pictures by one command, against a bare loop"
	@echo "make bench-flow      batches of pictures, within a provider's limits and without"
	@echo "make bench-jobs      jobs that do nothing, submitted and finished in a second"
	@echo "make bench-celery    classification by one Celery worker, and by two"
	@echo "make bench-serving, bench-overload, soak   the server at its limit, beyond it, and for a long time"

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[video,auth,otel,dev]'
	@touch $@

test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

# Other people's clients, in an environment of their own: what they need is nothing that we need.
$(SDKS)/installed: pyproject.toml constraints.txt constraints-sdks.txt
	$(PYTHON) -m venv $(SDKS)
	$(SDKS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-sdks.txt \
		-e . openai langchain-openai httpx2 pytest pytest-asyncio pytest-timeout requests
	@touch $@

test-sdks: $(SDKS)/installed
	$(SDKS)/bin/python -m pytest tests/sdks

# Models on PyTorch, in an environment of their own: it is large. pip, of all installers, takes the build for processors.
$(TORCH)/installed: pyproject.toml constraints.txt constraints-torch.txt
	$(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-torch.txt \
		-e '.[torch]' pytest pytest-asyncio pytest-timeout requests
	@touch $@

test-torch: $(TORCH)/installed
	$(TORCH)/bin/python -m pytest tests/torch

# Batches on Ray, in an environment of their own.
$(RAY)/installed: pyproject.toml constraints.txt constraints-ray.txt
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -c constraints-ray.txt \
		-e '.[ray]' pytest pytest-asyncio pytest-timeout requests
	@touch $@

test-ray: $(RAY)/installed
	$(RAY)/bin/python -m pytest tests/ray

fuzz: $(VENV)/installed
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-5000} $(BIN)/python -m pytest tests/media/test_fuzz.py

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/generate.py --check

check: lint test

format: $(VENV)/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check-arm64: $(VENV)/installed
	$(BIN)/python scripts/check_wheels.py

docs: $(VENV)/installed
	$(BIN)/python scripts/generate.py

demo: $(VENV)/installed
	$(BIN)/python examples/demo.py

bench-classify: $(VENV)/installed
	$(BIN)/python benchmarks/classify.py

bench-startup: $(VENV)/installed
	$(BIN)/python benchmarks/startup.py

# The servers that ours is compared with, in an environment of their own.
$(PEERS)/installed: benchmarks/serving/constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/serving/constraints.txt
	@touch $@

bench-serving: $(VENV)/installed $(PEERS)/installed
	PEERS_BIN=$(PEERS)/bin $(BIN)/python -m benchmarks.serving

# The thinnest proxy, and LiteLLM.
$(GATEWAY_PEERS)/installed: benchmarks/gateway/constraints.txt
	$(PYTHON) -m venv $(GATEWAY_PEERS)
	$(GATEWAY_PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/gateway/constraints.txt
	@touch $@

bench-gateway: $(VENV)/installed $(GATEWAY_PEERS)/installed
	PEERS_BIN=$(GATEWAY_PEERS)/bin $(BIN)/python -m benchmarks.gateway

bench-flow: $(VENV)/installed
	$(BIN)/python -m benchmarks.flow

bench-jobs: $(VENV)/installed
	$(BIN)/python -m benchmarks.jobs

bench-celery: $(VENV)/installed
	$(BIN)/python -m benchmarks.celery_workers

# BATCH_PICTURES=1000 makes it shorter.
bench-batch: $(VENV)/installed
	$(BIN)/python -m benchmarks.batch

bench-overload: $(VENV)/installed
	$(BIN)/python -m benchmarks.serving.overload

# SOAK_MINUTES=2 makes it shorter.
soak: $(VENV)/installed
	$(BIN)/python -m benchmarks.serving.soak

clean:
	rm -rf $(VENV) $(PEERS) $(SDKS) $(TORCH) $(RAY) demo-out build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache

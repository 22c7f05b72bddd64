# Every target makes the environment that it needs; nothing else has to be installed but Python and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Compiled files are kept, as they are for users: many tests and benches start Python again and again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help test lint check format demo bench-classify bench-startup bench-serving bench-gateway bench-flow bench-batch bench-jobs bench-celery bench-overload soak docs test-slow test-sdks test-torch test-ray test-faces bench-faces fuzz check-arm64 clean

help:
	@echo "make demo   run the main job on real photographs, from nothing"
	@echo "make test   all tests, in a fresh environment"
	@echo "make test-sdks   other people's clients against our server"
	@echo "make test-torch   vision-language models on PyTorch"
	@echo "make test-ray   batches on Ray"
	@echo "make test-faces   faces compared by dlib"
	@echo "make check  format, lint, types, import rules and the fast tests"
	@echo "make bench-gateway   what our server costs between clients and a provider"
	@echo "make bench-batch     ten thousand pictures by one command, against a bare loop"
	@echo "make bench-flow      batches of pictures, within a provider's limits and without"
	@echo "make bench-faces     faces counted and compared, beside dlib's own way"
	@echo "make bench-jobs      jobs that do nothing, submitted and finished in a second"
	@echo "make bench-celery    classification by one Celery worker, and by two"
	@echo "make bench-serving, bench-overload, soak   the server at its limit, beyond it, and for a long time"

# An environment: its folder, the files that it is made of (those of them named constraints* pin), and what pip installs.
define environment
ENVIRONMENTS += $(1)
$(1)/installed: $(2)
	$(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --quiet --disable-pip-version-check $(patsubst %,-c %,$(filter constraints%,$(2))) $(3)
	@touch $$@
endef

EXTRAS := video,auth,otel,dev
PYTESTS := pytest pytest-asyncio pytest-timeout requests

$(eval $(call environment,$(VENV),pyproject.toml constraints.txt,-e '.[$(EXTRAS)]'))
# Other people's clients: what they need is nothing that we need.
$(eval $(call environment,.venv-sdks,pyproject.toml constraints.txt constraints-sdks.txt,-e . openai langchain-openai httpx2 $(PYTESTS)))
# PyTorch is large. pip, of all installers, takes the build for processors.
$(eval $(call environment,.venv-torch,pyproject.toml constraints.txt constraints-torch.txt,-e '.[torch]' $(PYTESTS)))
$(eval $(call environment,.venv-ray,pyproject.toml constraints.txt constraints-ray.txt,-e '.[ray]' $(PYTESTS)))
$(eval $(call environment,.venv-faces,pyproject.toml constraints.txt constraints-faces.txt,-e '.[faces]' $(PYTESTS)))
# The servers that ours is compared with; then the thinnest proxy, and LiteLLM.
$(eval $(call environment,.venv-peers,benchmarks/serving/constraints.txt,-r benchmarks/serving/constraints.txt))
$(eval $(call environment,.venv-gateway-peers,benchmarks/gateway/constraints.txt,-r benchmarks/gateway/constraints.txt))

test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

test-sdks test-torch test-ray test-faces: test-%: .venv-%/installed
	.venv-$*/bin/python -m pytest tests/$*

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

bench-serving: $(VENV)/installed .venv-peers/installed
	PEERS_BIN=.venv-peers/bin $(BIN)/python -m benchmarks.serving

bench-gateway: $(VENV)/installed .venv-gateway-peers/installed
	PEERS_BIN=.venv-gateway-peers/bin $(BIN)/python -m benchmarks.gateway

bench-flow: $(VENV)/installed
	$(BIN)/python -m benchmarks.flow

bench-faces: .venv-faces/installed
	.venv-faces/bin/python -m benchmarks.faces

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
	rm -rf $(ENVIRONMENTS) demo-out build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache

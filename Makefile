# What a contributor types. `make help` lists it. On a new machine Python 3.11 or later, make and g++ do; without
# g++ all but the native libraries is there.
#
#   PYTHON=python3.12      makes the environment (looked at only while .venv does not exist)
#   BACKEND=tensorflow     instead of tensorflow-cpu, which has wheels for Linux on x86-64 and Windows only
#   WORKERS=4              test processes

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BACKEND ?= cpu
WORKERS ?= 2
VENV ?= .venv
BIN = $(VENV)/bin
# As in pyproject.toml: here they stay, so that `make ops` compiles only what changed.
BUILD_TOOLS = 'setuptools>=77' 'cmake>=3.18'

.DEFAULT_GOAL := help
.NOTPARALLEL: # two targets may fill one environment
.PHONY: help quickstart ops test test-thorough test-jax test-tfmot lint doctest bench bench-sparse clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

quickstart: ops ## install the package into .venv and run examples/quickstart.py
	$(BIN)/python examples/quickstart.py

ops: $(VENV)/.installed ## compile the native libraries into tfcompress/_native
	MAKEFLAGS=--no-print-directory $(BIN)/python setup.py --quiet build_ops --inplace --strict

# A test file goes to one process whole, so that the models its fixtures build are built once.
test: $(VENV)/.installed-dev ops ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-thorough: $(VENV)/.installed-dev ops ## run more of them, with many more examples for each property (hours)
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m ''

test-jax: $(VENV)-jax/.installed ## run what needs no TensorFlow under JAX, in an environment of its own
	KERAS_BACKEND=jax JAX_ENABLE_X64=1 $(VENV)-jax/bin/python -m pytest -n $(WORKERS) --dist loadfile \
	  tests/analysis tests/blocks tests/callbacks tests/channels tests/coding tests/criteria tests/distillation \
	  tests/layers tests/pruning tests/test_*.py \
	  --ignore=tests/channels/test_applications.py --ignore=tests/analysis/test_latency.py

test-tfmot: $(VENV)-tfmot/.installed ## run what needs the real tfmot, in an environment of its own
	$(VENV)-tfmot/bin/python -m pytest -n $(WORKERS) --dist loadfile tests/compat \
	  tests/export/test_quantization_aware.py

lint: $(VENV)/.installed-dev ## check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# With the fixtures of the tests: fixed seeds and a quiet TensorFlow.
doctest: $(VENV)/.installed-dev ## run the examples in the docstrings
	PYTHONPATH=tests $(BIN)/python -m pytest -p conftest -n $(WORKERS) --doctest-modules tfcompress

bench: $(VENV)/.installed-dev ## run the benchmarks; results go to tests/benchmarks/results as JSON
	for script in tests/benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

bench-sparse: $(VENV)/.installed-dev ops ## time pruned layers and networks with the delegate; JSON in custom_ops/bench/results
	for threads in 1 2; do $(BIN)/python custom_ops/bench/bench_sparse.py --threads $$threads || exit 1; done
	for block in 0 4 8 16; do $(BIN)/python custom_ops/bench/bench_sparse.py --layers --block $$block \
	  --sparsities 0.8 0.9 || exit 1; done
	for pattern in "1 --inputs 1" "1 --inputs 4" "16 --inputs 4"; do \
	  for more in "" "--threads 2" --without-amx "--without-amx --threads 2"; do \
	  $(BIN)/python custom_ops/bench/bench_sparse.py --dtype int8 --block $$pattern --files .build/bench \
	  --sparsities 0 0.5 0.7 0.8 0.9 --names ResNet ResNet50 $$more || exit 1; done; done

clean: ## delete the environment and all that tools left behind
	rm -rf $(VENV) $(VENV)-jax $(VENV)-tfmot .build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	rm -f tfcompress/_native/libtfcompress_*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tfcompress needs Python 3.11 or later: make ... PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(BUILD_TOOLS)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[$(BACKEND)]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml setup.py | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(BUILD_TOOLS)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[$(BACKEND),test,lint]'
	@touch $(VENV)/.installed $@

$(VENV)-jax/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)-jax
	$(VENV)-jax/bin/python -m pip install --quiet --editable '.[jax,test]'
	@touch $@

$(VENV)-tfmot/.installed: pyproject.toml setup.py
	$(PYTHON) -m venv $(VENV)-tfmot
	$(VENV)-tfmot/bin/python -m pip install --quiet --editable '.[tfmot,test]'
	@touch $@

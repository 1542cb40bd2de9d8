# Every target sets up what it needs: .venv is made on the first call and again only when the packaging changes.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
DOCS_STAMP := $(VENV)/.installed-docs
MUTATION_STAMP := $(VENV)/.installed-mutation
DEMO_CONFIG := configs/tiny/tove-tiny_scenes.py
DEMO_WORK_DIR := work_dirs/tove-tiny_scenes
# What the installed copy under site-packages/tove_plugins/.mim is made of.
MIM_SOURCES := $(shell find tools configs -name '*.py' 2>/dev/null) model-index.yml

# What `gpu-check` needs beside torch, torchvision, transformers, timm, peft, opencv and matplotlib.
# Left out are mmcv, mmdet, mmpretrain and pycocoevalcap: nothing of theirs runs there.
GPU_WHEELS := 'onedl-mmengine>=0.10.8,<0.11' addict termcolor yapf platformdirs \
	rich markdown-it-py mdurl pygments 'open_clip_torch>=3.1' ftfy wcwidth \
	pluggy packaging xxhash jinja2 markupsafe 'kornia>=0.9' kornia_rs \
	pytest iniconfig hatchling pathspec trove-classifiers tomlkit
GPU_PLATFORMS := $(foreach glibc,2_28 2_27 2_17,--platform manylinux_$(glibc)_x86_64) --platform manylinux2014_x86_64
GPU_SITE := build/gpu-site

.PHONY: help setup demo test test-heavy mutants lint format bench docs release gpu-wheels gpu-check clean

help:
	@echo 'make demo    train, detach, merge, report on the tiny world (about 5 minutes on 2 cores); resumes'
	@echo 'make test    the test suite, a process for every core'
	@echo 'make test-heavy   what it leaves out: long runs that other tests cover in part'
	@echo 'make mutants FILES=...   single defects in these files: which of them do their tests notice?'
	@echo 'make lint    ruff and mypy'
	@echo 'make docs    the documentation as a site, in site/; a dead link fails it'
	@echo 'make release VERSION=...   gather changelog.d into CHANGELOG.md, set the version'
	@echo 'make bench   the benchmarks (about 10 minutes on 2 idle cores), and docs/benchmarks.md of them'
	@echo 'make gpu-check PYTHON=python3   on one GPU: the tests marked gpu, and speed at the paper size'
	@echo 'make gpu-wheels   the wheels that gpu-check installs on a machine without network'
	@echo 'make clean   remove .venv and caches (work_dirs and data stay)'

setup: $(DEV_STAMP)

$(BIN)/python:
	@echo '[set-up] creating $(VENV) with $(PYTHON)'
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml $(MIM_SOURCES) | $(BIN)/python
	@echo '[set-up] installing this repository and mim into $(VENV)'
	$(BIN)/python -m pip install -q -e '.[mim]'
	@touch $@

# mmcv brings the opencv-python that needs libGL, in the same folder as the headless build: the last one
# wins. The bound is that of imaug, which mmdet brings.
$(DEV_STAMP): $(STAMP)
	@echo '[set-up] installing what the tests need: the dev extra, and the libraries of every expert'
	$(BIN)/python -m pip install -q -e '.[dev,mim,experts]'
	$(BIN)/python -m pip install -q --force-reinstall --no-deps 'opencv-python-headless<4.13'
	@touch $@

demo: $(STAMP)
	@echo '[demo] mim train tove_plugins $(DEMO_CONFIG): gating, transfer, detachment, merging, report'
	@echo '[demo] everything is written to $(DEMO_WORK_DIR); finished stages are kept, an interrupted one resumes'
	PYTHONWARNINGS='ignore:pkg_resources is deprecated' $(BIN)/mim train tove_plugins $(DEMO_CONFIG) --work-dir $(DEMO_WORK_DIR) --resume

# One thread in each process: they would be as many times as many. What PYTEST_ARGS says again counts.
test: $(DEV_STAMP)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not heavy" $(PYTEST_ARGS)

test-heavy: $(DEV_STAMP)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m heavy $(PYTEST_ARGS)

$(MUTATION_STAMP): $(DEV_STAMP)
	$(BIN)/python -m pip install -q -e '.[mutation]'
	@touch $@

mutants: $(MUTATION_STAMP)
	@test -n "$(FILES)" || { echo "Say which files: make mutants FILES='core/tove/modules core/tove/methods/tove/gate.py'"; exit 2; }
	$(BIN)/python scripts/mutants.py $(FILES) --num $(or $(NUM),40) --seed $(or $(SEED),0) --jobs $(or $(JOBS),1) --start $(or $(START),0) --then $(THEN)

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install -q -e '.[docs]'
	@touch $@

docs: $(DOCS_STAMP)
	$(BIN)/mkdocs build --strict

release: $(STAMP)
	@test -n "$(VERSION)" || { echo 'Say which: make release VERSION=0.2.0'; exit 2; }
	$(BIN)/python scripts/release.py $(VERSION)

bench: $(DEV_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench.py

# For Python 3.12 on Linux x86-64. Copied with the tree, they are all that a machine without network needs.
gpu-wheels:
	rm -rf wheels
	$(PYTHON) -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $(GPU_PLATFORMS) -d wheels $(GPU_WHEELS)
	@du -sh wheels

# By the Python that is given: it has torch, transformers, timm and peft. Nothing of it is changed.
gpu-check: PYTHON = python3
gpu-check: export PYTHONPATH = $(CURDIR):$(CURDIR)/core:$(CURDIR)/expert_plugins:$(CURDIR)/$(GPU_SITE)
gpu-check: export HF_HUB_OFFLINE = 1
gpu-check:
	rm -rf $(GPU_SITE)
	$(PYTHON) -m pip install -q --no-index --find-links wheels --no-deps --no-compile --target $(GPU_SITE) wheels/*.whl .
	$(PYTHON) -m pytest -q -m gpu -p no:cacheprovider tests/unit/gpu; tests=$$?; \
	$(PYTHON) benchmarks/gpu_check.py && exit $$tests

clean:
	rm -rf $(VENV) $(GPU_SITE) wheels .pytest_cache .mypy_cache .ruff_cache

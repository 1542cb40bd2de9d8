# Every target sets up what it needs: .venv is made on the first call and again only when the packaging changes.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV_STAMP := $(VENV)/.installed-dev
MUTATION_STAMP := $(VENV)/.installed-mutation
DEMO_CONFIG := configs/tiny/tove-tiny_scenes.py
DEMO_WORK_DIR := work_dirs/tove-tiny_scenes
# What the installed copy under site-packages/tove_plugins/.mim is made of.
MIM_SOURCES := $(shell find tools configs -name '*.py' 2>/dev/null) model-index.yml

.PHONY: help setup demo test test-heavy mutants lint format bench clean

help:
	@echo 'make demo    train, detach, merge, report on the tiny world (about 5 minutes on 2 cores); resumes'
	@echo 'make test    the test suite, a process for every core'
	@echo 'make test-heavy   what it leaves out: long runs that other tests cover in part'
	@echo 'make mutants FILES=...   single defects in these files: which of them do their tests notice?'
	@echo 'make lint    ruff and mypy'
	@echo 'make bench   the benchmarks'
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
	$(BIN)/python scripts/mutants.py $(FILES) --num $(or $(NUM),40) --seed $(or $(SEED),0) --jobs $(or $(JOBS),1)

lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV_STAMP)
	@set -e; for file in $(sort $(wildcard benchmarks/*.py)); do echo "[bench] $$file"; $(BIN)/python $$file; done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

# What each target does: `make help`. Every target makes what it needs: a virtual environment in .venv, and the
# Kafka broker's parts in the user's cache folder.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
# Most tests wait for something; the files of tests share the computer, each process with a broker of its own.
# In the order of tests/conftest.py: what takes long first.
PARALLEL := -n 4 --dist loadfile --no-loadscope-reorder

# What Python compiled is kept: the tests start some thousand programs, and compiling is half of a start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-long check bench clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[local,dev]"
	touch $(READY)

demo: $(READY) ## see it work: a real broker, an uploader, a downloader, every byte verified (under a minute)
	$(BIN)/openmsistream demo

test: $(READY) ## all tests, with 3 seeds per fault and small scales
	$(BIN)/python -m pytest $(PARALLEL)

test-long: $(READY) ## all tests, with all seeds and full scales
	OMS_SEEDS=20 OMS_LONG=1 $(BIN)/python -m pytest $(PARALLEL)

check: $(READY) ## style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## speed, as ratios to the bare Kafka client and to OpenMSIStream 1.8.8
	$(BIN)/python -m bench

clean: ## remove what the targets made in this folder
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench/results

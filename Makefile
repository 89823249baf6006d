# Each verb sets up what it needs, so that a machine with Python (>= 3.10) and pip is enough. `make help` lists them.
# Only test-lowest wants 3.11 or 3.12: its script reads TOML with the standard library, and the lowest numpy and pyarrow
# have no wheels for newer ones.

PYTHON ?= python3
PYTEST_ARGS ?=
# The lowest torch can be replaced where no CPU build of it is to be had: make test-lowest LOWEST_TORCH=torch
LOWEST_TORCH ?= $(shell $(PYTHON) tools/lowest_requirements.py --only torch)

VENV := .venv
LOWEST_VENV := .venv-lowest
PIP_INSTALL := -m pip --disable-pip-version-check install --quiet --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help quickstart test test-lowest lint clean

help: ## list the verbs
	@echo 'make VERB [PYTHON=python3.X] [PYTEST_ARGS="..."]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1@\2/p' $(MAKEFILE_LIST) | while IFS=@ read -r verb text; do \
		printf '  %-12s %s\n' $$verb "$$text"; done

quickstart: $(VENV)/.installed ## align a small student with its teacher on the built-in corpus, on a CPU
	$(VENV)/bin/alad-hf quickstart

test: $(VENV)/.installed-dev ## run the fast tests; others by PYTEST_ARGS='-m slow' (or pretrained)
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-lowest: $(LOWEST_VENV)/.installed ## run the fast tests with the lowest versions that pyproject.toml declares (Python 3.11 or 3.12)
	$(LOWEST_VENV)/bin/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev ## check style, formatting and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean: ## remove the environments and everything else that the verbs made
	rm -rf $(VENV) $(LOWEST_VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find alad_hf benchmarks tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp newer than pyproject.toml stands for an environment that has what it declares.

$(VENV)/.torch: tools/install_torch.sh
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	sh tools/install_torch.sh $(VENV)/bin/python
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(VENV)/bin/python $(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(VENV)/bin/python $(PIP_INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.installed

$(LOWEST_VENV)/.installed: pyproject.toml tools/install_torch.sh tools/lowest_requirements.py
	rm -rf $(LOWEST_VENV)
	$(PYTHON) -m venv $(LOWEST_VENV)
	sh tools/install_torch.sh $(LOWEST_VENV)/bin/python '$(LOWEST_TORCH)'
	$(PYTHON) tools/lowest_requirements.py --without torch > $(LOWEST_VENV)/lowest.txt
	$(LOWEST_VENV)/bin/python $(PIP_INSTALL) --constraint $(LOWEST_VENV)/lowest.txt --editable '.[test]'
	touch $@

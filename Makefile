# Everything runs in .venv, made on first use and kept until pyproject.toml changes.
#   make demo         a real portrait becomes two heads, in demo_output/
#   make test         all tests that guard behaviour: minutes
#   make test-slow    the tests marked slow, which make test leaves out
#   make test-viewer  the viewer in a headless Chromium, where there is one
#   make lint         ruff and mypy
#   make docs         the documentation, in site/; nothing is fetched once the environment is there
#   make install      the environment alone
#   make open-head    build the embedded head model again from its CC0 sources
#   make clean        remove what the targets above have made

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install -qq
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help venv install demo test test-slow test-viewer lint docs open-head clean

help:
	@sed -n '/^#   /s/^#   //p' Makefile

venv: $(VENV)/.photos
install: $(VENV)/.dev

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "flamejax needs Python 3.11 or newer; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	@echo "==> environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# What users need; and what developers need besides. Each stamp is touched only when pip has succeeded.
$(VENV)/.photos: pyproject.toml | $(PY)
	@echo "==> installing flamejax[photos] (some minutes the first time)"
	@$(PIP) --editable '.[photos]'
	@touch $@

$(VENV)/.dev: $(VENV)/.photos
	@echo "==> installing the tools for tests and lint"
	@$(PIP) --editable '.[photos,dev]'
	@touch $@

demo: $(VENV)/.photos
	@echo "==> reconstructing the portrait (the first run compiles; later runs take that from a cache)"
	@$(PY) -m experiments.demo --output demo_output

test: $(VENV)/.dev
	@echo "==> the CC0 sources, which tests of the data builders need"
	@$(PY) -m experiments.fetch_sources || echo "==> not to be had: those tests will be skipped"
	@echo "==> tests"
	@$(PY) -m pytest -q -n $(WORKERS) --dist loadfile -m "not slow and not browser"

test-slow: $(VENV)/.dev
	@echo "==> slow tests, with all of XLA's optimisations: what they compile runs long"
	@JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PY) -m pytest -q -n $(WORKERS) --dist loadfile -m "slow and not browser"

test-viewer: $(VENV)/.dev
	@echo "==> the viewer in a browser"
	@$(PY) -m pytest -q -m browser tests/viewer

lint: $(VENV)/.dev
	@echo "==> ruff"
	@$(PY) -m ruff check .
	@echo "==> mypy"
	@$(PY) -m mypy

docs: $(VENV)/.dev
	@echo "==> the site, in site/"
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --clean --quiet
	@echo "==> open site/index.html, or with search: $(PY) -m http.server -d site"

open-head: $(VENV)/.dev
	@echo "==> building the open head"
	@$(PY) -m tools.open_head.build

clean:
	rm -rf $(VENV) demo_output site build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

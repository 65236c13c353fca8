PYTHON ?= python3
VENV := .venv
DEMO ?= demo-output/$(shell date +%Y%m%d-%H%M%S)
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint benchmark clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(VENV)/bin/python -m gkgnet_hf.training.demo $(DEMO)

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

benchmark: $(INSTALLED)
	$(VENV)/bin/python -m benchmarks

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)

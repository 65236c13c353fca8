PYTHON ?= python3
VENV := .venv
DEMO ?= demo-output/$(shell date +%Y%m%d-%H%M%S)
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-all lint benchmark clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(VENV)/bin/gkgnet-hf data make-digits $(DEMO)/digits
	$(VENV)/bin/gkgnet-hf train digits --dataset $(DEMO)/digits --output_dir $(DEMO)/model
	$(VENV)/bin/gkgnet-hf evaluate $(DEMO)/model $(DEMO)/digits
	$(VENV)/bin/gkgnet-hf predict $(DEMO)/model $(DEMO)/digits/val/00000[1-5].png

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest -n auto -m "not slow"

test-all: test
	$(VENV)/bin/python -m pytest -n auto -m slow

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

benchmark: $(INSTALLED)
	$(VENV)/bin/python -m benchmarks

$(INSTALLED): pyproject.toml hatch_build.py gkgnet_hf/modeling/group_knn.c
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)

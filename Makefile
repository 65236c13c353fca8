PYTHON ?= python3
VENV := .venv
DEMO ?= demo-output/$(shell date +%Y%m%d-%H%M%S)
LAST_DEMO = $(or $(patsubst %/model,%,$(lastword $(sort $(wildcard demo-output/*/model)))),$(error Run make demo first))
INSTALLED := $(VENV)/.installed

.PHONY: demo app browser test test-all lint docs benchmark wheels smoke clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(VENV)/bin/gkgnet-hf data make-digits $(DEMO)/digits
	$(VENV)/bin/gkgnet-hf train digits --dataset $(DEMO)/digits --output_dir $(DEMO)/model
	$(VENV)/bin/gkgnet-hf evaluate $(DEMO)/model $(DEMO)/digits
	$(VENV)/bin/gkgnet-hf predict $(DEMO)/model $(DEMO)/digits/val/00000[1-5].png

# On the model of the last `make demo`.
app: $(INSTALLED)
	$(VENV)/bin/gkgnet-hf app $(LAST_DEMO)/model --examples $(LAST_DEMO)/digits/val

# The web page is tested in a real one. Where it cannot be installed, those tests say that they are skipped.
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
		(apt-get update -qq && apt-get install -y -qq chromium) >/dev/null 2>&1 || true

test: $(INSTALLED) browser
	$(VENV)/bin/python -m pytest -n auto -m "not slow"

test-all: test
	$(VENV)/bin/python -m pytest -n auto -m slow

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/zizmor --offline --quiet .github/workflows

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --quiet

benchmark: $(INSTALLED)
	$(VENV)/bin/python -m benchmarks

# Into dist/: the source, a wheel with compiled loops for each of two platforms, and one without for all others.
# The two C compilers are gcc-x86-64-linux-gnu and gcc-aarch64-linux-gnu of Debian and Ubuntu.
WHEEL = GKGNET_WHEEL_PLATFORM=$(1) CC=$(2) $(VENV)/bin/python -m pip wheel --quiet --no-deps --no-cache-dir \
	--wheel-dir dist dist/gkgnet_hf-*.tar.gz
wheels: $(INSTALLED)
	rm -rf dist
	$(VENV)/bin/python -m hatchling build -t sdist -d dist
	$(call WHEEL,manylinux_2_17_x86_64,x86_64-linux-gnu-gcc)
	$(call WHEEL,manylinux_2_17_aarch64,aarch64-linux-gnu-gcc)
	$(call WHEEL,any)

# What a stranger gets: the package from dist/ in a fresh environment, tested from an empty folder. importlib: the package
# must come from the environment, not from the checkout that the test lies in.
BIN := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
smoke:
	folder=$$(mktemp -d) && $(PYTHON) -m venv $$folder/venv && cd $$folder && \
		venv/$(BIN)/python -m pip install --quiet --find-links $(CURDIR)/dist gkgnet-hf pytest && \
		venv/$(BIN)/pytest --import-mode=importlib --override-ini addopts= -m smoke -rA $(CURDIR)/tests/test_smoke.py

$(INSTALLED): pyproject.toml hatch_build.py $(wildcard gkgnet_hf/modeling/*.c gkgnet_hf/modeling/*.h)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)

# The two commands: `make demo` and `make test`. Both set everything up on a fresh machine with Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all portable package check format bench fuzz fuzz-quick reproduce reproduce-quick playground-picture docs zoo clean clean-kernels

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.check: pyproject.toml studies/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[check,docs]' --editable studies
	touch $@ $(VENV)/.demo

## invert noisy digits, methods side by side; writes demo/grid.png and demo/results.jsonl
demo: $(VENV)/.demo
	$(BIN)/unrelu demo --output demo --overwrite

## the tests; those of the report and the playground need a browser, which is installed where there is none
test: $(VENV)/.check
	scripts/browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

## the long tests as well: processes killed and interrupted, every host, the quick version of every experiment
test-all: $(VENV)/.check
	scripts/browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m ''

## the tests as other processors run them, SSE, AVX2, AVX-512 (each as long as `make test`), and what `make check` repeats
portable: $(VENV)/.check
	scripts/browser
	OMP_NUM_THREADS=1 $(BIN)/python scripts/portable.py

## the sdist and the wheel in dist/, checked, and tried in a fresh environment (minutes)
package: $(VENV)/.check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/package

## format, lint, types, docs, pages and searches with other rounding and draws, then every test: what CI runs
check: $(VENV)/.check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check
	OMP_NUM_THREADS=1 $(BIN)/python scripts/portable.py other
	$(MAKE) test

## rewrite the sources in the project's format
format: $(VENV)/.check
	$(BIN)/ruff format src studies tests scripts fuzz examples docs
	$(BIN)/ruff check --fix src studies tests scripts fuzz examples docs

## every benchmark, and its pages from the numbers (100 minutes on two idle cores); some of them: make bench NAMES="search certify"
bench: $(VENV)/.check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/bench $(NAMES)

## programs, scales, files, hosts and runs at random, and docs/reliability.md from what held (an hour)
fuzz: $(VENV)/.check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/fuzz

## a few of each, into fuzz-quick/ (a minute)
fuzz-quick: $(VENV)/.check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/fuzz --quick

## every figure and claim of the paper on a small scale, into reproduction-quick/ (minutes)
reproduce-quick: $(VENV)/.check
	$(BIN)/unrelu reproduce all --quick --output reproduction-quick

## every figure and claim of the paper, and the page of the documentation from their numbers (an hour; goes on after a stop)
reproduce: $(VENV)/.check
	$(BIN)/unrelu reproduce all --output reproduction
	cp reproduction/*.json reproduction/*.png reproduction/*.svg docs/reproduction/
	$(MAKE) docs

## the picture of the documentation's page on the playground
playground-picture: $(VENV)/.check
	scripts/browser
	$(BIN)/python scripts/playground_picture.py

## the documentation as HTML in docs/_build
docs: $(VENV)/.check
	$(BIN)/sphinx-build -E -W --keep-going -q docs docs/_build
	$(BIN)/python scripts/check_links.py docs/_build

## train the generators of the zoo and the plain VAEs of the benchmarks again (minutes)
zoo: $(VENV)/.check
	$(BIN)/python -m pip install --quiet --editable . --editable 'studies[train]'
	$(BIN)/python -m unrelu_studies.zoo.train
	$(BIN)/python -m unrelu_studies.zoo.train_plain_vaes

## forget compiled kernels, after a change in one of their files
clean-kernels:
	find src/unrelu -name '*.nb[ic]' -delete

clean:
	rm -rf $(VENV) demo fuzz-quick reproduction-quick docs/_build docs/gallery

# The two commands: `make demo` and `make test`. Both set everything up on a fresh machine with Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two processes of one thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: demo test test-studies test-ecosystem test-all portable package floors check format bench fuzz fuzz-quick reproduce reproduce-quick playground-picture docs zoo clean clean-kernels

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.test: pyproject.toml studies/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[test]' --editable studies
	touch $@ $(VENV)/.demo

$(VENV)/.check: pyproject.toml studies/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[check,docs]' --editable studies
	touch $@ $(VENV)/.test $(VENV)/.demo

## invert noisy digits, methods side by side; writes demo/grid.png and demo/results.jsonl
demo: $(VENV)/.demo
	$(BIN)/unrelu demo --output demo --overwrite

## the tests of the library
test: $(VENV)/.test
	$(PYTEST)

## the tests of studies, benchmarks, examples, pages, fuzzers and the script for other processors
test-studies: $(VENV)/.check
	$(PYTEST) tests/studies

## the tests beside other people's packages (JAX, Keras, diffusers, deepinv, ...) and in a browser, installed where there is none
test-ecosystem: $(VENV)/.check
	scripts/browser
	$(PYTEST) tests/ecosystem

## all of these and the long tests: processes killed and interrupted, every host, the quick version of every experiment
test-all: $(VENV)/.check
	scripts/browser
	$(PYTEST) -m '' tests tests/studies tests/ecosystem

## the tests of `make test` as other processors run them, SSE, AVX2, AVX-512 (each as long), and what `make check` repeats
portable: $(VENV)/.check
	OMP_NUM_THREADS=1 $(BIN)/python scripts/portable.py

## the sdist and the wheel in dist/, checked, and tried in a fresh environment (minutes)
package: $(VENV)/.check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/package

## the tests of the core with the lowest versions that pyproject.toml allows, on every Python that the machine has
floors:
	scripts/floors

## what CI runs: format, lint, types, docs, some tests with other rounding and draws, then every test that is not long
check: $(VENV)/.check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check
	OMP_NUM_THREADS=1 $(BIN)/python scripts/portable.py other
	$(MAKE) test-studies
	$(MAKE) test-ecosystem
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

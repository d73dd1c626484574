# The two commands: `make demo` and `make test`. Both set everything up on a fresh machine with Python 3.11+.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test portable check format bench reproduce reproduce-quick docs zoo clean clean-kernels

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.check: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[check,docs]'
	touch $@ $(VENV)/.demo

## invert noisy digits with every method; writes demo/grid.png and demo/results.jsonl
demo: $(VENV)/.demo
	$(BIN)/unrelu demo --output demo --overwrite

## every test; those of the report need a browser, which is installed where there is none
test: $(VENV)/.check
	scripts/browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

## every test as other processors run it, a configuration at a time (each as long as `make test`)
portable: $(VENV)/.check
	scripts/browser
	OMP_NUM_THREADS=1 $(BIN)/python scripts/portable.py

## format, lint, types, docs, then every test: what CI runs
check: $(VENV)/.check
	PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check
	$(MAKE) test

## rewrite the sources in the project's format
format: $(VENV)/.check
	$(BIN)/ruff format src tests scripts benchmarks docs
	$(BIN)/ruff check --fix src tests scripts benchmarks docs

## the benchmark tables: start-up, time limits, recovery, identifiability, baselines, data sets, layer programs, search and proofs against their peers (hours)
bench: $(VENV)/.check
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python benchmarks/startup.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/time_limit.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/recovery.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/identifiability.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/baselines.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/prior.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/lp_forms.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/degenerate.py
	$(BIN)/python benchmarks/datasets.py
	for what in layers throughput network cold-start search certify; do \
	  OMP_NUM_THREADS=1 $(BIN)/unrelu benchmark $$what --output benchmark-$$what --overwrite || exit 1; done

## every figure and claim of the paper on a small scale, into reproduction-quick/ (minutes)
reproduce-quick: $(VENV)/.check
	$(BIN)/unrelu reproduce all --quick --output reproduction-quick

## every figure and claim of the paper, and the page of the documentation from their numbers (an hour; goes on after a stop)
reproduce: $(VENV)/.check
	$(BIN)/unrelu reproduce all --output reproduction
	cp reproduction/*.json reproduction/*.png reproduction/*.svg docs/reproduction/
	$(MAKE) docs

## the documentation as HTML in docs/_build
docs: $(VENV)/.check
	$(BIN)/sphinx-build -E -W --keep-going -q docs docs/_build

## train the generators of the zoo again (minutes)
zoo: $(VENV)/.check
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	$(BIN)/python scripts/train_zoo.py

## forget compiled kernels, after a change in one of their files
clean-kernels:
	rm -rf src/unrelu/layer/__pycache__

clean:
	rm -rf $(VENV) demo docs/_build

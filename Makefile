# make quickstart   install, train on the built-in digit scenes, evaluate, draw   (about 10 minutes on two cores)
# make test         install, lint, types, tests                                   (what CI runs)
# make check        the same, without the install
# make test-slow    the tests that take minutes and are not part of make test
# make coverage     tests, and which lines and branches of oddetr/ they miss      (htmlcov/index.html)
# make mutants      which small changes of the method's code no test notices      (docs/mutation.md)
# make docs         the documentation, as pages in site/
# make audit        known vulnerabilities of what is installed                    (asks pypi.org)
# make bench        speed against peers, in one table                             (11 to 15 minutes on two cores)
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
# Two processes with as many threads as cores spin against each other: torch has one in tests, and numba follows it, but
# where a test asks for a second.
THREADS := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=2

.PHONY: quickstart test check test-slow coverage mutants audit bench docs lint types format clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.user: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[offline]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/.user

quickstart: $(VENV)/.user
	$(BIN)/oddetr train --config recipes/quickstart.yaml --out runs/quickstart --resume
	$(BIN)/oddetr evaluate runs/quickstart --json runs/quickstart/val.json
	$(BIN)/oddetr digits --split test --count 12 --out runs/quickstart/scenes
	$(BIN)/oddetr predict runs/quickstart runs/quickstart/scenes/test --out runs/quickstart/pictures

test: $(VENV)/.dev
	$(MAKE) check

check: lint types
	$(THREADS) $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

audit: $(VENV)/.dev
	$(BIN)/pip-audit --skip-editable

test-slow: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m pytest -m slow --durations=0

coverage: $(VENV)/.dev
	$(THREADS) $(BIN)/python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report=term --cov-report=html

mutants: $(VENV)/.dev
	CI=1 $(THREADS) $(BIN)/mutmut run --max-children 2
	$(BIN)/python benchmarks/mutants.py

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/all.py

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint:
	$(BIN)/ruff check oddetr tests benchmarks examples
	$(BIN)/ruff format --check oddetr tests benchmarks examples

types:
	$(BIN)/pyright --pythonpath $(BIN)/python oddetr

format:
	$(BIN)/ruff check --fix oddetr tests benchmarks examples
	$(BIN)/ruff format oddetr tests benchmarks examples

clean:
	rm -rf $(VENV) dist site htmlcov mutants .coverage .pytest_cache .ruff_cache

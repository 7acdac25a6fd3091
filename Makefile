# Works with GNU Make 3.81 (macOS) and later. `make help` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
RUN := $(PY) -m credits_pipeline

# Port of the Dagster UI.
PORT ?= 3000

.PHONY: help demo demo-ui test test-slow test-duckdb test-browser test-image test-cluster test-all run dev answer what-if backfill \
	import backup restore rename reshard cluster alert-test chaos lint types check bench bench-forecast pictures lock clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sort | awk -F':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo: $(VENV)/installed ## run the whole pipeline against a simulated API and show the answer (data/demo)
	@$(RUN) demo

demo-ui: $(VENV)/installed ## start the Dagster UI on the demo's data [PORT=3001]
	@$(RUN) dev --demo --port $(PORT)

run: $(VENV)/installed ## the real thing with your key: readings, history, forecast, answer
	@$(RUN) run

dev: $(VENV)/installed ## start the Dagster UI and the schedules on http://127.0.0.1:3000 [PORT=3001]
	@$(RUN) dev --port $(PORT)

answer: $(VENV)/installed ## print the answer again [ARGS=--json]
	@$(RUN) answer $(ARGS)

what-if: $(VENV)/installed ## move tokens to another model: make what-if MODEL=vendor/a TO=vendor/b SHARE=0.5 [ACCOUNT=default]
	@[ -n "$$MODEL" ] && [ -n "$$TO" ] || { echo "which models? make what-if MODEL=vendor/a TO=vendor/b SHARE=0.5"; exit 1; }
	@$(RUN) what-if --model "$$MODEL" --to "$$TO" $(if $(SHARE),--share "$$SHARE") $(if $(ACCOUNT),--account "$$ACCOUNT")

backfill: $(VENV)/installed ## fetch past days' bills: make backfill FROM=2026-01-01 TO=2026-01-31
	@$(RUN) backfill $(if $(FROM),--from "$$FROM") $(if $(TO),--to "$$TO")

import: $(VENV)/installed ## append readings you logged: make import FILE=readings.csv ACCOUNT=default [TZ=Europe/Zurich]
	@[ -n "$$FILE" ] || { echo "which file? make import FILE=readings.csv ACCOUNT=default"; exit 1; }
	@$(RUN) import "$$FILE" --account "$${ACCOUNT:-default}" $(if $(filter command line,$(origin TZ)),--tz "$$TZ")

backup: $(VENV)/installed ## save a consistent copy of the warehouse, and Parquet: make backup [TO=folder]
	@$(RUN) backup $(if $(TO),"$$TO")

restore: $(VENV)/installed ## replace the warehouse by a backup: make restore FROM=folder
	@[ -n "$$FROM" ] || { echo "which backup? make restore FROM=data/backups/credits-…"; exit 1; }
	@$(RUN) restore "$$FROM"

rename: $(VENV)/installed ## give an account another name: make rename FROM=acme TO=acme_eu
	@[ -n "$$FROM" ] && [ -n "$$TO" ] || { echo "which account? make rename FROM=acme TO=acme_eu"; exit 1; }
	@$(RUN) rename "$$FROM" "$$TO"

reshard: $(VENV)/installed ## spread a lake over other shards, or move the warehouse into one: make reshard SHARDS=16
	@[ -n "$$SHARDS" ] || { echo "how many? make reshard SHARDS=16"; exit 1; }
	@$(RUN) reshard "$$SHARDS"

cluster: $(VENV)/installed-cluster ## install what a lake and a Dask cluster need (docs/scale.md)
	@echo "$(VENV) has Dask, and DuckDB 1.5.5 with the extensions of a lake: docs/scale.md says what to set."

alert-test: $(VENV)/installed ## send a test alert to every channel of CREDITS_ALERT_URLS
	@$(RUN) alert-test

test: $(VENV)/installed-dev ## the fast tests, which need only this machine (under three minutes)
	@$(PY) -m pytest -n 2 --dist worksteal -q -m "not heavy and not browser and not slow and not cluster"

test-slow: $(VENV)/installed-dev ## the slow tests: faults, secrets, recovery, real dbt, readers, alerts
	@$(PY) -m pytest -n 2 --dist loadfile -q -m "slow and not heavy and not browser and not cluster"

# The oldest DuckDB that we support, and the last of its line; the other tests run on the locked one, the newest.
DUCKDB_TESTS := sql/test_models_*.py sql/test_forecast.py sql/test_sql_project.py sql/test_key_limits.py sql/test_money.py \
	warehouse/test_file.py warehouse/test_tables.py warehouse/test_publish.py
test-duckdb: $(VENV)/installed-dev ## the SQL and warehouse tests on the oldest supported DuckDB and on 1.5.6
	@for version in 1.5.4 1.5.6; do echo "duckdb $$version"; \
	  [ -d $(VENV)/duckdb-$$version ] || $(INSTALL) --require-hashes --target $(VENV)/duckdb-$$version -r requirements-duckdb-$$version.lock || exit 1; \
	  (cd credits_pipeline_tests && PYTHONPATH=$(CURDIR)/$(VENV)/duckdb-$$version $(CURDIR)/$(PY) -m pytest -c ../pyproject.toml --rootdir .. -n 2 -q -m "not heavy and not browser" $(DUCKDB_TESTS)) || exit 1; done

test-browser: $(VENV)/installed-dev ## test the Dagster UI and the report in Debian's Chromium
	@$(PY) -m pytest -q -m browser

test-image: $(VENV)/installed-dev ## build the container image and run it (needs buildah, crun, mmdebstrap)
	@$(PY) -m pytest -q -m heavy credits_pipeline_tests/project/test_image.py

test-cluster: $(VENV)/cluster/installed ## test the lake and Dask with PostgreSQL and S3 (Debian: apt-get install postgresql)
	@PYTHONPATH=$(CURDIR)/$(VENV)/cluster $(PY) -m pytest -q -m cluster

test-all: $(VENV)/installed-dev test-cluster ## the heavy tests: load, chaos, old drivers, BI servers (about two hours), and test-cluster
	@$(PY) -m pytest -q -m heavy

MINUTES ?= 20
chaos: $(VENV)/installed-dev ## inject faults at random times and check recovery: make chaos MINUTES=20
	@$(PY) -m credits_pipeline_tests.chaos --minutes $(MINUTES)

bench: $(VENV)/installed-dev ## time a daily run and a year's backfill against rivals [ARGS="--accounts 1000"]
	@$(PY) benchmarks/daily_run.py $(ARGS)

bench-forecast: $(VENV)/installed-dev ## time the forecast; with TASKS=folder also score it [ARGS=--libraries]
	@$(PY) benchmarks/forecast.py "$(TASKS)" $(ARGS)

pictures: $(VENV)/installed-dev ## retake the README's pictures
	@$(PY) -m tools.pictures

lint: $(VENV)/installed-dev ## ruff: rules and format; import-linter: who may import whom
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(VENV)/bin/lint-imports --no-cache

types: $(VENV)/installed-dev ## mypy, strict
	@$(PY) -m mypy

check: $(VENV)/installed-dev ## run Dagster's own check of the definitions
	@mkdir -p $(VENV)/check && cp credits_pipeline/launch/dagster.yaml $(VENV)/check/
	@DAGSTER_HOME=$(CURDIR)/$(VENV)/check $(VENV)/bin/dg check defs

lock: ## update requirements.lock and the locks built on it (needs uv)
	uv pip compile pyproject.toml $(LOCK_OPTIONS) -o requirements.lock
	uv pip compile pyproject.toml --extra dev $(LOCK_OPTIONS) -c requirements.lock -o requirements-dev.lock
	sed '/^duckdb==/,/# via/d' requirements-dev.lock | \
	  uv pip compile pyproject.toml --extra cluster $(LOCK_OPTIONS) -c - -o requirements-cluster.lock
	uv pip compile pyproject.toml --extra cluster --extra cluster-test $(LOCK_OPTIONS) \
	  -c requirements-cluster.lock -o requirements-cluster-test.lock
LOCK_OPTIONS := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-strip-extras -q -U

clean: ## remove the virtual environment and the demo's data, never your own
	rm -rf $(VENV) data/demo

# A .venv whose Python was upgraded or removed under it, or that was never finished, answers nothing: it is made anew.
BROKEN := $(if $(wildcard $(VENV)),$(shell $(PY) $(if $(wildcard $(VENV)/installed),-c "import pip",-m pip --version) >/dev/null 2>&1 || echo yes))
ifneq ($(BROKEN),)
.PHONY: anew
anew:
	@echo "$(VENV) is broken (its Python has changed, or set-up was cut short): making it anew …"
	@rm -rf $(VENV)
$(VENV)/bin/python: anew
endif

# Anything missing on the machine is named in one line, before anything is set up.
$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is missing: install it (Debian: apt-get install python3 python3-venv; macOS: brew install python), or say where it is: make PYTHON=/path/to/python3 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$$($(PYTHON) --version) is too old: Python 3.11 or newer is needed; choose one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: install it (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Setting up .venv (once; a minute or two) …"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "Python could not make $(VENV): free some space, then run this again"; exit 1; }

# Packages that were left half unpacked look installed to pip: after a set-up that was cut short all are put there again.
UNFINISHED := $(VENV)/unfinished
INSTALL = $(PY) -m pip install --quiet --disable-pip-version-check --no-input $(if $(wildcard $(UNFINISHED)),--force-reinstall)
FAILED = { echo "the packages could not be installed: see above, then run this again"; exit 1; }
$(VENV)/installed: requirements.lock pyproject.toml $(if $(BROKEN),anew) | $(VENV)/bin/python
	@echo "Installing pinned packages, checking their hashes …"
	@install="$(INSTALL)"; touch $(UNFINISHED); \
	  $$install --require-hashes -r requirements.lock && $$install --no-build-isolation --no-deps -e . || $(FAILED)
	@rm -f $(UNFINISHED) && touch $@

$(VENV)/installed-dev: requirements-dev.lock $(VENV)/installed
	@echo "Installing the test tools …"
	@install="$(INSTALL)"; touch $(UNFINISHED); $$install --require-hashes -r requirements-dev.lock || $(FAILED)
	@rm -f $(UNFINISHED) && touch $@

# DuckDB's extensions exist for one version only, which takes the place of the other: `make clean` brings that back.
$(VENV)/installed-cluster: requirements-cluster.lock $(VENV)/installed
	@echo "Installing Dask and DuckDB's extensions …"
	@install="$(INSTALL)"; touch $(UNFINISHED); $$install --require-hashes -r requirements-cluster.lock || $(FAILED)
	@rm -f $(UNFINISHED) && touch $@

# In a folder of its own, so that all other tests keep their DuckDB.
$(VENV)/cluster/installed: requirements-cluster-test.lock $(VENV)/installed-dev
	@echo "Installing Dask, DuckDB's extensions and an S3 server for the tests …"
	@rm -rf $(VENV)/cluster; $(INSTALL) --require-hashes --target $(VENV)/cluster -r requirements-cluster-test.lock || $(FAILED)
	@touch $@

export SUPERSET_VENV ?= $(CURDIR)/.venv-superset
$(SUPERSET_VENV)/installed: tools/requirements-superset.lock | $(VENV)/bin/python
	@echo "Installing Apache Superset, checking hashes (once; some minutes) …"
	@$(PYTHON) -m venv --clear "$(SUPERSET_VENV)" && "$(SUPERSET_VENV)/bin/python" -m pip install --quiet \
	  --disable-pip-version-check --require-hashes -r $< && touch $@

.PHONY: superset test-bi
superset: $(VENV)/installed-dev $(SUPERSET_VENV)/installed ## start Apache Superset with a dashboard on the published copy [FILE=credits.duckdb]
	@$(PY) tools/superset.py $(if $(FILE),--file "$$FILE") $(ARGS)

test-bi: $(VENV)/installed-dev $(SUPERSET_VENV)/installed ## test real Superset: its dashboard in Chromium, SQL Lab, new data after each run
	@$(PY) -m pytest -q -m heavy credits_pipeline_tests/project/test_superset.py

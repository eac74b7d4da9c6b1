# make finetune   the main job: score, select, train, evaluate, register
# make check      what an edit is checked with: format, lint, types, imports, fast tests; under a minute
# make test       every check
# make write      MLproject, dvc.yaml, docs and fingerprints.json anew, from the registry of steps and from the code
# make campaign   kills, full disks, servers that are down, damaged input, for CAMPAIGN_MINUTES: docs/reliability.md
# make clean      removes .venv and caches; data, outputs and runs stay

PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
# In a fresh store `mlflow run` takes its first experiment, which then gets this name; in another it is named here.
ifneq ($(wildcard mlflow.db)$(MLFLOW_TRACKING_URI),)
export MLFLOW_EXPERIMENT_NAME := head-impact
endif
# Relative: below a folder with a space in its name, `mlflow run` would make another path of its own choice.
export MLFLOW_TRACKING_URI ?= sqlite:///mlflow.db

.PHONY: finetune check test types tests write campaign clean

finetune: .venv/installed
	mlflow run . -e finetune -P setup=top-4 --env-manager local

check test: export HF_HUB_OFFLINE := 1
check test: export OMP_NUM_THREADS := 1
# Empty is unset: what dozens of processes import is compiled once.
check test: export PYTHONDONTWRITEBYTECODE :=
check test: export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
# One process for the tests, since pyright runs beside it.
check: TESTS = -n 0 tests/unit -m "not slow"
check test: .venv/installed-dev
	ruff format --check .
	ruff check .
	PYTHONPATH=src lint-imports --no-cache
	$(MAKE) --no-print-directory --jobs 2 types tests TESTS='$(TESTS)'

types:
	pyright

tests:
	pytest -n auto --dist loadscope --no-loadscope-reorder $(TESTS)

write: .venv/installed
	headimpact write

CAMPAIGN_MINUTES ?= 14
CAMPAIGN_SEED ?=

campaign: .venv/installed-dev
	PYTHONPATH=src:benchmarks:tests python -m campaign --minutes $(CAMPAIGN_MINUTES) $(CAMPAIGN_SEED:%=--seed %); \
		status=$$?; headimpact write && exit $$status

.venv/installed: requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 is needed: install it, or name it with make PYTHON=..."; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -r requirements.txt
	.venv/bin/python -m pip install --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

# pyright needs its node once, so that it works without a network afterwards.
.venv/installed-dev: .venv/installed requirements-dev.txt requirements-cluster.txt requirements-demo.txt
	.venv/bin/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright --version
	touch $@

clean:
	rm -rf .venv .pytest_cache .ruff_cache .import_linter_cache .grimp_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

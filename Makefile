# `make` prints what there is. Everything runs from .venv, which the first target that needs it makes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := detect-secrets==1.5.0 spacy==3.8.18
GITHUB ?= https://github.com
CLONE := GIT_TERMINAL_PROMPT=0 git -c advice.detachedHead=false clone --quiet --depth 1 --filter=blob:none --sparse

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench peers campaign lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with everything the project needs (PYTHON=... chooses another interpreter)

# The stamp is written last: an install that was interrupted is begun again, a finished one costs nothing.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'python 3.11 or newer is needed; name one: make install PYTHON=python3.12' >&2; exit 1; }
	@test -x $(BIN)/python && $(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
		{ echo '`$(PYTHON) -m venv` does not work here; on Debian install python3-venv' >&2; exit 1; }
	@echo "installing `grep -c '^[a-z].*==' requirements.lock` packages into $(VENV), once (about 1.5 GB on disk, 1 to 5 minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@
	@echo "installed; next: make demo"

demo: $(STAMP) ## the whole story on an embedded Kafka and ClickHouse; ends by itself
	$(BIN)/python -m sluicegate.examples.demo $(DEMO_FLAGS)

test: $(STAMP) ## every test, against the same embedded Kafka and ClickHouse
	$(BIN)/python -m pytest

check: $(STAMP) ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP) ## the figures: what a gate costs against a plain relay, latencies, projection
	$(BIN)/sluicegate bench

# The tests of others are in no package. These are the tags whose tests the figures in the README are of.
peers: ## make .peers, an interpreter with what we are compared with, and the tests of others (450 MB)
	@$(PYTHON) -m venv --clear .peers
	@.peers/bin/python -m pip install --quiet --disable-pip-version-check -e '.[presidio]' $(PEERS)
	@{ $(CLONE) --branch v1.5.0 $(GITHUB)/Yelp/detect-secrets .peers/cases/detect-secrets && \
		git -C .peers/cases/detect-secrets sparse-checkout set tests/plugins && \
		$(CLONE) --branch 2.2.363 $(GITHUB)/microsoft/presidio .peers/cases/presidio && \
		git -C .peers/cases/presidio sparse-checkout set presidio-analyzer/tests; } || \
		echo 'no clones from $(GITHUB): `bench detection` leaves out the cases of others' >&2
	@echo "made; next: SLUICEGATE_PEERS=.peers/bin/python $(BIN)/sluicegate bench review detection"

campaign: $(STAMP) ## the long forms of the crash tests, whose last figures stand in the README
	$(BIN)/python -m pytest --campaign -m campaign

# Not `presidio`, which few want and which brings spaCy: every install would carry it.
LOCKED := clickhouse dev embedded engine

lock: $(STAMP) ## compile requirements.lock from pyproject.toml anew (LOCK_FLAGS=--upgrade raises versions)
	$(BIN)/uv pip compile pyproject.toml $(LOCKED:%=--extra %) --universal --python-version 3.11 --generate-hashes \
		--no-header --no-emit-index-url --no-emit-find-links --quiet $(LOCK_FLAGS) --output-file requirements.lock

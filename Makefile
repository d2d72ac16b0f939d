# A fresh machine needs Python 3.11 or newer and make; uv comes into .uv, everything else into .venv.
PYTHON ?= python3
UV := .uv/bin/uv
UV_VERSION := 0.13.9
PY := .venv/bin/python
PORT ?= 4200
EXPORT ?= distrust
DOCUMENTS ?=
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help env run up down test lint types bench clients serve drills

help:
	@echo "make run                the whole pipeline on the sandbox: archives on loopback, tiny base model"
	@echo "make run DOCUMENTS=DIR  the same on your own *.jsonl.zst documents"
	@echo "make up | make down     Prefect server with UI, deployments and two workers"
	@echo "make serve EXPORT=NAME  the API of an exported model on http://127.0.0.1:8080/v1"
	@echo "make test               lint, types and all tests"
	@echo "make bench              every benchmark, one JSON line each"
	@echo "make drills             kills, cancels and restarts real processes, for about 10 minutes"

env: .venv/.installed

.venv/.installed: uv.lock pyproject.toml | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name another with make PYTHON=python3.12")'
	@$(UV) sync --frozen --quiet --compile-bytecode --python $(PYTHON)
	@$(PY) -m storage.blas > /dev/null
	@touch $@

$(UV):
	@$(PYTHON) -m venv .uv
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

run: env
	@$(PY) -m sandbox $(if $(DOCUMENTS),--documents "$(DOCUMENTS)")

up: env
	@$(PY) -m deployments up --port $(PORT)

down: env
	@$(PY) -m deployments down

lint: env
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .

types: env
	@.venv/bin/mypy

# A real llama.cpp, prebuilt, for the tests of GGUF files; where it cannot be had they are skipped and say so.
LLAMA_CLIENT := $(shell node -p 'process.platform === "darwin" ? "mac-arm64-metal" : process.platform + "-" + process.arch' 2>/dev/null)
clients: .clients/.tried

.clients/.tried: tests/clients/versions.txt
	@mkdir -p .clients
	@npm install --prefix .clients --silent --no-save --no-package-lock --ignore-scripts --omit=optional --no-audit --no-fund \
	  $$(sed 's/PLATFORM/$(LLAMA_CLIENT)/' $<) >/dev/null 2>&1 || echo "llama.cpp client not installed: its tests are skipped"
	@touch $@

serve: env
	@$(PY) -m tasks.exports.serve "$(EXPORT)"

test: lint types clients
	@$(PY) -m pytest -n 2 --dist loadfile

bench: env clients
	@for script in benchmarks/[a-z]*.py; do $(PY) -m benchmarks.$$(basename $$script .py) || exit 1; done

drills: env
	@$(PY) -m pytest -m "drill or end_to_end"

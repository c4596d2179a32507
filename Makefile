# make serve                 an example model behind HTTP: EXAMPLE=diabetes PORT=5001 WATCH=folder
# make image                 an image of an example: EXAMPLE=diabetes TARGET=standalone
# make install               what development needs, into .venv
# make lint test test-long   what CI runs; test-long builds images and kills hosts
# make docs docs-parts       the pages as a site in build/site; what is made for them
# make bench                 measurements
# make chaos                 mixed load with random faults: SECONDS=600
# make dist                  wheel and source archive in dist/
# make lock sbom audit       versions and hashes of the images; bills of materials; known faults
# make clean                 remove what was installed, fetched and built
# Each takes PYTHON=python3.12, 3.11 or newer, and VENV=folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXAMPLE ?= diabetes
PORT ?= 5001
WATCH ?=
TARGET ?= standalone
SECONDS ?= 600
# The model of redis-cache is that of diabetes; raw-image has none.
TRAINED := $(if $(filter redis-cache,$(EXAMPLE)),diabetes,$(EXAMPLE))
TRAIN := $(wildcard examples/$(TRAINED)/train.py)
MODELS ?= examples/$(TRAINED)/$(if $(filter two-models,$(EXAMPLE)),azureml-models,model)
# Those that are served; the notebooks are not.
EXAMPLES := $(patsubst examples/%/requirements.txt,%,$(wildcard examples/*/requirements.txt))
SCRIPT := $(wildcard examples/$(EXAMPLE)/score.py)
SAMPLE := $(firstword $(wildcard $(foreach each,sample_input.json samples/*.json *.json sample.png,examples/$(EXAMPLE)/$(each))))
TYPE := $(if $(filter %.png,$(SAMPLE)),image/png,application/json)
# Not in a call itself, which would be cut at the commas.
SERVED := '.[server,schema,sklearn,package,cli]'
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# $(call working,what,command): what is done, and a dot every three seconds while it is.
working = @printf '%s ' '$(1)'; (while sleep 3; do printf .; done) & dots=$$!; trap "kill $$dots" EXIT; $(2) && echo ' done'
# With an older Python pip tries for minutes.
check-python = @said=$$($(PYTHON) --version 2>&1) || said="not to be found"; case "$$said" in \
  "Python 3.1"[1-9]*|"Python 3."[2-9][0-9]*) ;; \
  *) echo "$(PYTHON) is $$said, and Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1;; esac

ifneq ($(filter serve image,$(MAKECMDGOALS)),)
ifeq ($(filter $(EXAMPLE),$(EXAMPLES)),)
$(error There is no example $(EXAMPLE). Examples: $(EXAMPLES))
endif
endif

ifneq ($(if $(filter serve,$(MAKECMDGOALS)),$(shell case '$(PORT)' in (''|*[!0-9]*) echo no;; esac)),)
$(error PORT is $(PORT), and a number is needed: make serve PORT=5002)
endif

.PHONY: help install serve image lint prepare prepare-long test test-long bench chaos docs docs-parts dist lock sbom audit clean
help:
	@sed -n 's/^# \(make \|Each takes\)/\1/p' Makefile

$(VENV)/.serve: pyproject.toml
	$(check-python)
	$(call working,Making $(VENV) with $(PYTHON),$(PYTHON) -m venv $(VENV))
	$(call working,Installing scoring-runtime and scikit-learn into $(VENV),$(PIP) -e $(SERVED))
	@echo 'To use it in a shell: . $(BIN)/activate'
	@touch $@

$(VENV)/.dev: pyproject.toml tests/requirements-worker.txt
	$(check-python)
	$(call working,Making $(VENV) with $(PYTHON),$(PYTHON) -m venv $(VENV))
	$(call working,Installing all that development needs into $(VENV),$(PIP) -e '.[dev]')
	# The worker library asks for Python 3.13 and for a newer SDK; it runs with what is here.
	$(call working,Installing the worker library of Azure Functions,$(PIP) --no-deps --ignore-requires-python -r tests/requirements-worker.txt)
	@echo 'To use it in a shell: . $(BIN)/activate'
	@touch $@

# What an example needs, and its model.
$(VENV)/.example-$(EXAMPLE): $(VENV)/.serve examples/$(EXAMPLE)/requirements.txt
	$(call working,Installing what the example $(EXAMPLE) needs,$(PIP) -r examples/$(EXAMPLE)/requirements.txt $(if $(findstring onnx,$(EXAMPLE)),-e '.[onnx]') $(if $(findstring mlflow,$(EXAMPLE)),-e '.[mlflow]'))
	@touch $@

install: $(VENV)/.dev

serve: $(VENV)/.example-$(EXAMPLE)
	$(if $(TRAIN),$(call working,Training the model of $(TRAINED),$(BIN)/python $(TRAIN)))
	@printf '\nTry it, in another terminal:\n\n  curl -H "Content-Type: $(TYPE)" --data-binary @$(SAMPLE) http://127.0.0.1:$(PORT)/score\n\n'
	@$(if $(filter two-models,$(EXAMPLE)),SCORING_DEFAULT_MODEL=iris) exec $(BIN)/scoring-runtime serve $(if $(SCRIPT),--entry-script $(SCRIPT)) $(if $(TRAIN),--model-dir $(MODELS)) --port $(PORT) $(if $(WATCH),--watch $(WATCH))

image: $(VENV)/.example-$(EXAMPLE)
	$(if $(TRAIN),$(call working,Training the model of $(TRAINED),$(BIN)/python $(TRAIN)))
	$(BIN)/scoring-runtime package $(if $(filter two-models,$(EXAMPLE)),--registry examples/two-models/azureml-models --model iris --model wine --setting SCORING_DEFAULT_MODEL=iris) $$(test ! -d examples/$(EXAMPLE)/model || echo --model $(EXAMPLE)=examples/$(EXAMPLE)/model/.) $(if $(SCRIPT),--entry-script $(SCRIPT) --requirements examples/$(EXAMPLE)/requirements.txt) --target $(TARGET) --output build/$(EXAMPLE)-$(TARGET) --build

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the tests need beside Python packages.
prepare: $(VENV)/.dev
	$(BIN)/python -m tests.hosts.peer && $(BIN)/python -m tests.hosts.azurite && $(BIN)/python -m tests.hosts.worker_packages && $(BIN)/python -m tests.hosts.prometheus && $(BIN)/python -m tests.hosts.kubectl

# And the base image of those that build images.
prepare-long: prepare
	$(BIN)/python -m tests.hosts.images

test: prepare
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long"

test-long: prepare-long
	$(BIN)/python -m pytest -n 3 --dist loadfile -m long

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# Its short form is one of the long tests.
chaos: prepare
	$(BIN)/python -m tests.chaos.mixed --seconds $(SECONDS)

# The site in build/site; a broken link or anchor fails.
docs: $(VENV)/.dev
	$(BIN)/zensical build --strict --clean

# What is made for the pages: pictures, tables, messages.
docs-parts: $(VENV)/.dev
	$(BIN)/python -m docs_parts

dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build

# What each target's image installs: the newest versions, and the hashes of their files.
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet
lock: $(VENV)/.dev
	$(COMPILE) --upgrade requirements.txt --output-file requirements-functions.lock
	$(COMPILE) --upgrade requirements.txt pyproject.toml --extra server --extra blob --output-file requirements-standalone.lock

# Bills of materials (CycloneDX) of the images and of the wheel with all its extras.
SBOM := $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible
sbom: $(VENV)/.dev
	mkdir -p build/sbom
	$(SBOM) requirements-functions.lock --output-file build/sbom/functions.cdx.json
	$(SBOM) requirements-standalone.lock --output-file build/sbom/standalone.cdx.json
	$(COMPILE) pyproject.toml --extra all | $(SBOM) - --output-file build/sbom/wheel.cdx.json

# Known vulnerabilities of what the images install, by the advisories of PyPI.
audit: $(VENV)/.dev
	for each in requirements-*.lock; do $(BIN)/pip-audit --strict --disable-pip --requirement $$each || exit 1; done

clean:
	rm -rf $(VENV) .cache build dist *.egg-info

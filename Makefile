PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXAMPLE ?= diabetes
PORT ?= 5001
WATCH ?=
TARGET ?= standalone
MODELS ?= $(if $(filter two-models,$(EXAMPLE)),azureml-models,model)
SCRIPT := $(wildcard examples/$(EXAMPLE)/score.py)
SAMPLE := $(firstword $(wildcard examples/$(EXAMPLE)/sample_input.json examples/$(EXAMPLE)/samples/*.json examples/$(EXAMPLE)/*.json))

.PHONY: install serve image lint prepare prepare-long test test-long bench docs docs-parts clean

$(VENV)/.serve: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[server,schema,sklearn,package]'
	touch $@

$(VENV)/.dev: pyproject.toml tests/requirements-worker.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	# The worker library asks for Python 3.13 and for a newer SDK; it runs with what is here.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --ignore-requires-python -r tests/requirements-worker.txt
	touch $@

install: $(VENV)/.dev

serve: $(VENV)/.serve
	@$(if $(SCRIPT),,$(BIN)/python -m pip install --quiet --disable-pip-version-check -r examples/$(EXAMPLE)/requirements.txt -e '.[onnx]')
	@$(BIN)/python examples/$(EXAMPLE)/train.py
	@printf '\nTry it, in another terminal:\n\n  curl -H "Content-Type: application/json" -d @$(SAMPLE) http://127.0.0.1:$(PORT)/score\n\n'
	@$(if $(filter two-models,$(EXAMPLE)),SCORING_DEFAULT_MODEL=iris) exec $(BIN)/scoring-runtime serve $(if $(SCRIPT),--entry-script $(SCRIPT)) --model-dir examples/$(EXAMPLE)/$(MODELS) --port $(PORT) $(if $(WATCH),--watch $(WATCH))

image: $(VENV)/.serve
	@$(if $(SCRIPT),,$(BIN)/python -m pip install --quiet --disable-pip-version-check -r examples/$(EXAMPLE)/requirements.txt -e '.[onnx]')
	@$(if $(wildcard examples/$(EXAMPLE)/train.py),$(BIN)/python examples/$(EXAMPLE)/train.py)
	$(BIN)/scoring-runtime package $(if $(filter two-models,$(EXAMPLE)),--registry examples/two-models/azureml-models --model iris --model wine --setting SCORING_DEFAULT_MODEL=iris) $$(test ! -d examples/$(EXAMPLE)/model || echo --model $(EXAMPLE)=examples/$(EXAMPLE)/model/.) $(if $(SCRIPT),--entry-script $(SCRIPT) --requirements examples/$(EXAMPLE)/requirements.txt) --target $(TARGET) --output build/$(EXAMPLE)-$(TARGET) --build

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the tests need beside Python packages.
prepare: $(VENV)/.dev
	$(BIN)/python -m tests.hosts.peer && $(BIN)/python -m tests.hosts.azurite && $(BIN)/python -m tests.hosts.worker_packages

# And the base image of those that build images.
prepare-long: prepare
	$(BIN)/python -m tests.hosts.images

test: prepare
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "not long"

test-long: prepare-long
	$(BIN)/python -m pytest -n 3 --dist loadfile -m long

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# The site in build/site; a broken link or anchor fails.
docs: $(VENV)/.dev
	$(BIN)/zensical build --strict --clean

# What is made for the pages: pictures, tables, messages.
docs-parts: $(VENV)/.dev
	$(BIN)/python -m docs_parts

clean:
	rm -rf $(VENV) .cache build *.egg-info

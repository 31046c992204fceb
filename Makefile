# make train [PRESET=debug] [task=dmc/walker-walk seed=2 …]    train an agent from pixels; options as gje-train takes them
# make test                                                    run the test suite
PYTHON ?= python3
PRESET ?= default
ARGS ?=
OPTIONS = $(filter-out PRESET=% ARGS=% PYTHON=% VENV=% PIP=%,$(MAKEOVERRIDES)) $(ARGS)
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: train test format lint type clean

train: $(VENV)/.installed
	$(VENV)/bin/gje-train preset=$(PRESET) $(OPTIONS)

test: $(VENV)/.installed-dev
	$(VENV)/bin/pytest

format: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

type: $(VENV)/.installed-dev
	$(VENV)/bin/mypy

clean:
	rm -rf $(VENV) build *.egg-info

# torch in the version that the constraints file pins, from whatever index pip is set to; the pin may be removed.
$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "setting up $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@

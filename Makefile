SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python

.PHONY: build
build: $(VENV)/.built

$(VENV)/.built: pyproject.toml
	./scripts/setup.sh $(VENV)
	touch $@

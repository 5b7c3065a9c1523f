# Everything here can be run again and again, on a machine with Python >= 3.11, pip, make
# and, for what needs Debian packages, root and apt-get.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest -q
# What fails is run once more, alone: a second failure is a defect, a first one a race to find.
AGAIN = || { echo "== once more, what failed"; $(PYTEST) --last-failed --last-failed-no-failures=none
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.PHONY: test-oci build check format lint types imports unit test integration compat test-cgroup2 demo bench \
	packages clean

build: $(VENV)/.built

$(VENV)/.built: pyproject.toml
	./scripts/setup.sh $(VENV)
	touch $@

# The tier that needs nothing: no root, no packages.
check: lint types imports unit

lint: build
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

types: build
	$(VENV)/bin/mypy

imports: build
	$(VENV)/bin/lint-imports

unit: build
	$(PYTEST) -m "not integration and not compat and not oci_peer" tests $(AGAIN) \
		-m "not integration and not compat and not oci_peer" tests; }

format: build
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

packages:
	./scripts/packages.sh test

# Every tier: check, then the real kernel, then the real peers.
test: packages check integration compat

integration: build
	$(PYTEST) -m integration tests $(AGAIN) -m integration tests; }

compat: build
	$(PYTEST) -m compat tests $(AGAIN) -m compat tests; }

# The black-box suite for OCI runtimes on every runtime that is here: what runc fails is a wrong test.
test-oci: packages build
	$(PYTEST) tests/oci

# The tests that depend on the cgroup version, on a kernel that has only cgroup v2.
CGROUP2_TESTS ?= $(wildcard tests/integration/cgroups tests/integration/runtime \
	tests/integration/shim tests/integration/snapshots/test_snapshots_devicemapper.py) tests/compat/test_cli_resources.py tests/compat/test_cli_security.py \
	tests/compat/test_cli_run.py tests/compat/test_api_streams.py
test-cgroup2: build
	./scripts/packages.sh cgroup2
	./scripts/cgroup2 --timeout 2400 -- $(PYTEST) -p no:cacheprovider --timeout 600 $(CGROUP2_TESTS)

demo: build
	./scripts/packages.sh demo
	$(PY) scripts/demo.py

bench: build
	./scripts/packages.sh bench
	$(PY) bench/run.py $(BENCH_FLAGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

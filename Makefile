# Everything here can be run again and again, on a machine with Python >= 3.11, pip, make
# and, for what needs Debian packages, root and apt-get.
SHELL := /bin/bash
VENV ?= .venv
PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest -q
TESTS := PYTHON=$(PY) ./scripts/tests
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

.PHONY: test-oci build check format lint types imports unit test integration compat \
	test-cgroup2 cgroup2-quick demo bench packages clean

# Compiled here for machines where Python is told not to write bytecode: every start of an
# engine or a command would compile it all again.
build: $(VENV)/.built
	@$(PY) -m compileall -q src
	@$(PY) -I -S src/gantry/runtime/codefile.py

$(VENV)/.built: pyproject.toml scripts/gantry-runc
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
	$(TESTS) -m "not integration and not compat and not oci_peer" tests

format: build
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

packages:
	./scripts/packages.sh test

# Every tier: check, then the real kernel, then the real peers, then the other kernel.
test: packages check integration compat cgroup2-quick

integration: build
	$(TESTS) -m integration tests

compat: build
	$(TESTS) -m compat tests

# The black-box suite for OCI runtimes on every runtime that is here: what runc fails is a wrong test.
test-oci: packages build
	$(PYTEST) tests/oci

# The tests that depend on the cgroup version, on a kernel that has only cgroup v2.
CGROUP2_TESTS ?= tests/oci tests/integration/runtime tests/integration/shim \
	tests/integration/snapshots/test_snapshots_devicemapper.py \
	tests/compat/test_cli_resources.py tests/compat/test_cli_security.py \
	tests/compat/test_cli_run.py tests/compat/test_api_streams.py tests/compat/test_runtime_peers.py \
	tests/integration/network/test_network_vlan.py
CGROUP2 = -p no:cacheprovider -m "not oci_peer"
test-cgroup2: build
	./scripts/packages.sh cgroup2
	./scripts/cgroup2 --timeout 3600 -- $(PYTEST) $(CGROUP2) --timeout 600 $(CGROUP2_TESTS)

# What is most different there (cgroups, the runtime in its process and as a command, limits by
# the docker CLI), a real systemd, ipvlan and VLANs: part of `make test`, where that kernel is.
VLAN = tests/integration/network/test_network_vlan.py
cgroup2-quick: build
	@./scripts/packages.sh cgroup2 || true; command -v linux.uml > /dev/null || \
		{ echo "cgroup2: skipped, user-mode-linux is not installed"; exit 0; }; \
	./scripts/cgroup2 --timeout 900 -- $(PYTEST) $(CGROUP2) --timeout 300 \
		tests/oci/test_oci_cgroups.py tests/oci/test_oci_systemd.py \
		tests/oci/test_oci_attacks.py tests/integration/runtime tests/compat/test_cli_resources.py \
		$(VLAN)::test_containers_on_the_lan $(VLAN)::test_a_vlan_of_the_parent_is_made_and_removed

demo: build
	./scripts/packages.sh demo
	$(PY) scripts/demo.py

bench: build
	./scripts/packages.sh bench
	$(PY) bench/run.py $(BENCH_FLAGS)
	$(PY) bench/runtime_start.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# Everything from a clean clone, with Debian 12's python3, python3-venv and make, as root or not.
# Each environment is made once and again when what it is made from changes.

PYTHON ?= python3
VERSIONS ?= 3.11 3.12 3.13
# The interpreters of test-all: for each version the first that works. Evaluated only where it is used.
PYTHONS ?= $(shell for v in $(VERSIONS); do \
	for p in $(PYTHON) python$$v "$$HOME"/.pyenv/versions/$$v.*/bin/python; do \
	"$$p" -c 'import ensurepip, sys; sys.exit("%d.%d" % sys.version_info[:2] != "'$$v'")' >/dev/null 2>&1 \
	&& echo "$$p" && break; done; done; true)

SHELL := /bin/sh
.SHELLFLAGS := -euc
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.PHONY: help demo test test-all pytest integration partitions mixtures bench fuzz lint lock deb clean
.SILENT:

DEMO = .venv
# One test environment a Python version; lint and bench use it too.
TEST = .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
FUZZ = .venv-fuzz
SUITE = tests integration
CLUSTERS = $(filter integration%,$(SUITE))
REST = $(filter-out integration%,$(SUITE))
# How many tests run at once; but for those that need the machine for themselves. JOBS=0: one after the other.
JOBS ?= auto

# Clusters: file by file at once, then those that need the machine for themselves. 5: there are none of that kind.
define clusters
$(TEST)/bin/python -m pytest --numprocesses=$(JOBS) --dist=loadfile -m 'not alone' $(CLUSTERS) $(ARGS) || [ $$? = 5 ]
$(TEST)/bin/python -m pytest -m alone $(CLUSTERS) $(ARGS) || [ $$? = 5 ]
endef

# $(call environment,FOLDER,LOCK): FOLDER holds what LOCK pins and, as an editable install, this checkout.
# The lock on this file keeps two makes apart. --no-build-isolation: nothing unpinned takes part in a build.
define environment
exec 9<Makefile; flock 9; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "keydist needs Python 3.11 or newer, and '$(PYTHON)' is not: make PYTHON=..." >&2; exit 1; }; \
want=$$({ pwd; $(PYTHON) -c 'import sys; print(sys.executable, sys.version)'; \
	cat pyproject.toml requirements/build.txt $(2); } | sha256sum); \
[ "$$(cat $(1)/.made-from 2>/dev/null)" = "$$want" ] || { \
	echo "installing $(2) into $(1)"; rm -rf $(1); $(PYTHON) -m venv $(1); \
	pip="$(1)/bin/python -m pip --disable-pip-version-check install -qq"; \
	hashed="$$pip --require-hashes --only-binary :all: --no-binary nkeys --no-build-isolation"; \
	$$hashed -r requirements/build.txt; $$hashed -r $(2); \
	$$pip --no-deps --no-build-isolation -e .; \
	echo "$$want" >$(1)/.made-from; }
endef

help: ## show this
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: ## a whole cluster on this machine; ARGS="--nodes 5"
	$(call environment,$(DEMO),requirements/embedded.txt)
	$(DEMO)/bin/keydist demo $(ARGS)

test: ## all tests, with coverage but for the clusters: their times are those of the program as it is
	$(call environment,$(TEST),requirements/test.txt)
	$(TEST)/bin/coverage erase
	$(TEST)/bin/coverage run -m pytest --numprocesses=$(JOBS) $(REST) $(ARGS)
	$(TEST)/bin/coverage combine --quiet 2>/dev/null # processes that tests kill with -9 leave half a file
	rm -f .coverage.*
	$(TEST)/bin/coverage report
	$(TEST)/bin/coverage report --include='keydist/core/*' --fail-under=100
	$(if $(CLUSTERS),$(clusters))

test-all: ## all tests on each Python found; VERSIONS="3.12 3.13" or PYTHONS="/path/to/python ..."
	echo "Pythons found of $(VERSIONS): $(or $(PYTHONS),none)"
	for python in $(PYTHONS); do $(MAKE) pytest PYTHON="$$python"; done

pytest: ## all tests on one Python; PYTHON=python3.13 SUITE=tests/unit ARGS="-k token"
	$(call environment,$(TEST),requirements/test.txt)
	$(TEST)/bin/python --version
	$(if $(REST),$(TEST)/bin/python -m pytest --numprocesses=$(JOBS) $(REST) $(ARGS))
	$(if $(CLUSTERS),$(clusters))

integration: ## only the tests with real servers and processes
	$(MAKE) pytest SUITE=integration

partitions: ## every part of a cluster cut off, ROUNDS=3 times for SECONDS=8 (5,20) seconds; as root
	$(call environment,$(TEST),requirements/test.txt)
	KEYDIST_TEST_PARTITIONS=$(or $(ROUNDS),3) KEYDIST_TEST_PARTITION_SECONDS=$(or $(SECONDS),8) \
		$(TEST)/bin/python -m pytest -s integration/test_partition.py integration/test_partition_idle.py $(ARGS)

mixtures: ## random mixtures of NATS faults, as root for full disks; ARGS="--runs 100 --jobs 3 --seed 1"
	$(call environment,$(TEST),requirements/test.txt)
	$(TEST)/bin/python -m integration.mixtures $(ARGS)

bench: ## the measurements
	$(call environment,$(TEST),requirements/test.txt)
	$(TEST)/bin/python -m bench $(ARGS)

fuzz: ## atheris on every parser; ARGS="--seconds 600 envelope"
	$(call environment,$(FUZZ),requirements/fuzz.txt)
	$(FUZZ)/bin/python -m fuzz $(ARGS)

lint: ## ruff, mypy, import-linter
	$(call environment,$(TEST),requirements/test.txt)
	$(TEST)/bin/ruff check --quiet
	$(TEST)/bin/ruff format --check --quiet
	$(TEST)/bin/mypy
	$(TEST)/bin/lint-imports --no-logo

deb: ## a Debian package in dist/, for the distribution's Python; DEB_PYTHON=/usr/bin/python3
	package/build-deb $(or $(DEB_PYTHON),/usr/bin/python3)

# uv finds versions that fit all supported Pythons and platforms at once; pip cannot. UV_NO_CONFIG keeps this
# machine's package sources out, so that the hashes are the public ones.
LOCK = env UV_NO_CONFIG=1 UV_CUSTOM_COMPILE_COMMAND="make lock" .venv-lock/bin/uv pip compile --quiet \
	--universal --python-version 3.11 --generate-hashes $(if $(UPGRADE),--upgrade)
lock: ## pin the requirements anew; UPGRADE=1 takes newer versions where the present ones still fit
	[ -x .venv-lock/bin/uv ] || $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check install -qq uv==0.13.8
	$(LOCK) -o requirements/build.txt requirements/build.in
	$(LOCK) -o requirements/runtime.txt pyproject.toml requirements/runtime.in
	$(LOCK) -o requirements/embedded.txt -c requirements/runtime.txt --extra embedded pyproject.toml requirements/runtime.in
	$(LOCK) -o requirements/test.txt -c requirements/embedded.txt -c requirements/build.txt \
		--extra embedded pyproject.toml requirements/runtime.in requirements/test.in
	$(LOCK) -o requirements/fuzz.txt -c requirements/test.txt pyproject.toml requirements/runtime.in requirements/fuzz.in
	for version in 2.10 2.12; do $(LOCK) -o requirements/nats-$$version.txt requirements/nats-$$version.in; done

clean: ## remove what make made
	rm -rf .venv .venv-* .fuzz .nats-servers .coverage .coverage.* build dist keydist.egg-info
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find keydist tests integration bench fuzz -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

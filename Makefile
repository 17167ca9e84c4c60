# Every target starts from a bare machine with python3, gcc and make: .ci/venv.sh brings the rest.
# ARGS goes to pytest (make test ARGS="-k decap"), JOBS is how many processes run it, PYTHON names the interpreter .venv
# is made of.

VENV_FILES := pyproject.toml setup.py .ci/venv.sh
PY := .venv/bin/python
ARGS ?=
JOBS ?= $(shell nproc)
SECONDS ?= 60
# The suite on every processor: whoever is done takes tests of others. JOBS=0 runs it in one process (for --pdb).
SPREAD := -n $(JOBS) --dist worksteal
PYTEST := -m pytest $(SPREAD)
export VXLANFAST_BUILD := release
export PYTHON ?= python3

help:      ## print this list
	@sed -n 's/^\([a-z]*\): .*## /  make \1	/p' Makefile | expand -t 18

demo: .venv/with-all       ## set up, build, and show what vxlanfast does
	@.ci/build.sh
	$(PY) -m vxlanfast.cli.demo

test: build                ## set up, build, and run the suite
	$(PY) $(PYTEST) $(ARGS)

build: .venv/with-test     ## build the core in place, only what changed
	@.ci/build.sh

check: .venv/with-test     ## the suite with bounds checks and asserts on
	.ci/profile.sh check python $(PYTEST) $(ARGS)

asan: .venv/with-test      ## the suite under AddressSanitizer and UndefinedBehaviorSanitizer
	.ci/profile.sh asan python $(PYTEST) --capture=sys -p no:faulthandler $(ARGS)  # a report gets past pytest

coverage: .venv/with-test  ## the suite with line tracing: 95 % of each layer, or it fails
	.ci/profile.sh trace .ci/coverage.sh $(SPREAD) $(ARGS)

lint: .venv/with-test      ## ruff, and no complaint from the Cython compiler
	.ci/lint.sh

types: build               ## mypy --strict, and stubtest of the core
	.ci/types.sh

fuzz: .venv/with-test      ## feed hostile bytes to the core for SECONDS (60)
	PATH="$(CURDIR)/.venv/bin:$$PATH" tests/fuzz/run.sh $(SECONDS)

bench: build               ## ns per packet, by node and by packet size
	$(PY) -m pytest bench --benchmark-enable --benchmark-only $(ARGS)

dist: .venv/with-test      ## sdist and wheel, into dist/
	rm -rf dist
	$(PY) -m build

clean:                     ## remove what was built (.venv stays)
	rm -rf build dist vxlanfast/_ext *.egg-info .coverage* .*_cache .benchmarks .hypothesis
	find _ext -name '*.so' -delete -o -name '*.c' -delete
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.venv/with-%: $(VENV_FILES)
	.ci/venv.sh $*
	@touch $@

.PHONY: help demo test build check asan coverage lint types fuzz bench dist clean

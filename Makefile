# make demo | reproduce | test | bench | docs | clean
#
# Each sets up its own .venv, from nothing but Python 3.10 or newer and a C++17 compiler, and starts within seconds the
# second time. `make test PYTHON=python3.12` takes another Python, in a .venv of its own.
# `make reproduce METHODS=sara` asserts the claims of some methods; without METHODS, of all.
# `make bench ARGS="power_norm --benchmark-autosave"` takes cases, then options of pytest.
# `make test-wheel TORCH=2.14.1` runs those op tests that another torch than the pinned one may break, on
# the built wheel.

PYTHON ?= python3
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check -qq
PINS := tests/constraints.txt
NATIVE := CMakeLists.txt setup.py pyproject.toml $(wildcard csrc/*.cpp csrc/cpu/* csrc/cuda/* csrc/include/pk/*)

.PHONY: demo reproduce test test-wheel bench docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/report.stamp
	@$(RUN) -m probkernels reproduce --quick --force $(DEMO)

# The methods that the package began with.
DEMO := powernorm sara pc_compression circuits adjoint_dpm

reproduce: $(VENV)/report.stamp
	@$(RUN) -m probkernels reproduce --quick --force $(METHODS)

test: $(VENV)/test.stamp
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal

TORCH ?= 2.14.1
WHEEL_TESTS ?= tests/ops tests/compose
OTHER := build/torch-$(TORCH)

test-wheel: build/wheel.stamp
	@echo "Installing the wheel and torch $(TORCH) into $(OTHER) ..."
	@$(PYTHON) -m venv --clear $(OTHER)
	@grep -vE '^(torch|triton|setuptools)==' $(PINS) > $(OTHER)/pins.txt
	@$(OTHER)/bin/python -m pip -qq install --constraint $(OTHER)/pins.txt 'torch==$(TORCH)' "$$(echo build/wheel/*.whl)[test]"
	@OMP_NUM_THREADS=1 $(OTHER)/bin/python -m pytest -n 2 --dist worksteal --other-torch -k 'not cuda_emu' $(WHEEL_TESTS)  # the emulator knows no wheel

build/wheel.stamp: $(VENV)/test.stamp $(shell find python triton_kernels bench -name '*.py')
	@rm -rf build/wheel build/lib build/lib.* build/bdist.*
	@$(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	@touch $@

bench: $(VENV)/bench.stamp
	@$(RUN) -m probkernels bench $(ARGS)

docs: $(VENV)/test.stamp
	@$(RUN) -m mkdocs build --quiet --strict --config-file docs/mkdocs.yml
	@echo "Open site/index.html"

clean:
	rm -rf .venv .venv-* build dist site report.html *.egg-info python/probkernels/_C.*.so
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# The package, editable, with the extra that the stamp is named after. Without build isolation, so that the build tools
# stay where they are and a changed source recompiles alone.
$(VENV)/%.stamp: $(VENV)/tools $(NATIVE)
	@echo "Building probkernels and installing it with its '$*' tools into $(VENV) ..."
	@$(PIP) install --no-build-isolation --constraint $(PINS) --editable '.[$*]'
	@touch $@

need = @$(1) >/dev/null 2>&1 || { echo "probkernels cannot be built: $(2)" >&2; exit 1; }

$(VENV)/tools: $(PINS)
	$(call need,$(PYTHON) -c 'import sys; assert sys.version_info >= (3$(comma) 10)',$(NO_PYTHON))
	$(call need,$(PYTHON) -c 'import ensurepip$(comma) venv',$(NO_VENV))
	$(call need,$(PYTHON) -c '$(FIND_HEADER)',$(NO_HEADER))
	$(call need,command -v $${CXX:-c++},$(NO_COMPILER))
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --constraint $(PINS) setuptools cmake ninja pybind11
	@touch $@

comma := ,
FIND_HEADER := import os, sysconfig; assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))
NO_PYTHON := '$(PYTHON)' is not Python 3.10 or newer. Name one that is: make $(MAKECMDGOALS) PYTHON=python3.12
NO_VENV := '$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv
NO_HEADER := '$(PYTHON)' lacks its C headers. On Debian and Ubuntu: apt install python3-dev
NO_COMPILER := no C++ compiler found. On Debian and Ubuntu: apt install g++; elsewhere set CXX

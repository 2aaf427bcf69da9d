# Farebox: `make demo` and `make test` need Python 3.11 or newer, make, and the package index.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
# Files side by side: what a file shares (a chain, a market) is started once. As they come, so
# that the long ones are not last. Three more than there are cores: many tests wait.
PARALLEL ?= --numprocesses $$(($$(nproc 2>/dev/null || echo 2) + 3)) --maxprocesses 6 \
  --dist loadfile --no-loadscope-reorder

# Where it is set, every process that a test starts compiles every module anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check format bench soak lock clean

demo: $(STAMP)
	@$(BIN)/farebox demo $(ARGS)

test: $(STAMP)
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: $(STAMP)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }

format: $(STAMP)
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP)
	@$(BIN)/python -m tests.bench.run $(ARGS)

soak: $(STAMP)
	@FAREBOX_SOAK=1 $(BIN)/python -m pytest $(ARGS)

# Needs uv (https://docs.astral.sh/uv/); everybody else installs from its result with pip.
lock:
	@uv pip compile pyproject.toml --quiet --generate-hashes --no-emit-index-url --no-annotate \
	  --no-header --universal --python-version 3.11 --prerelease if-necessary-or-explicit \
	  --extra dev --extra devchain --output-file requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Farebox needs Python 3.11 or newer; choose one with: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "This Python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing Farebox into $(VENV) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# `make demo` and `make test` work on a fresh machine: they build the environment first, and only when it is outdated.

PYTHON := $(shell command -v python3.11 || command -v python3)
STAMP := .venv/.installed
SOURCE ?= simulated
BIN := .venv/bin
RUN := env -u PYTHONDONTWRITEBYTECODE
# Two processes test side by side: each takes one core, and no library more.
ONE_CORE := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
PYTEST := $(RUN) $(ONE_CORE) $(BIN)/pytest -n 2 --dist loadfile

.PHONY: install demo test check bench stop

install: $(STAMP) ## The environment alone, in .venv

demo: $(STAMP) ## MLflow and Airflow on this machine, the line on SOURCE (and DATA), then what came out
	$(RUN) $(BIN)/funnel demo --source $(SOURCE) $(if $(DATA),--data "$(DATA)")

test: check ## Everything that must hold
	$(PYTEST) -m slow

check: $(STAMP) ## Lint, format, types, and the tests that train nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(RUN) $(BIN)/mypy
	$(PYTEST) -m "not slow"

bench: $(STAMP) ## Side-by-side measurements, each a table
	$(RUN) $(BIN)/funnel bench

stop: ## End what `make demo` has started
	if test -x $(BIN)/funnel; then $(RUN) $(BIN)/funnel stop; fi

# Without the bytecode every process would compile TensorFlow and Airflow anew.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed; found: $(PYTHON) ($$($(PYTHON) --version 2>&1))." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -c constraints.txt -e '.[bench,test,postgres]'
	touch $@

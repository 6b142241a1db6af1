# `make demo` and `make test` work on a fresh machine: they build the environment first, and only when it is outdated.

PYTHON := $(shell command -v python3.11 || command -v python3)
STAMP := .venv/.installed
SOURCE ?= simulated
BIN := .venv/bin
RUN := env -u PYTHONDONTWRITEBYTECODE

.PHONY: install demo test check bench stop

install: $(STAMP) ## The environment alone, in .venv

demo: $(STAMP) ## MLflow and Airflow on this machine, the line on SOURCE (and DATA), then what came out
	$(RUN) $(BIN)/funnel demo --source $(SOURCE) $(if $(DATA),--data "$(DATA)")

test: check ## Everything that must hold
	$(RUN) $(BIN)/pytest -n 2 --dist loadfile

check: $(STAMP) ## Lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(RUN) $(BIN)/mypy

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

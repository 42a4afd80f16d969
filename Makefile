# `make demo` restores a sample photo, `make test` runs every check; both set up .venv first.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint

demo: .venv/ready
	$(BIN)/python -m instructir_core restore example_workflows/inputs/noisy.png \
		-i "please remove the noise" -o restored/noisy.png --compare restored/compare.png

test: .venv/ready lint
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/mypy

# Made again only when what to install changes, so both commands work without a network after it.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e ".[torch,train,dev]"
	touch $@

# make train and make test do all the set-up on a fresh machine with Python 3.11 or 3.12.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: setup train test lint docs bench clean

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 13) else "error: this Python is not supported.\nexpected: Python 3.11 or 3.12 (compressai has no wheel for 3.13)\ngot: %d.%d\nto do: make PYTHON=python3.12 $(MAKECMDGOALS)" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv: about three minutes and 6 GB, most of it PyTorch"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

train: setup
	$(BIN)/python train.py model=cwam lambda=0.0067

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m mkdocs build --strict

bench: setup
	$(BIN)/python benchmarks/train_step.py

clean:
	rm -rf .venv build site *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

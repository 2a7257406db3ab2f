PYTHON ?= python3
EXTRA ?=
RUN := .venv/bin/python

.PHONY: train lint check test clean

train: .venv/installed
	$(RUN) -m hpe_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

# Most of the tests' time is compilation, which takes least at the lowest level of optimisation; the mathematics is the
# same. What is trained for longer asks for its own level: see `fitted_run` in tests/conftest.py.
PYTEST := XLA_FLAGS=--xla_backend_optimization_level=0 $(RUN) -m pytest
PYTEST += --numprocesses=auto --maxprocesses=4 --dist=worksteal

lint: .venv/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

check: lint
	$(PYTEST) -m "not slow"

test: lint
	$(PYTEST)

# EXTRA names optional packages, such as torch for the parity tests and onnx for those of the export.
.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet -r requirements.txt $(EXTRA)
	touch $@

clean:
	rm -rf .venv runs

PYTHON ?= python3
EXTRA ?=
RUN := .venv/bin/python

.PHONY: train check test clean

train: .venv/installed
	$(RUN) -m hpe_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

PYTEST := $(RUN) -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

# Most of the tests' time is compilation, which takes less at lower levels of optimisation; the mathematics is the same.
check: .venv/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	XLA_FLAGS=--xla_backend_optimization_level=0 $(PYTEST) -m "not slow"

test: check
	XLA_FLAGS=--xla_backend_optimization_level=1 $(PYTEST) -m slow

# EXTRA names optional packages, such as torch for the parity tests and onnx for those of the export.
.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet -r requirements.txt $(EXTRA)
	touch $@

clean:
	rm -rf .venv runs

PYTHON ?= python3
EXTRA ?=
RUN := .venv/bin/python

.PHONY: train test clean

train: .venv/installed
	$(RUN) -m hpe_jax.data.drawn_hands runs/drawn_hands 1500
	$(RUN) -m hpe_jax.main --config=configs/drawn.py --workdir=runs/drawn

test: .venv/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m pytest

# EXTRA names optional packages, such as torch for the parity tests.
.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip
	.venv/bin/pip install --quiet -r requirements.txt $(EXTRA)
	touch $@

clean:
	rm -rf .venv runs

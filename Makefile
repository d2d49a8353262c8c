# Needs Python 3.11 or newer and make, nothing else. VENV and PYTHON may be given: make test VENV=/tmp/v
PYTHON ?= python3
VENV ?= .venv
PEERS ?= .venv-peers
BIN = $(VENV)/bin
# setuptools warns that an editable install is one.
INSTALL = PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check
FOLDERS = data index rerank longdoc bench
SOURCES = retrieval $(FOLDERS) tests

.PHONY: demo test check lint types bench clean

demo: $(VENV)/core.stamp
	$(BIN)/retrieve demo

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest $(ARGS)

check: lint types test

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

# mypy knows no package-dir: show it the folders where they are imported, through links.
types: $(VENV)/dev.stamp
	@rm -rf build/types && mkdir -p build/types/retrieval
	@ln -s $(CURDIR)/retrieval/* $(foreach f,$(FOLDERS),$(CURDIR)/$(f)) build/types/retrieval/
	@ln -s $(CURDIR)/tests build/types/tests
	cd build/types && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml -p retrieval -p tests

# What the peers need goes into a second environment: ours stays as a user has it.
bench: $(VENV)/dev.stamp $(PEERS)/peers.stamp
	$(BIN)/python -m retrieval.bench.engines --peers-python $(PEERS)/bin/python $(ARGS)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, and $(PYTHON) is %d.%d: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) -c constraints.txt torch
	$(INSTALL) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/core.stamp

$(PEERS)/peers.stamp: bench/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r bench/peers.txt
	@touch $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

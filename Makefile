# Needs only python3 (>= 3.10) with venv. `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin
WORKERS ?= auto
PIP := $(RUN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

ZOO ?= .venv-zoo
RIVAL ?= .venv-rival
ZOO_JOBS ?= 1

.PHONY: help demo test test-slow test-zoo lint types docs bench bench-rival clean
help:
	@echo "make demo    prune a network on the embedded digits, and let one doubt (first run installs)"
	@echo "make test    run the tests (first run installs); make test-slow    those that take long"
	@echo "make test-zoo    180 networks of torchvision, timm and transformers, beside Torch-Pruning; writes docs/zoo.md (an hour)"
	@echo "make lint types docs    ruff, pyright, mkdocs;   make bench    the benchmarks; make bench-rival    those beside torch-uncertainty"

demo: $(VENV)/.train
	$(RUN)/dither demo

test: $(VENV)/.dev
	$(RUN)/python -m pytest -n $(WORKERS) -m "not slow"

# Whole studies, killed trainings, most of the thousand random networks. CI runs both.
test-slow: $(VENV)/.dev
	$(RUN)/python -m pytest -n $(WORKERS) -m slow

# Its own environment and its own constraints: a newer torch, and libraries that nothing else here needs. It goes on where
# it was interrupted: ZOO_JOBS networks at a time, each with one thread; see python -m zoo --help.
test-zoo: $(ZOO)/.zoo
	$(ZOO)/bin/python -m zoo.tutorial
	$(ZOO)/bin/python -m zoo --jobs $(ZOO_JOBS)

lint: $(VENV)/.dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(VENV)/.dev
	$(RUN)/pyright

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict --quiet

bench: $(VENV)/.dev
	$(RUN)/python -m benchmarks.draw_and_kl
	$(RUN)/python -m benchmarks.attach_plan
	$(RUN)/python -m benchmarks.graph --threads 1
	$(RUN)/python -m benchmarks.speed_of_shrunk --threads 1
	$(RUN)/python -m benchmarks.training_step
	$(RUN)/python -m benchmarks.prediction
	$(RUN)/python -m benchmarks.shrink_while_training --threads 1
	$(RUN)/python -m benchmarks.integrations --threads 1
	$(RUN)/python -m benchmarks.target --threads 1
	$(RUN)/python -m benchmarks.scaling --threads 1 --large
	$(RUN)/python -m benchmarks.kills --threads 1
	$(RUN)/python -m benchmarks.lost_process --threads 1

# Beside torch-uncertainty, in an environment of its own: it needs torchvision, and with that another torch.
bench-rival: $(RIVAL)/.rival
	$(RIVAL)/bin/python -m benchmarks.mc_batch_norm --threads 1

clean:
	rm -rf $(VENV) $(ZOO) $(RIVAL) site

# One stamp per set of extras: newer than what it was installed from means up to date.
$(RUN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python >= 3.10 is needed, this is %s: make PYTHON=python3.11 ..." % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(RUN)/python
	@echo "installing into $(VENV), a few minutes the first time ..."
	@$(PIP) -e '.[train]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(RUN)/python
	@echo "installing into $(VENV), a few minutes the first time ..."
	@$(PIP) -e '.[train,export,dev]'
	@touch $@ $(VENV)/.train

$(ZOO)/.zoo: pyproject.toml constraints-zoo.txt
	$(PYTHON) -m venv $(ZOO)
	@echo "installing into $(ZOO), several minutes the first time ..."
	$(ZOO)/bin/python -m pip install -qq --disable-pip-version-check -c constraints-zoo.txt -e '.[zoo]'
	@touch $@

$(RIVAL)/.rival: pyproject.toml constraints-rival.txt
	$(PYTHON) -m venv $(RIVAL)
	@echo "installing into $(RIVAL), several minutes the first time ..."
	$(RIVAL)/bin/python -m pip install -qq --disable-pip-version-check -c constraints-rival.txt -e '.[train,rival]'
	@touch $@

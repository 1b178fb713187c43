# `make help` says what there is.
VENV ?= .venv
PYTHON ?= python3

# With PY= the environment is the caller's: nothing is made or installed.
ifdef PY
prepare = check
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
prepare = setup
override PY = $(VENV)/bin/python
endif

# What the metadata promise, and the tests that need no toolbox.
OLDEST_PYTHON ?= python$(shell sed -n 's/^python_requires = >=//p' setup.cfg)
OLDEST_TORCH ?= $(shell sed -n 's/^ *torch>=/torch==/p' setup.cfg)
# What the site needs: no PyTorch and no toolbox, as the API is read from the source.
DOCS_VENV ?= $(VENV)-docs
DOCS = $(shell sed -n "/^docs =/,/^[^ ]/s/^ \+\(.*\)/'\1'/p" setup.cfg)
TORCH_ALONE = tests/ops tests/layers tests/test_import.py

# A worker computes with one thread (tests/conftest.py) and holds about a gigabyte; what a
# slow test starts holds as much again. PYTEST_XDIST_AUTO_NUM_WORKERS= sets another number.
PYTEST = pytest -n logical --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-torch test-oldest test-openmmlab gpu-check lint \
	docs setup check clean
export VENV PYTHON TORCH MAX_JOBS

help:
	@echo 'PY=<python>   for demo, test, test-slow, gpu-check and lint: an environment with'
	@echo '              MMDetection that you have, used as it is. Without it, the first'
	@echo '              command makes $(VENV), and compiles MMCV for it.'
	@echo
	@echo 'make demo     make a small data set, train a Mask R-CNN with UBN and one with'
	@echo '              BatchNorm, show both in one table and in pictures'
	@echo '              DATA=<folder>  your COCO-format folder instead: train/, val/,'
	@echo '                             instances_train.json, instances_val.json'
	@echo '              SIZE=<pixels>  size to resize images to; by default it fits them'
	@echo '              ARGS=<options> of tools/demo.py'
	@echo 'make test     run the quick tests; ARGS=<options> of pytest'
	@echo 'make test-slow   run the others: trainings, exports, several processes'
	@echo '              Tests in environments of their own, beside $(VENV):'
	@echo '  make test-openmmlab   with the last releases of mmengine, mmcv and mmdet'
	@echo '  make test-torch       what needs only PyTorch, without a toolbox'
	@echo '  make test-oldest      that, with the oldest PyTorch ($(OLDEST_TORCH)) on the'
	@echo '                        oldest Python (OLDEST_PYTHON=$(OLDEST_PYTHON))'
	@echo 'make gpu-check   check and measure every layer on this machine'"'"'s GPU, in about'
	@echo '              8 minutes; ARGS=<options> of python -m ubn_mmdet.gpu_check'
	@echo 'make lint     run the linters and the type checker'
	@echo 'make docs     build the docs site in site/, in an environment of its own'
	@echo '              (now $(DOCS_VENV); DOCS_VENV=<folder> names another)'
	@echo 'make setup    make the virtual environment (the other commands do it if needed)'
	@echo 'make clean    delete build leftovers; the environment and results stay'
	@echo
	@echo 'VENV=<folder>      the virtual environment (now $(VENV))'
	@echo 'PYTHON=<command>   the Python that makes it (now $(PYTHON)); 3.10 to 3.13'
	@echo 'TORCH=<words>      what pip installs as PyTorch: "torch==2.13.0", or with options.'
	@echo '                   On a GPU machine, name the build that fits its driver.'
	@echo '                   Settings of pip (PIP_INDEX_URL) apply as always.'
	@echo 'MAX_JOBS=<number>  compilers at once while MMCV is built; all cores by default'
	@echo 'CXX=<command>      the C++ compiler; c++ by default'

demo: $(prepare)
	$(PY) tools/demo.py $(if $(DATA),--data '$(DATA)') $(if $(SIZE),--size $(SIZE)) $(ARGS)

test: $(prepare)
	$(PY) -m $(PYTEST) --maxprocesses 8 -m 'not slow' $(ARGS)

test-slow: $(prepare)
	$(PY) -m $(PYTEST) --maxprocesses 4 -m slow $(ARGS)

test-openmmlab:
	@VENV=$(VENV)-openmmlab TOOLBOX=openmmlab .ci/setup.sh
	TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 $(VENV)-openmmlab/bin/python -m $(PYTEST) \
		--maxprocesses 4 $(ARGS)

test-torch:
	@VENV=$(VENV)-torch TOOLBOX=none .ci/setup.sh
	$(VENV)-torch/bin/python -m $(PYTEST) --maxprocesses 8 $(TORCH_ALONE) $(ARGS)

# The index may have this PyTorch with CUDA only: some 5 GiB on disk.
test-oldest:
	@VENV=$(VENV)-oldest TOOLBOX=none PYTHON=$(OLDEST_PYTHON) TORCH=$(OLDEST_TORCH) \
		.ci/setup.sh
	$(VENV)-oldest/bin/python -m $(PYTEST) --maxprocesses 8 $(TORCH_ALONE) $(ARGS)

gpu-check: $(filter setup,$(prepare))  # with PY= no toolbox is needed
	$(PY) -m ubn_mmdet.gpu_check $(ARGS)

lint: $(prepare)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: $(DOCS_VENV)/bin/mkdocs
	$< build

$(DOCS_VENV)/bin/mkdocs: setup.cfg
	$(PYTHON) -m venv $(DOCS_VENV)
	$(DOCS_VENV)/bin/pip install --quiet $(DOCS)
	@touch $@

setup:
	@.ci/setup.sh

check:
	@$(PY) -m ubn_mmdet

clean:
	rm -rf build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

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

.DEFAULT_GOAL := help
.PHONY: help demo test lint setup check clean
export VENV PYTHON TORCH MAX_JOBS

help:
	@echo 'make demo     set up, make a small data set, train a Mask R-CNN with UBN and one'
	@echo '              with BatchNorm, show both in one table and in pictures'
	@echo '              DATA=<folder>  a COCO-format folder instead: train/, val/,'
	@echo '                             instances_train.json, instances_val.json'
	@echo '              SIZE=<pixels>  to resize images to; by default it fits them'
	@echo '              ARGS=<options> of tools/demo.py'
	@echo 'make test     set up, run the tests; ARGS=<options> of pytest'
	@echo 'make lint     set up, run the linters and the type checker'
	@echo 'make setup    make the virtual environment (the others do it if need be)'
	@echo 'make clean    delete build leftovers; the environment and results stay'
	@echo
	@echo 'VENV=<folder>      the virtual environment (now $(VENV))'
	@echo 'PYTHON=<command>   what it is made with (now $(PYTHON)); 3.10 to 3.13'
	@echo 'TORCH=<words>      given to pip to install PyTorch, "torch==2.13.0" or with'
	@echo '                   options; on a GPU machine, name the build that fits its'
	@echo '                   driver. Settings of pip (PIP_INDEX_URL) apply as always.'
	@echo 'MAX_JOBS=<number>  compilers at once while MMCV is built; all cores by default'
	@echo 'PY=<python>        use this existing environment with MMDetection as it is'

demo: $(prepare)
	$(PY) tools/demo.py $(if $(DATA),--data '$(DATA)') $(if $(SIZE),--size $(SIZE)) $(ARGS)

test: $(prepare)
	$(PY) -m pytest $(ARGS)

lint: $(prepare)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

setup:
	@.ci/setup.sh

check:
	@$(PY) -m ubn_mmdet

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# The few verbs of this project. `make` lists them.
PYTHON ?= python3
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SOURCES := pyproject.toml constraints.txt $(shell find runtime train m2l_export -type f -not -path '*/__pycache__/*')
DEMO_OUT ?= demo
# Tests run in as many processes as there are workers, each on a core of its own.
WORKERS ?= 2
PYTEST_WORKERS = --numprocesses $(WORKERS) --dist worksteal

.PHONY: help demo test test-runtime test-slow lint types docs dist example-masks embedded-model shipped-segmenter clean

help:
	@echo "make demo           lesions from the example masks, and a contact sheet, in $(DEMO_OUT)/"
	@echo "make test           all tests but the slow ones, in an environment of their own (.venv)"
	@echo "make test-runtime   the runtime's tests where neither PyTorch nor onnx is installed (.venv-runtime)"
	@echo "make test-slow      the slow tests, which make test leaves out (docs/testing.md)"
	@echo "make lint types     ruff and import-linter; mypy --strict"
	@echo "make docs           the documentation as pages, in site/; a broken link fails (.venv-docs)"
	@echo "make dist           wheel and sdist, in dist/, checked (.venv-dist)"
	@echo "make embedded-model RUN=run   export a run of scripts/train_shipped_model.py as the model inside the package"
	@echo "make shipped-segmenter DATA=data   train the segmenter inside the package anew (15 minutes of CPU)"

demo: .venv-demo/installed
	.venv-demo/bin/m2l synth runtime/m2l_runtime/data/masks $(DEMO_OUT)/images \
	  --contact-sheet $(DEMO_OUT)/contact-sheet.png --overwrite
	@echo "Look at $(DEMO_OUT)/contact-sheet.png; the images are in $(DEMO_OUT)/images."

test: .venv/installed
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
	.venv/bin/lint-imports
	.venv/bin/mypy
	.venv/bin/pytest $(PYTEST_WORKERS) -m "not slow"

test-slow: .venv/installed
	.venv/bin/pytest $(PYTEST_WORKERS) -m slow

test-runtime: .venv-runtime/installed
	M2L_WITHOUT_TORCH=1 .venv-runtime/bin/pytest $(PYTEST_WORKERS) -m "not slow and not once" tests/runtime

lint: .venv/installed
	.venv/bin/ruff check . && .venv/bin/ruff format --check .
	.venv/bin/lint-imports

types: .venv/installed
	.venv/bin/mypy

docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict
	@echo "Open site/index.html."

dist: .venv-dist/installed
	rm -rf dist
	.venv-dist/bin/python -m build --outdir dist
	.venv-dist/bin/twine check --strict dist/*

example-masks: .venv/installed
	.venv/bin/python scripts/draw_example_masks.py runtime/m2l_runtime/data/masks

embedded-model: .venv/installed
	.venv/bin/m2l export "$(RUN)/latest_net_G.pth" runtime/m2l_runtime/data/bundle --overwrite --weights fp16 \
	  --precision fp32,bf16,int8 --engines openvino --min-contrast 15 --random-orientation --require $(if $(MASKS),--calibrate "$(MASKS)") \
	  --name "m2l embedded model" --origin "$$(cat scripts/embedded_model_origin.md)"

# One thread: the same pairs then give the same weights.
shipped-segmenter: .venv/installed
	.venv/bin/m2l evaluate segmenter "$(DATA)" segmenter.pt --threads 1 --overwrite
	.venv/bin/python scripts/ship_segmenter.py segmenter.pt "$(DATA)"

# Environments. Files are not compiled on installation: Python compiles the few that are used when they are.
.venv-demo/installed: $(SOURCES)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "m2l needs Python 3.11 or later, this is " + sys.version.split()[0] + "; try: make demo PYTHON=python3.12")'
	$(PYTHON) -m venv .venv-demo
	.venv-demo/bin/python $(PIP_INSTALL) --no-compile '.[cpu]'
	@touch $@

# PyTorch goes in first and alone: some of the others would fetch the newest one, whatever its size. torch-fidelity goes
# in without torchvision, of which the tests use a stub: it would fetch another PyTorch.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "m2l needs Python 3.11 or later, this is " + sys.version.split()[0] + "; try: make test PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP_INSTALL) --no-compile torch
	.venv/bin/python $(PIP_INSTALL) --no-compile --editable '.[cpu,openvino,tensorrt-rtx,masks,train,export,evaluate,photo,parquet,serve,dev]'
	.venv/bin/python $(PIP_INSTALL) --no-compile --no-deps torch-fidelity
	@touch $@

.venv-runtime/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-runtime
	.venv-runtime/bin/python $(PIP_INSTALL) --no-compile --editable '.[cpu,openvino,masks,serve,test]'
	@touch $@

# The package itself is not installed here, as pages are made from sources: only what its extra `docs` lists.
.venv-docs/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	$(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' \
	  > .venv-docs/requirements.txt
	.venv-docs/bin/python $(PIP_INSTALL) --requirement .venv-docs/requirements.txt
	@touch $@

.venv-dist/installed: constraints.txt
	$(PYTHON) -m venv .venv-dist
	.venv-dist/bin/python $(PIP_INSTALL) build twine
	@touch $@

clean:
	rm -rf .venv .venv-demo .venv-runtime .venv-docs .venv-dist $(DEMO_OUT) site dist .mypy_cache .ruff_cache .pytest_cache

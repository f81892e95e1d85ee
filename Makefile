# make demo     label the bundled digits and say how many are right
# make test     the whole test suite       (ARGS="-k weed -x" goes to pytest)
# make torture  the slow fault tests
# make gpu      what only an accelerator shows, as a table in build/gpu   (GPU_PYTHON=python that has torch with CUDA)
# make fake-gpu  the path on CUDA without a GPU: torch's CUDA build (0.5 GB) on a runtime made of host memory
# make lint     format, lint and type checks, as in CI      make format  mend what a machine can mend
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
# Not compiling ahead saves a minute: of these packages' thousands of files only a few are ever imported.
PIP    := $(PY) -m pip --disable-pip-version-check install --quiet --no-compile -c constraints.txt
# ... and those are compiled here once, by one process, rather than by every process of a first run at the same time;
# or by every process of every run, for 13 s, where PYTHONDONTWRITEBYTECODE is set, as in many containers.
WARM   := import torch, pyarrow.dataset, ray.data, s3fs, pipeline.run, pipeline.engine.predictor, beit_core.checkpoint
unexport PYTHONDONTWRITEBYTECODE
TORCH  := $(shell sed -n 's/^torch==//p' constraints.txt)
DEMO   := build/demo/labels
ARGS   ?=
GPU_PYTHON ?= python3

.PHONY: install install-test demo test torture gpu fake-gpu lint format clean

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test

$(PY):
	$(PYTHON) -m venv $(VENV)

# The stamps make a second call install nothing; a changed pin or dependency makes it install again.
# torch goes first and alone, so that a CPU wheel the user's pip is set up to find is taken and not replaced.
$(VENV)/.installed: constraints.txt pyproject.toml | $(PY)
	$(PIP) torch==$(TORCH)
	$(PIP) -e .
	@$(PY) -c "$(WARM)"
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) -e '.[test]'
	@$(PY) -c "import transformers"
	@touch $@

demo: install
	@$(PY) jobs/label.py --local --input tests/data/digits/shards --output $(DEMO) --model tests/data/digits/model --keep cls --dtype float32 --overwrite
	@$(PY) jobs/evaluate.py $(DEMO) --truth cls
	@$(PY) jobs/report.py $(DEMO)
	@echo
	@echo "Next, your own images (a folder, tars or s3://...) on all cores or GPUs through Ray, with a published BEiT:"
	@echo "  $(PY) jobs/label.py --input FOLDER --output OUT --model microsoft/beit-base-patch16-224"

# In the order of their folders, which has the slow tests of Ray early: at the end one process would wait for them.
test: install-test
	$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

torture: install-test
	$(PY) -m pytest -q -m torture $(ARGS)

gpu:
	$(GPU_PYTHON) -m tests.gpu $(ARGS)

fake-gpu: install-test
	$(PY) -m pytest -q -m fake_gpu tests/fake_cuda $(ARGS)

lint: install-test
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

format: install-test
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find beit_core pipeline jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +

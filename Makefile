# Targets that need the environment create it first; `make` lists the targets.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# exists during installation: after an interruption the environment looks complete, but is not
UNFINISHED := $(VENV)/.unfinished
# CPU=1: without the libraries for a GPU; kept by later calls, CPU=0 goes back
CPU ?= $(shell test -e $(VENV)/.cpu && echo 1)
AS_ASKED := test $(if $(filter 1,$(CPU)),-e,! -e) $(VENV)/.cpu
TORCH := torch|torchvision|torchaudio
USABLE := { test ! -e $(UNFINISHED) && $(AS_ASKED) && { $(RUN) -m pip --version || $(RUN) -m ensurepip; }; } >/dev/null 2>&1
# makes libraries behave as on a processor without AVX-512 and bfloat16 instructions
AVX2_ONLY := ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2
COMPILER := command -v $(CXX) c++ g++ clang++ >/dev/null

# read files as UTF-8 in any locale
export PYTHONUTF8 := 1

SCALE ?= paper
SEEDS ?= 0
JOBS ?= 1
LAUNCHER ?= local
MODELS ?=
TASKS ?=
GROUPS ?= pixels speech forecasting density language
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup gone environment compiler demo test test-fast nightly lint format licences lra-all beyond tables report audit bench docs dashboard wandb-sync data lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv from the locked requirements (CPU=1: without libraries for a GPU)

# also runs if the Python of .venv was removed or CPU= asks for the other kind; a second make waits for the first
$(READY): requirements.txt pyproject.toml $(shell test -x $(RUN) && $(AS_ASKED) || echo gone)
	@{ exec 9>.venv.tmp; } 2>/dev/null || { echo "make: $(CURDIR) is not writable; hint: clone the repository to a folder you can write to"; exit 2; }; \
	  ! command -v flock >/dev/null || flock -n 9 || { echo "another make is setting up $(VENV); waiting for it to finish"; flock 9; }; \
	  $(MAKE) --no-print-directory environment

gone:

UV_INSTALL = $(VENV)/bin/uv pip install $$(test -t 2 || echo --quiet) --python $(RUN)
# PyTorch's packages for the CPU are on its own index and have no hash here
INSTALL = $(if $(filter 1,$(CPU)),\
  awk '/^[^ ]/ { keep = !/^($(TORCH)|triton|nvidia-.*|cuda-.*)==/ } keep' requirements.txt >$(VENV)/.requirements.txt && \
  $(UV_INSTALL) --require-hashes --no-deps -r $(VENV)/.requirements.txt && \
  $(UV_INSTALL) --no-deps --torch-backend cpu $$(sed -nE 's/^(($(TORCH))==[^ ]*).*/\1/p' requirements.txt),\
  $(UV_INSTALL) --require-hashes -r requirements.txt)

environment:
	@$(USABLE) || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "make: found $$($(PYTHON) --version 2>&1), but Python 3.11 to 3.13 is needed; hint: make PYTHON=/path/to/python3.11 ..."; exit 2; }
	@$(USABLE) || $(PYTHON) -m venv --clear $(VENV) || \
	  { echo "make: could not create $(VENV), see above; hint: if ensurepip is missing, on Debian: apt-get install python3-venv"; exit 2; }
	@echo "setting up $(VENV) ($(if $(filter 1,$(CPU)),without libraries for a GPU,about 5 GB), once)"
	@test -n "$(CPU)" || command -v nvidia-smi >/dev/null || test "$$(uname)" != Linux || \
	  echo "make: no NVIDIA GPU found, and 3.4 GB of this are for one; hint: make setup CPU=1"
	@touch $(UNFINISHED) $(if $(filter 1,$(CPU)),$(VENV)/.cpu); \
	  PIP_USER=0 $(RUN) -m pip install --quiet --disable-pip-version-check "$$(sed -n 's/^\(uv==[^ ]*\).*/\1/p' requirements.txt)" && \
	  $(INSTALL) && \
	  $(VENV)/bin/uv pip install --quiet --python $(RUN) --no-deps --no-build-isolation -e . && rm $(UNFINISHED) || \
	  { find $(VENV)/lib -maxdepth 2 -name site-packages -newer $(UNFINISHED) | grep -q . || rm -f $(UNFINISHED); \
	    echo "make: $(VENV) is incomplete, see above; hint: repeat the command to continue" \
	    "(PIP_INDEX_URL and UV_INDEX_URL choose a mirror, UV_CACHE_DIR the cache)"; exit 2; }
	@touch $(READY)
	@$(COMPILER) || echo "make: no C++ compiler found, S4 uses its slow reference kernel; hint: on Debian, apt-get install g++"

compiler:
	@$(COMPILER) || { echo "make: the tests need a C++ compiler; hint: on Debian, apt-get install g++"; exit 2; }

demo: $(READY)  ## train S4 and the Transformer on ListOps and Pathfinder, then table and report (minutes on two cores)
	@$(RUN) scripts/demo.py $(ARGS)

test: compiler lint  ## lint, types and all tests but the nightly ones
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist worksteal -m "not nightly" $(ARGS)

test-fast: $(READY)  ## only the fast tests
	@$(RUN) -m pytest -m "not nightly and not slow" $(ARGS)

nightly: $(READY)  ## long tests (kills, faults, thousands of inputs, large steps), then all others limited to AVX2
	@OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile -m nightly $(ARGS)
	@OMP_NUM_THREADS=1 $(AVX2_ONLY) $(RUN) -m pytest -n 2 --dist worksteal -m "not nightly" $(ARGS)

lint: $(READY)  ## ruff, import contracts and mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check --quiet . || { echo "make: ruff format would change files; hint: make format"; exit 1; }
	@$(RUN) -c "from importlinter.cli import lint_imports_command as run; run()" --no-cache >.lint-imports.tmp || { cat .lint-imports.tmp; exit 1; }; rm -f .lint-imports.tmp
	@$(RUN) -m mypy

format: $(READY)  ## fix and format the code with ruff
	@$(VENV)/bin/ruff check --fix --quiet . ; $(VENV)/bin/ruff format --quiet .

licences: $(READY)  ## list the licence of every installed package
	@$(RUN) -m piplicenses --from=mixed --order=license

lra-all: $(READY)  ## train models x tasks x seeds, then the tables; resumes (SCALE= MODELS= TASKS= SEEDS= JOBS= LAUNCHER=)
	@$(RUN) scripts/lra_all.py --scale "$(SCALE)" --models "$(MODELS)" --tasks "$(TASKS)" --seeds "$(SEEDS)" --jobs "$(JOBS)" \
	  --launcher "$(LAUNCHER)" $(ARGS)

beyond: $(READY)  ## the S4 paper's other tables: pixels, speech, forecasts, density, language (GROUPS= SEEDS= JOBS= LAUNCHER=)
	@for group in $(GROUPS); do $(RUN) scripts/lra_all.py --group $$group --models "$(MODELS)" --seeds "$(SEEDS)" \
	  --jobs "$(JOBS)" --launcher "$(LAUNCHER)" $(ARGS) || exit; done

tables: $(READY)  ## comparison tables from the records (Markdown, CSV, LaTeX)
	@$(RUN) scripts/tables.py $(ARGS)

report: $(READY)  ## HTML page with tables, learning curves and all runs
	@$(RUN) scripts/report.py $(ARGS)

audit: $(READY)  ## check that records, tables and code agree
	@$(RUN) scripts/audit.py $(ARGS)

bench: $(READY)  ## kernel, layer, library and S4 paper efficiency benchmarks on this machine
	@$(RUN) scripts/bench.py kernel $(ARGS)
	@$(RUN) scripts/bench.py layer $(ARGS)
	@$(RUN) scripts/bench.py library $(ARGS)
	@$(RUN) scripts/bench.py lssl $(ARGS)
	@$(RUN) scripts/bench.py attention $(ARGS)

docs: $(READY)  ## documentation as a site, with pages of all modules: build/site/index.html
	@$(RUN) -m mkdocs build --strict --quiet $(ARGS)

dashboard: $(READY)  ## browse local W&B runs in the terminal
	@compgen -G "wandb/*run-*" >/dev/null || { echo "make: no local W&B runs; hint: make demo"; exit 2; }
	@test -t 0 -a -t 1 || { echo "make: the dashboard needs a terminal; hint: make report writes an HTML page"; exit 2; }
	@$(RUN) -m wandb leet ./wandb

wandb-sync: $(READY)  ## upload offline W&B runs
	@compgen -G "wandb/offline-run-*" >/dev/null || { echo "make: no offline W&B runs to upload"; exit 2; }
	@$(RUN) -c 'import sys; from lra.tracking import has_key; sys.exit(not has_key())' 2>/dev/null || \
	  { echo "make: no W&B key on this machine; hint: $(RUN) -m wandb login"; exit 2; }
	@echo "uploading new offline runs"
	@WANDB_X_GRAPHQL_RETRY_MAX=3 $(RUN) -m wandb sync --yes </dev/null

data: $(READY)  ## prepare the data of all six tasks
	@for task in listops text retrieval image pathfinder pathx; do $(RUN) scripts/prepare_data.py prepare task=$$task || exit; done

lock: $(READY)  ## update requirements.txt from pyproject.toml
	@$(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	  --no-annotate --no-header --quiet --output-file requirements.txt

clean:  ## remove caches; keeps data, runs and results
	@rm -rf .pytest_cache .mypy_cache .ruff_cache outputs multirun
	@find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

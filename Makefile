# `make` prints the commands.
PROFILE ?= quick
CORPUS ?= simulated
PYTHON ?= python3
EXECUTOR ?= local
REPO ?=
ONLY ?=

BIN := .venv/bin
READY := .venv/ready
READY_DEV := .venv/ready-dev
LINTER := build/lint
SCRIPTS := osteo_utils/widgets book/assets/js
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# In a container everybody is root, and JupyterLab asks whether that is meant.
ALLOW_ROOT := $(if $(filter 0,$(shell id -u)),--allow-root)

.PHONY: help address app book clean clean-runs editions lab lint pdf release study test test-pages test-quick test-slurm versions

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "PROFILE=smoke|quick|full and CORPUS=simulated|kaggle|PATH go with make book."

book: $(READY) ## build the book: environment, corpus, chapters, pages
	@$(PYTHON) book/locked.py build/book.lock $(BIN)/python book/build.py --profile "$(PROFILE)" --corpus "$(CORPUS)"

editions: $(READY) ## write the notebooks for students and instructors, quizzes and assignments alone
	@$(BIN)/python book/editions.py build/editions
	@$(BIN)/python book/quizzes.py build/quizzes
	@$(BIN)/python book/assignments.py build/assignments

pdf: book $(READY_DEV) ## print the book with Chromium into build/<corpus>/<profile>/book.pdf
	@$(BIN)/python book/pdf.py "$(PROFILE)" "$(CORPUS)"

release: book ## pack pages, editions, quizzes and the package into build/release
	@$(BIN)/python book/release.py "$(PROFILE)" "$(CORPUS)" build/release

address: ## say where this repository lives: make address REPO=owner/name
	@$(PYTHON) book/address.py "$(REPO)"

study: $(READY) ## train the reference study anew, here or with EXECUTOR=slurm: days on two cores
	@$(BIN)/python -m snakemake --snakefile book/study.smk --profile profiles/$(EXECUTOR)

test: lint ## lint, then test: units, chapters in small, pages in a browser
	@$(BIN)/python -m pytest -n 2 --dist loadfile

test-quick: $(READY_DEV) ## what to run before every commit: ruff, chapters' form, units without a network
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile --quick tests/unit
	@$(BIN)/python -m pytest -q -n 2 -k source tests/notebooks/test_notebooks.py

test-pages: $(READY_DEV) ## look at the pages of a profile in a browser
	@OSTEO_TESTED_PROFILE="$(PROFILE)" $(BIN)/python -m pytest -n 2 --dist loadfile tests/book

test-slurm: $(READY_DEV) ## run a small study on a real Slurm on this machine, as root
	@$(BIN)/python tests/slurm.py

versions: $(READY_DEV) ## test with the lowest, Colab's and the newest versions of the packages
	@$(PYTHON) book/locked.py build/versions.lock $(BIN)/python tests/versions.py $(ONLY)

lint: $(READY_DEV) $(LINTER)/ready ## ruff, mypy and eslint
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@cp book/eslint.config.mjs $(LINTER)
	@$(BIN)/node $(LINTER)/node_modules/eslint/bin/eslint.js --max-warnings 0 -c $(LINTER)/eslint.config.mjs $(SCRIPTS)

lab: $(READY) ## open the chapters in JupyterLab
	@$(BIN)/jupyter lab --notebook-dir=. $(ALLOW_ROOT) notebooks

app: $(READY) ## open the Streamlit app on the runs that are there
	@$(BIN)/streamlit run interface/app.py

clean: ## remove build and simulated corpora; runs, downloads and .venv stay
	rm -rf build corpora/simulated-* .snakemake

clean-runs: ## remove every trained network with its scores, of every corpus
	rm -rf runs

# An installation that was cut short is thrown away and made anew.
$(READY): requirements.txt constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "No program $(PYTHON) here. Install Python 3.11, 3.12 or 3.13, or name one: make book PYTHON=python3.13"; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed (TensorFlow has no other), found %d.%d. Name one: make book PYTHON=python3.13" % v)'
	@echo "Installing the Python packages into .venv (once, some minutes)"
	@$(PYTHON) book/locked.py .venv.lock sh -ec '\
	  if [ -e .venv/unfinished ]; then rm -rf .venv; fi; \
	  $(PYTHON) -m venv .venv; touch .venv/unfinished; \
	  $(PIP_INSTALL) -r requirements.txt; \
	  rm .venv/unfinished; touch $(READY)'

$(READY_DEV): $(READY) requirements-dev.txt
	@$(PYTHON) book/locked.py .venv.lock $(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

# The linter of the JavaScript, away from the sources, in the versions of the lock file.
$(LINTER)/ready: $(READY) book/package-lock.json
	@echo "Installing the linter of the JavaScript (once)"
	@mkdir -p $(LINTER)
	@cp book/package.json book/package-lock.json book/.npmrc $(LINTER)
	@$(BIN)/npm ci --prefix $(LINTER) --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

# Two commands do it all: `make run` opens the window, `make test` runs every check.
# The first use of either makes .venv and installs what the locks in packaging/ name.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# The first Python of 3.11 to 3.14 that runs; PYTHON=... on the command line chooses another.
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11 python3.14 /usr/bin/python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null \
	&& { echo $$python; break; }; done)
TOOL := .venv/bin

# Two tests at a time, a thread each: real models learn in them, and more threads than cores slow all of them down.
TEST_JOBS ?= 2
test: export OMP_NUM_THREADS ?= 1
test: export QLORA_STUDIO_AUDIT = 1

CARD_BENCHMARKS := train decode kernels memory_grid whole_job_card

APPLICATIONS := $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/applications

.PHONY: help run test faults audit lint format bench gallery desktop-entry set-up set-up-checks

help:
	@echo "make run            open the window (without a display: train the sample model in the terminal)"
	@echo "make test           every check: format, lint, types, import contracts, tests"
	@echo "make faults         show every fault of docs/RELIABILITY.md, also those that take minutes"
	@echo "make audit          ask PyPI for known weaknesses of the locked packages (needs the network)"
	@echo "make lint           the same without the tests"
	@echo "make bench          measure what needs no card (CARD_BENCHMARKS say how they are run on one)"
	@echo "make gallery        take the pictures of docs/screenshots, with runs that are really trained"
	@echo "make format         put the source into its format"
	@echo "make desktop-entry  put QLoRA Studio into this user's application menu"

run: set-up
	@$(TOOL)/qlora-studio

test: lint
	@echo "Tests"
	@export QT_QPA_PLATFORM=offscreen; $(TOOL)/pytest -q -n $(TEST_JOBS) --dist worksteal -m "not slow_fault" || { \
		echo "What failed, once more and one at a time: a wait can be too short beside other tests"; \
		$(TOOL)/pytest -q --last-failed --last-failed-no-failures=none -m "not slow_fault"; }

faults: export OMP_NUM_THREADS ?= 1
faults: export QLORA_STUDIO_AUDIT = 1
faults: set-up-checks
	@QT_QPA_PLATFORM=offscreen $(TOOL)/pytest -q -n $(TEST_JOBS) -m fault

# Strict: a package that PyPI tells nothing of is a failure, not a good answer.
audit: set-up-checks
	@$(TOOL)/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r packaging/requirements.lock

lint: set-up-checks
	@echo "Format"
	@$(TOOL)/ruff format --check --quiet .
	@echo "Lint"
	@$(TOOL)/ruff check --quiet .
	@echo "Types"
	@$(TOOL)/mypy --strict qlora_studio kernels/qlora_kernels packaging
	@echo "Import contracts"
	@$(TOOL)/lint-imports

format: set-up-checks
	@$(TOOL)/ruff check --quiet --fix .
	@$(TOOL)/ruff format --quiet .

bench: set-up-checks
	@for benchmark in $(filter-out $(CARD_BENCHMARKS),$(basename $(notdir $(sort $(wildcard tests/benchmarks/*.py))))); do \
		echo "$$benchmark"; QT_QPA_PLATFORM=offscreen $(TOOL)/python -m tests.benchmarks.$$benchmark || exit 1; \
	done

gallery: set-up
	@$(TOOL)/python packaging/gallery.py

desktop-entry: set-up
	@mkdir -p "$(APPLICATIONS)"
	@sed -e 's#^TryExec=.*#TryExec=$(CURDIR)/$(TOOL)/qlora-studio#' \
		-e 's#^Exec=.*#Exec="$(CURDIR)/$(TOOL)/qlora-studio"#' \
		-e 's#^Icon=.*#Icon=$(CURDIR)/packaging/qlora-studio.svg#' \
		packaging/qlora-studio.desktop > "$(APPLICATIONS)/qlora-studio.desktop"
	@echo "QLoRA Studio is in the application menu: $(APPLICATIONS)/qlora-studio.desktop"

set-up: python
	@$(PYTHON) packaging/set_up.py

set-up-checks: python
	@$(PYTHON) packaging/set_up.py --checks

.PHONY: python
python:
ifeq ($(PYTHON),)
	@echo "QLoRA Studio needs Python 3.11, 3.12, 3.13 or 3.14, and found none. Install one (on Debian and Ubuntu:" >&2
	@echo "apt-get install python3 python3-venv), or name it: make run PYTHON=/path/to/python3.12" >&2
	@exit 2
endif

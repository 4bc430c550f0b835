# pysendmail. Two commands to begin with: make demo, make test. All of them: make help.
#
# .venv holds a wheel built from this checkout, with what it needs; nothing here ever runs the checkout itself.
# Dependencies are installed again only when pyproject.toml has changed, the wheel whenever a source has.
# On Debian, root gets what is missing through apt-get; everyone else is told what to install.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PREFIX ?= /usr/local
PYTEST_ARGS ?=
# make torture, make test-systemd: SIZE=sample or nightly.
# make bench: SIZE=sample or full; PARTS names some of its parts.
# make torture: nightly TIMES over; SEED repeats a run; PARTS names some of its parts.
# make mutants: PARTS names some of its groups.
SIZE ?= $(if $(filter bench,$(MAKECMDGOALS)),full,nightly)
TIMES ?= 1
SEED ?=
PARTS ?=
ifndef PYTHON # then the first of these that is Python 3.11 or newer; make PYTHON=/path/to/python3 names another
PYTHON := $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import sys; sys.version_info >= (3, 11) and print(sys.executable)' 2>/dev/null)))
endif

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --no-input
# Directories too: their time changes when a file is deleted.
SOURCES := pyproject.toml README.md LICENSE $(shell find pysendmail man -name '__pycache__' -prune -o -print)
# 1 where we may install: python3-venv below, and for the tests what tests/rig/debian.py names.
MAY_INSTALL := $(shell test "$$(id -u)" = 0 && command -v apt-get >/dev/null && echo 1)

.PHONY: help demo test test-systemd interop torture mutants bench check lint types wheel deb client install clean

help:
	@echo 'make demo     one message through sendmail, queue, daemon and a local smarthost, and one that bounces'
	@echo 'make test     lint, types and all tests, against the installed wheel'
	@echo 'make test-systemd  the Debian package on Debian 12 and 13 with systemd, booted here (root; 400 MB in ~/.cache)'
	@echo 'make interop  cron, mutt, PHP and other callers, in a Debian of their own (root; a gigabyte in ~/.cache); Datasette'
	@echo 'make torture  kills, power cuts and load, each judged from outside: hours (SIZE=sample: minutes; TIMES SEED PARTS)'
	@echo 'make mutants  faults put into the code, which the tests must notice: half an hour (PARTS)'
	@echo 'make bench    side by side with Postfix, nullmailer, dma and OpenSMTPD: half an hour (root; SIZE=sample PARTS)'
	@echo 'make check    lint and types only'
	@echo 'make lint     ruff: rules and format'
	@echo 'make wheel    the wheel, in dist/'
	@echo 'make deb      the Debian packages, in dist/'
	@echo 'make client   sendmail in C, which make install then installs: it needs no interpreter to start'
	@echo 'make install  to $(PREFIX) (PREFIX=...): the commands, the man pages, lib/pysendmail'
	@echo 'make clean    away with everything that make made here'

demo: $(VENV)/.demo
	@$(VENV)/bin/pysendmail demo

test: check
	@PYSENDMAIL_TEST_WHEEL=1 PYSENDMAIL_TEST_INSTALL=$(MAY_INSTALL) \
	  $(VENV)/bin/pytest --no-header -n auto --dist loadfile $(PYTEST_ARGS)

# Nightly runs are kept, part by part.
torture: $(VENV)/.test
	@PYSENDMAIL_TEST_INSTALL=$(MAY_INSTALL) PYTHONPATH=tests $(VENV)/bin/python -P -m torture --size $(SIZE) --times $(TIMES) \
	  $(if $(SEED),--seed $(SEED)) $(if $(filter-out nightly,$(SIZE)),,--results tests/torture/RESULTS.md) $(PARTS)

mutants: $(VENV)/.test
	@PYTHONPATH=tests $(VENV)/bin/python -P -m torture.mutants $(PARTS)

interop: $(VENV)/.test
	@PYSENDMAIL_TEST_WHEEL=1 PYSENDMAIL_TEST_INSTALL=$(MAY_INSTALL) PYSENDMAIL_TEST_CALLERS=1 \
	  $(VENV)/bin/pytest --no-header $(PYTEST_ARGS) tests/interop/test_callers.py tests/interop/test_datasette.py

test-systemd: $(VENV)/.test $(if $(shell command -v dpkg-deb),deb)
	@PYSENDMAIL_TEST_WHEEL=1 PYSENDMAIL_TEST_INSTALL=$(MAY_INSTALL) PYSENDMAIL_TEST_SYSTEMD=$(SIZE) \
	  $(VENV)/bin/pytest --no-header -n 4 $(PYTEST_ARGS) tests/systemd

# Only full runs are kept.
bench: $(VENV)/.bench
	@mkdir -p build
	@PYSENDMAIL_TEST_INSTALL=$(MAY_INSTALL) PYTHONPATH=tests:bench $(VENV)/bin/python -P -m sidebyside --size $(SIZE) \
	  $(if $(filter full,$(SIZE)),--figures build/bench.jsonl --results bench,--figures build/bench-sample.jsonl) $(PARTS)

check: lint types

lint: $(VENV)/.test
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --check --quiet . || { echo 'make: run $(VENV)/bin/ruff format .' >&2; exit 1; }

types: $(VENV)/.test
	@$(VENV)/bin/mypy --strict --no-error-summary

wheel: dist/.wheel
	@ls dist/*.whl

deb: dist/.wheel
	@$(VENV)/bin/python contrib/debian/build.py dist/*.whl dist

# Optional. Behind it stands the Python client, for all that it leaves to that.
client:
	@echo '#include <stdio.h>' | $(CC) -E -x c - >/dev/null 2>&1 || { \
	  echo 'make: $(CC) does not work, or the C library has no headers. On Debian: sudo apt-get install gcc libc6-dev' >&2; exit 1; }
	@mkdir -p build
	@$(MAKE) -s -C contrib/client OUT='$(CURDIR)/build/sendmail' CLIENTS='$(PREFIX)/lib/pysendmail/client'
	@'$(PYTHON)' contrib/client/overtaken.py build/sendmail $(PREFIX)/lib/pysendmail/client
	@echo 'make: build/sendmail is the client in C; make install puts it into $(PREFIX)/sbin'

# Stubs and man pages are for this machine and carry absolute paths; packages are built by contrib/ instead.
install: dist/.wheel
	@$(PYTHON) -m venv $(PREFIX)/lib/pysendmail
	@$(PREFIX)/lib/pysendmail/bin/python -m pip --disable-pip-version-check --no-input install -qq --force-reinstall dist/*.whl
	@mkdir -p $(PREFIX)/bin $(PREFIX)/sbin
	@$(PREFIX)/lib/pysendmail/bin/pysendmail install-client $(PREFIX)/sbin
	@if [ -x build/sendmail ]; then \
	  $(MAKE) -s client && mkdir -p $(PREFIX)/lib/pysendmail/client && \
	  $(PREFIX)/lib/pysendmail/bin/pysendmail install-client $(PREFIX)/lib/pysendmail/client && \
	  install -m 755 build/sendmail $(PREFIX)/sbin/.sendmail && mv -f $(PREFIX)/sbin/.sendmail $(PREFIX)/sbin/sendmail; fi
	@ln -sf $(PREFIX)/lib/pysendmail/bin/pysendmail $(PREFIX)/bin/pysendmail
	@for page in man/*.[1-8]; do install -D -m 644 $$page $(PREFIX)/share/man/man$${page##*.}/$${page##*/}; done
	@echo 'make: installed in $(PREFIX): sbin/sendmail, bin/pysendmail, lib/pysendmail, share/man'

clean:
	@rm -rf $(VENV) dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- what the targets above stand on ----

# A virtual environment with the tool that builds the wheel, named by pyproject.toml.
$(VENV)/.made: pyproject.toml
	@if [ -z '$(PYTHON)' ]; then \
	  echo 'make: Python 3.11 or newer was not found (python3 is $(or $(shell command -v python3 >/dev/null && python3 --version),missing)).' \
	    'Debian 12 or newer has it: apt-get install python3 python3-venv. Elsewhere: make PYTHON=/path/to/python3' >&2; exit 1; fi
	@'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'make: $(PYTHON) is not Python 3.11 or newer; make PYTHON=/path/to/python3 names another' >&2; exit 1; }
	@'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ -z '$(MAY_INSTALL)' ]; then \
	    echo 'make: $(PYTHON) cannot make a virtual environment. Install its venv module, on Debian with:' \
	      'sudo apt-get install python3-venv' >&2; exit 1; fi; \
	  echo 'make: installing python3-venv'; \
	  export DEBIAN_FRONTEND=noninteractive; log=$$(mktemp); \
	  { apt-get -qq update && apt-get -qq -y --no-install-recommends --no-remove install python3-venv; } </dev/null >"$$log" 2>&1 || \
	    { cat "$$log" >&2; echo 'make: apt-get could not install python3-venv' >&2; exit 1; }; \
	  rm -f "$$log"; \
	  '$(PYTHON)' -c 'import ensurepip, venv' || { \
	    echo 'make: $(PYTHON) still has no ensurepip; make PYTHON=/usr/bin/python3 may' >&2; exit 1; }; }
	@echo 'make: setting up $(VENV) with $(PYTHON)'
	@test -x $(VENV)/bin/python && $(PIP) --version >/dev/null 2>&1 || '$(PYTHON)' -m venv --clear $(VENV)
	@$(VENV)/bin/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")' > $(VENV)/build.txt
	@$(PIP) install -qq -r $(VENV)/build.txt
	@touch $@

dist/.wheel: $(VENV)/.made $(SOURCES)
	@rm -rf dist
	@$(PIP) wheel -qq --no-deps --no-build-isolation --wheel-dir dist .
	@touch $@

# .venv/.demo, .venv/.test, .venv/.bench: the wheel with that extra is installed; $@-deps remembers for which pyproject.toml.
$(VENV)/.demo $(VENV)/.test $(VENV)/.bench: $(VENV)/.%: dist/.wheel
	@$(PIP) install -qq --no-deps --force-reinstall dist/*.whl
	@if ! [ $@-deps -nt pyproject.toml ]; then \
	  echo 'make: installing what pysendmail needs for $*'; \
	  $(PIP) install -qq "$$(echo dist/*.whl)[$*]" && touch $@-deps; \
	fi
	@touch $@

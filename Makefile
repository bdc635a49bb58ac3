# Everything a reader or CI needs. The Python that makes .venv: make book PYTHON=python3.12
PYTHON ?= python3
export PYTHON

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help venv book test test-update bench clean

help:         ## list the targets
	@sed -n 's/^\([a-z-]*\): .*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

venv:         ## make .venv and install the pinned packages, unless that has been done
	@sh tools/venv.sh

book: venv    ## execute the chapters that changed, render the book, print its first page
	@.venv/bin/python book/build.py

test: venv    ## run the whole test suite, the chapters as regression notebooks included
	@.venv/bin/python -m pytest -n logical --maxprocesses 4

test-update: venv ## renew the numbers that the chapters are expected to give (review the diff)
	@.venv/bin/python -m pytest tests/book/test_chapters.py --regen-all

bench: venv   ## measure speed on this machine into benchmarks/ (minutes; nothing else should run)
	@.venv/bin/python -m lanmsff bench --json benchmarks

clean:        ## remove the built book and the chapters' results; .venv stays
	@rm -rf _build

# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later
#
# The two commands: "make demo" and "make test". Both set up what is missing; CONTRIBUTING.md has the parts.

export LC_ALL := C.UTF-8
JOBS ?= auto

.PHONY: help setup demo demo-libvirt test matrix faults bench clean

help:
	@echo "make demo          show a running VM's disks being populated, on this machine"
	@echo "make demo-libvirt  the same for a guest of libvirt, beside virsh blockpull"
	@echo "make test          run every test there is (JOBS=1: one after the other)"
	@echo "make matrix        the integration targets on QEMU 5.2 to 11.1, through the oldest and the newest Python"
	@echo "make faults        kill whoever takes part in a stream, 200 times, and say what was lost"
	@echo "make bench         measure what a populate costs, beside other ways to have it; on a quiet machine"
	@echo "make setup         only what both need: packages of the distribution, .venv"
	@echo "make clean         remove whatever these made"

setup:
	@.ci/setup

demo: setup
	@.venv/bin/python tests/lab/demo.py

demo-libvirt: setup
	@.venv/bin/python tests/lab/demo_libvirt.py

test: setup
	@.venv/bin/python .ci/suite.py --parallel $(JOBS)

matrix: setup
	@.venv/bin/nox -Re matrix

faults: setup
	@.venv/bin/nox -Re faults

bench:
	@.ci/setup bench
	@.venv/bin/nox -Re bench

clean:
	rm -rf .ansible .nox .venv build tests/output

#!/usr/bin/env bash
# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

set -eux
exec "${ANSIBLE_TEST_PYTHON_INTERPRETER:-python3}" -m pytest --confcutdir=../.. -p no:cacheprovider "$@" .

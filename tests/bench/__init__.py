# Copyright (c) 2026, the virtops.qmp authors
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a populate costs beside other ways to have it, measured on one machine in one run: `make bench`."""

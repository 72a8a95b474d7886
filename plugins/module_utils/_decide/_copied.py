# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether everything is copied, proven by the map of the chain and by nobody's word."""

from __future__ import annotations

from .._model._disk import Disk
from .._model._map import Layer, MapTotals


def left_below(totals: MapTotals, base_depth: int | None) -> int:
    """How many bytes a disk still needs, or may need, of the images that are to go: 0 is the proof that none are.

    What lies at the base or below it stays where it is. Data above it counts, and so do zeros that hide what the base
    has; where no image stays, zeros need nobody, for an image without a backing one reads as zeros as well. Of images
    that could not be looked into everything counts that is not in those above them.

    :param base_depth: the place of the image that stays in the chain, 0 for the top; None where none stays.
    """
    left = 0
    for (depth, is_needed), length in totals.bytes_at.items():
        # Nobody has seen whether zeros or data are in an opaque image, so all of it counts.
        is_unseen = totals.opaque is not None and depth >= totals.opaque
        if _is_going(depth, base_depth) and (is_needed or is_unseen):
            left += length
    return left


def _is_going(depth: int, base_depth: int | None) -> bool:
    """Whether the image in this place would leave the chain: it is below the top, and above the base."""
    if base_depth is None:
        return depth > 0
    return 0 < depth < base_depth


def layers_of(disk: Disk) -> list[Layer]:
    """The chain of a disk, the top first, as ``read_map`` wants it."""
    layers = []
    for image in disk.chain:
        layers.append(Layer(image.format, image.filename, image.virtual_size, image.bound, image.data))
    return layers

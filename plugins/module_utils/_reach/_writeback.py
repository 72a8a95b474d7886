# Copyright (c) 2026, the virtops.qmp authors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Knows whether what QEMU wrote to an image reached the storage.

The kernel takes a write into its memory and tells later that it could not be brought to the storage: once to each open
file, at its next fsync, if that file was open when the error happened. QEMU's flush can be told so and swallow it, and
who opens the image afterwards is never told. So this holds an open file of its own from before the stream on.

Measured on Linux 6.18, ext4 and a block device over storage that is full: a descriptor from before, also a read-only
one, is told ENOSPC and EIO though others were told already; one that is opened after that is told nothing.
"""

from __future__ import annotations

import asyncio
import os
import weakref

from .._model._errors import HostSilent, WriteBackFailed
from .._model._files import Bound
from ._children import Child
from ._descriptors import reopen
from ._threads import away

# Nothing is read and nothing written: dd only calls fsync on its standard output, which is the very open file that it
# inherits. Without `of=`, so that nothing is opened or cut, and without `count=0`, at which coreutils before 9 end
# before the fsync.
_FSYNC = ("dd", "if=/dev/null", "conv=fsync")
_FOREVER = 1e9


class WriteBack:
    """An open file of our own of an image that QEMU writes to."""

    def __init__(self, descriptor: int, name: str):
        """Take a descriptor over; ``name`` is what messages call the image."""
        self._descriptor = descriptor
        self._name = name
        self._asked: asyncio.Future[str] | None = None
        self._failure = ""
        # Also when the thread that opened it came too late for anybody to take it.
        self._release = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def open(cls, pid: int, bound: Bound, name: str) -> WriteBack:
        """Open what QEMU has open; it may block where storage hangs: call it through ``_threads.away``.

        :raise OSError: it is not open any more, or may not be opened.
        """
        return cls(reopen(pid, bound), name)

    async def flush(self, seconds: float) -> None:
        """Have the kernel bring all that was written to the storage, and be told if it ever failed to.

        An error that was seen stays known. A flush that does not end in time goes on: what it will be told is told to
        nobody else any more, so the next one waits for it first.

        :raise WriteBackFailed: the kernel reports an error, or the report of one can have been lost.
        :raise HostSilent: the storage does not answer within ``seconds``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        is_new = False
        while not is_new:
            self._raise_known()
            is_new = self._asked is None
            if self._asked is None:
                self._asked = asyncio.ensure_future(self._fsync())
            asked = self._asked
            await asyncio.wait({asked}, timeout=max(0.0, deadline - loop.time()))
            if not asked.done():
                raise HostSilent(f"the storage of {self._name} does not write out within {seconds:g} s")
            # Others may have waited for the same one, and have asked anew already.
            if self._asked is asked:
                self._asked = None
            self._failure = self._failure or asked.result()
        self._raise_known()

    def _raise_known(self) -> None:
        if self._failure:
            raise WriteBackFailed(f"what was written to {self._name} did not reach the storage: {self._failure}")

    def forget_cache(self) -> None:
        """Have the kernel drop what it keeps in its memory of the file, once that was written out.

        A page that it could not write out stays there, and ext4 takes it for one that has its place: what is written
        to it afterwards is lost, and nobody is told (Linux 6.18). It does not block: what is not written out is kept.
        """
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Let go of the file."""
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None
        self._release()

    async def _fsync(self) -> str:
        """Why the kernel could not write out, if so."""
        try:
            child = await Child.start(_FSYNC, stdout=self._descriptor)
        except OSError:
            # There is no such program: a thread does it, which cannot be ended while the storage hangs.
            return await self._fsync_here()
        try:
            await child.wait()
            if child.code == 0:
                return ""
            said = child.errors.splitlines() or [f"dd ended with {child.code}"]
            # ``dd: fsync failed for 'standard output': No space left on device``
            return said[0].rpartition(": ")[2]
        finally:
            child.close()

    async def _fsync_here(self) -> str:
        try:
            await away(os.fsync, self._descriptor, seconds=_FOREVER)
        except OSError as error:
            return error.strerror or str(error)
        return ""

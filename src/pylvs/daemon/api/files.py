"""Which files of the configuration have changed since they were read, for the status."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from pylvs.system.threads import DaemonThread

PATIENCE_S = 1.0  # a file system may block; a client waits for the status


class FileChanges:
    """Compares the files in a thread of its own: one that hangs occupies no other."""

    def __init__(self) -> None:
        self._thread = DaemonThread("pylvs-files")
        self._comparing: asyncio.Future[list[str]] | None = None  # the last comparison, which may hang

    async def since(self, loaded_at: float, files: Sequence[str]) -> list[str]:
        """Return a text for each file that was written after it was read, or that cannot be read any more."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self._comparing is not None and not self._comparing.done():
                    await asyncio.wait({self._comparing})
                loop = asyncio.get_running_loop()
                self._comparing = comparing = loop.run_in_executor(self._thread, _changed, files, loaded_at)
                await asyncio.wait({comparing})
                return comparing.result()
        except TimeoutError:
            return [f"the configuration cannot be read: its file system has not answered for {PATIENCE_S:g} s"]


def _changed(files: Sequence[str], loaded_at: float) -> list[str]:
    found = []
    for name in files:
        try:
            if os.stat(name).st_mtime > loaded_at:
                found.append(f"{name} was written after it was read: pylvs reload")
        except OSError as error:
            found.append(f"{name} cannot be read any more: {error.strerror}")
    return found

"""The socket for the members of a group (`monitor_group`): they read what the API knows, and change nothing.

The limits of its server are in `pylvs.daemon.api.application`.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from pylvs.system.logs import get_logger
from pylvs.system.sockets import MONITOR_GROUP, address_of
from pylvs.system.threads import to_thread

_BACKLOG = 128
_DIRECTORY_MODE, _SOCKET_MODE = 0o755, 0o660


class GroupSocket:
    """Serves one socket while its group exists. `serve` serves a listener until it is cancelled."""

    def __init__(self, path: Path, serve: Callable[[socket.socket], Awaitable[None]]) -> None:
        self.error = ""  # why members of a configured group get no reply, "" if they do
        self._path, self._serve = path, serve
        self._wanted: str | None = None  # the group; "": the default one, None: not known yet
        self._changed = asyncio.Event()

    def follow(self, group: str) -> None:
        """Serve this group from now on; "" is the default one, which need not exist."""
        if group != self._wanted:
            self._wanted = group
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled, serve the group that is wanted."""
        serving: asyncio.Future[None] | None = None
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if serving is not None:
                    await _ended(serving)
                serving = asyncio.ensure_future(self._serve_group(self._wanted or ""))
        finally:
            if serving is not None:
                await _ended(serving)

    async def _serve_group(self, name: str) -> None:
        self.error = ""
        try:
            listener = await to_thread(listening, self._path, name or MONITOR_GROUP)  # a user database may be slow
        except KeyError:
            if name:
                self._fail(f"monitor_group {name}: there is no such group on this host")
            return
        except OSError as error:
            self._fail(f"monitor_group {name or MONITOR_GROUP}: {self._path}: {error.strerror}")
            return
        try:
            await self._serve(listener)
        finally:
            listener.close()
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _fail(self, text: str) -> None:
        self.error = text
        get_logger().error(text)


def listening(path: Path, group: str) -> socket.socket:
    """Return a listener that root and a group may connect to. Raises KeyError without this group, OSError."""
    number = grp.getgrnam(group).gr_gid
    _make_directory(path.parent)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        path.unlink(missing_ok=True)  # left by a daemon that was killed
        with address_of(path) as address:
            listener.bind(address)
        # Connections are refused until `listen`, so the mode by the umask gives no user access.
        os.chown(path, -1, number)
        os.chmod(path, _SOCKET_MODE)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _make_directory(path: Path) -> None:
    """Make the directory, which every user may enter, also with the umask of the configuration."""
    with contextlib.suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
        path.chmod(_DIRECTORY_MODE)


async def _ended(serving: asyncio.Future[None]) -> None:
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)

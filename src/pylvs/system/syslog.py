"""Logs to syslog(3) and to files, with keepalived's facilities, identities and names of files.

A destination is a word that a process passes to those that it starts. It is "text", "json", "syslog:FACILITY:SUFFIX" or
"file:PATH". Several are joined by "|". No write blocks: a syslog daemon that hangs must not stop health checks or
virtual routers. Lines that it does not accept are counted, and the next line that it accepts is preceded by their
number.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TextIO

from pylvs.model.errors import counted

DEVICE = "/dev/log"
IDENTITY = "Keepalived"  # keepalived's, so that filters of rsyslog, journald and monitoring apply
SEPARATOR = "|"
SYSLOG, FILE = "syslog:", "file:"
FACILITIES = {"user": 1, "daemon": 3} | {f"local{number}": 16 + number for number in range(8)}
_LONGEST = 8000  # bytes of a message; syslog daemons cut longer ones


def facility_of(word: str) -> str:
    """Return the name of a facility in keepalived's notation: 0-7, local0-local7, user or daemon. Raises ValueError."""
    name = f"local{word}" if word in "01234567" and word else word.lower()
    if name not in FACILITIES:
        raise ValueError(f"'{word}' is no syslog facility: write 0 to 7, local0 to local7, user or daemon")
    return name


def is_destination(word: str) -> bool:
    """Return whether a word names such destinations."""
    return all(
        each in ("text", "json")
        or (each.startswith(FILE) and len(each) > len(FILE))
        or (each.startswith(SYSLOG) and each.split(":")[1] in FACILITIES and each.count(":") == 2)
        for each in word.split(SEPARATOR)
    )


class Syslog:
    """The local syslog daemon, for one process: `<27>Jan  2 03:04:05 Keepalived_vrrp[77]: text`."""

    def __init__(self, word: str, process: str, device: str = DEVICE) -> None:
        """Take "syslog:FACILITY:SUFFIX"; `process` is keepalived's name of this process."""
        _, facility, suffix = word.split(":")
        self._facility = FACILITIES[facility] << 3
        self._identity = f"{IDENTITY}_{process}{suffix}"
        self._device = device
        self._socket: socket.socket | None = None
        self._lost = 0

    def write(self, severity: int, text: str) -> None:
        """Send one line; never wait for the daemon."""
        if self._lost and self._send(4, f"warning: {counted(self._lost, 'line')} lost: syslog did not accept more"):
            self._lost = 0
        for line in text.splitlines():
            if not self._send(severity, line):
                self._lost += 1

    def _send(self, severity: int, text: str) -> bool:
        stamp = time.strftime("%b %e %H:%M:%S")
        line = f"<{self._facility | severity}>{stamp} {self._identity}[{os.getpid()}]: {text}"
        data = line.encode(errors="replace")[:_LONGEST]
        for _ in range(2):  # again after the daemon was restarted
            try:
                self._connected().send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                return True
            except BlockingIOError:
                return False
            except OSError:
                self._close()
        return False

    def _connected(self) -> socket.socket:
        if self._socket is None:
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                made.connect(self._device)
            except OSError:
                made.close()
                raise
            self._socket = made
        return self._socket

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def opened(word: str, process: str) -> TextIO:
    """Open the log file of "file:PATH" for this process: keepalived inserts _PROCESS before the last dot.

    Raises OSError.
    """
    path = word.removeprefix(FILE)
    folder, name = os.path.split(path)
    stem, dot, ending = name.rpartition(".")
    own = f"{stem}_{process}{dot}{ending}" if dot else f"{name}_{process}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(os.path.join(folder, own), flags, 0o644), "a", encoding="utf-8", errors="replace")

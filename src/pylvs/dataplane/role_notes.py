"""What the process of the virtual routers said last of its addresses, for tables that are made later than that.

A directory for each network namespace while that process lives, gone with the machine's runtime files:

    alive      locked by the process, however it ends
    addresses  a line for each: its role and the address
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import struct
import time

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, NotPermitted, PylvsError

DIRECTORY = "/run/pylvs/roles"
_ALIVE, _ADDRESSES = "alive", "addresses"
_STANDBY, _HELD = "standby", "held"
_TIDYING_S, _PAUSE_S = 0.1, 0.01  # somebody who tidies up holds the lock for a moment
_FILE_LOCK = struct.Struct("hhqqi4x")  # struct flock; fcntl(2), open file description locks


@dataclass(frozen=True, slots=True)
class Said:
    """Addresses of this host's virtual routers: those that stand by, and the others."""

    standby: frozenset[Address] = frozenset()
    held: frozenset[Address] = frozenset()

    @property
    def all(self) -> frozenset[Address]:
        """Both."""
        return self.standby | self.held


def directory(cookie: int) -> str:
    """Where the roles of a network namespace are kept."""
    return f"{DIRECTORY}/net{cookie}"


def _lock(kind: int) -> bytes:
    return _FILE_LOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


class Keeper:
    """The side of the process of the virtual routers, of which a namespace has one."""

    def __init__(self, cookie: int) -> None:
        """Be the one who says. Raises Busy where another process is, NotPermitted."""
        self.path = directory(cookie)
        _collect()
        end = time.monotonic() + _TIDYING_S
        while True:
            try:
                os.makedirs(self.path, 0o700, exist_ok=True)
                self._alive = os.open(f"{self.path}/{_ALIVE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # somebody tidied up
            except OSError as error:
                raise NotPermitted(f"{self.path}: {error.strerror}; run as root") from None
            try:
                fcntl.fcntl(self._alive, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
                if os.path.samestat(os.fstat(self._alive), os.stat(f"{self.path}/{_ALIVE}")):
                    return
            except FileNotFoundError:
                pass
            except OSError:
                if time.monotonic() > end:
                    os.close(self._alive)
                    whose = "another process runs the virtual routers of this network namespace"
                    raise Busy(f"{self.path}: {whose}") from None
                time.sleep(_PAUSE_S)
            os.close(self._alive)

    def keep(self, said: Said) -> None:
        """Replace what was said at one stroke. Raises PylvsError."""
        path, draft = f"{self.path}/{_ADDRESSES}", f"{self.path}/{_ADDRESSES}-new"
        lines = [f"{_STANDBY} {each}\n" for each in said.standby] + [f"{_HELD} {each}\n" for each in said.held]
        try:
            with open(draft, "w", encoding="ascii") as file:
                file.writelines(lines)
            os.rename(draft, path)
        except OSError as error:
            raise PylvsError(f"{path}: {error.strerror}: tables made from now on do not know the roles") from None

    def close(self) -> None:
        """Say nothing any more."""
        for name in _ADDRESSES, _ALIVE:
            with contextlib.suppress(OSError):
                os.unlink(f"{self.path}/{name}")
        os.close(self._alive)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
            os.rmdir(DIRECTORY)


def read(cookie: int) -> Said | None:
    """What was said last; None where nobody says anything, or whoever did is gone."""
    path = directory(cookie)
    try:
        alive = os.open(f"{path}/{_ALIVE}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _FILE_LOCK.unpack(fcntl.fcntl(alive, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK)))[0] == fcntl.F_UNLCK:
            return None
        with open(f"{path}/{_ADDRESSES}", encoding="ascii") as file:
            words = [line.split() for line in file]
    except OSError:
        return None
    finally:
        os.close(alive)
    by_role: dict[str, set[Address]] = {_STANDBY: set(), _HELD: set()}
    for role, address in words:
        by_role[role].add(ipaddress.ip_address(address))
    return Said(frozenset(by_role[_STANDBY]), frozenset(by_role[_HELD]))


def forget(cookie: int) -> None:
    """Remove what a process left that was killed. One that comes at this moment waits, and begins anew."""
    path = directory(cookie)
    try:
        alive = os.open(f"{path}/{_ALIVE}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    with contextlib.suppress(OSError):
        fcntl.fcntl(alive, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
        for name in _ADDRESSES, f"{_ADDRESSES}-new", _ALIVE:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}/{name}")
        os.rmdir(path)
        os.rmdir(DIRECTORY)
    os.close(alive)


def _collect() -> None:
    """Remove what killed processes left of any namespace: nobody reads it."""
    with contextlib.suppress(OSError):
        for name in os.listdir(DIRECTORY):
            if name.removeprefix("net").isdigit():
                forget(int(name.removeprefix("net")))


__all__ = ["DIRECTORY", "Keeper", "Said", "directory", "forget", "read"]

"""Store the roles that pylvs-vrrp published last, for tables that are made later.

Each network namespace has a directory below /run while its pylvs-vrrp lives:

    alive      locked by the process; the kernel releases the lock when the process ends
    addresses  a line for each address: its role and the address
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
_TIDYING_S, _PAUSE_S = 0.1, 0.01  # `forget` in another process holds the lock for a moment
_FILE_LOCK = struct.Struct("hhqqi4x")  # struct flock; fcntl(2), open file description locks


@dataclass(frozen=True, slots=True)
class Said:
    """Addresses of this host's virtual routers: those that are standby, and the others."""

    standby: frozenset[Address] = frozenset()
    held: frozenset[Address] = frozenset()

    @property
    def all(self) -> frozenset[Address]:
        return self.standby | self.held


def directory(cookie: int) -> str:
    """Return the directory with the roles of a network namespace."""
    return f"{DIRECTORY}/net{cookie}"


def _lock(kind: int) -> bytes:
    return _FILE_LOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


class Keeper:
    """The writer of the roles: the one pylvs-vrrp of a network namespace."""

    def __init__(self, cookie: int) -> None:
        """Become the writer. Raises Busy while another process is the writer, NotPermitted."""
        self.path = directory(cookie)
        _collect()
        end = time.monotonic() + _TIDYING_S
        while True:
            try:
                os.makedirs(self.path, 0o700, exist_ok=True)
                self._alive = os.open(f"{self.path}/{_ALIVE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # `forget` removed the directory between the two calls
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

    def keep(self, roles: Said) -> None:
        """Replace the stored roles atomically. Raises PylvsError."""
        path, draft = f"{self.path}/{_ADDRESSES}", f"{self.path}/{_ADDRESSES}-new"
        lines = [f"{_STANDBY} {each}\n" for each in roles.standby] + [f"{_HELD} {each}\n" for each in roles.held]
        try:
            with open(draft, "w", encoding="ascii") as file:
                file.writelines(lines)
            os.rename(draft, path)
        except OSError as error:
            raise PylvsError(f"{path}: {error.strerror}: tables made from now on do not know the roles") from None

    def close(self) -> None:
        """Remove the stored roles and release the lock."""
        for name in _ADDRESSES, _ALIVE:
            with contextlib.suppress(OSError):
                os.unlink(f"{self.path}/{name}")
        os.close(self._alive)
        with contextlib.suppress(OSError):
            os.rmdir(self.path)
            os.rmdir(DIRECTORY)


def read(cookie: int) -> Said | None:
    """Return the stored roles; None without a living writer."""
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
    """Remove the directory of a writer that was killed. A writer that starts at this moment waits and retries."""
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
    """Remove the directories of killed writers, of all namespaces."""
    with contextlib.suppress(OSError):
        for name in os.listdir(DIRECTORY):
            if name.removeprefix("net").isdigit():
                forget(int(name.removeprefix("net")))


__all__ = ["DIRECTORY", "Keeper", "Said", "directory", "forget", "read"]

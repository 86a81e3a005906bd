"""The roles of virtual addresses: standby while another director is MASTER. Packets to them then pass unmodified.

pylvs-vrrp writes the roles into the tables without the lock of edits, and stores them for tables that are made later. A
process that makes or edits tables copies the stored roles into them before it attaches programs. If pylvs-vrrp is
killed, the tables keep its last roles.

Each network namespace has a directory below /run while its pylvs-vrrp lives:

    alive      locked by the process; the kernel releases the lock when the process ends
    addresses  a line for each address: its role and the address

Several instances in one namespace have files with the name of the instance behind a hyphen. The tables have the roles
of all of them.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import struct
import time

from pylvs.bpf import abi, libbpf, mounts
from pylvs.dataplane.state import ROLES, State, netns_cookie, roles_directory
from pylvs.dataplane.tables import Tables, address_bytes, address_of, bitmap, write_bitmap
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, NoSpace, NotPermitted, PylvsError
from pylvs.system.lock import Lock

_ALIVE, _ADDRESSES, _DRAFT = "alive", "addresses", "new"
_STANDBY, _HELD = "standby", "held"
_TIDYING_S, _PAUSE_S = 0.1, 0.01  # `forget` in another process holds the lock for a moment
_FILE_LOCK = struct.Struct("hhqqi4x")  # struct flock; fcntl(2), open file description locks
_WAIT_S = 0.001


@dataclass(frozen=True, slots=True)
class VipRoles:
    """Addresses of this host's virtual routers: those that are standby, and the others."""

    standby: frozenset[Address] = frozenset()
    held: frozenset[Address] = frozenset()

    @property
    def all(self) -> frozenset[Address]:
        return self.standby | self.held


def _lock(kind: int) -> bytes:
    return _FILE_LOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


class Keeper:
    """A writer of the roles: the one pylvs-vrrp of an instance in a network namespace."""

    def __init__(self, cookie: int, instance: str = "") -> None:
        """Become the writer. Raises Busy while another process is the writer, NotPermitted."""
        self.path = roles_directory(cookie)
        self._suffix = f"-{instance}" if instance else ""
        alive = f"{self.path}/{_ALIVE}{self._suffix}"
        _collect()
        end = time.monotonic() + _TIDYING_S
        while True:
            try:
                os.makedirs(self.path, 0o700, exist_ok=True)
                self._alive = os.open(alive, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                continue  # `forget` removed the directory between the two calls
            except OSError as error:
                raise NotPermitted(f"{self.path}: {error.strerror}; run as root") from None
            try:
                fcntl.fcntl(self._alive, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
                if os.path.samestat(os.fstat(self._alive), os.stat(alive)):
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

    def keep(self, roles: VipRoles) -> None:
        """Replace the stored roles atomically. Raises PylvsError."""
        path = f"{self.path}/{_ADDRESSES}{self._suffix}"
        draft = f"{self.path}/{_DRAFT}{self._suffix}"
        lines = [f"{_STANDBY} {each}\n" for each in roles.standby] + [f"{_HELD} {each}\n" for each in roles.held]
        try:
            with open(draft, "w", encoding="ascii") as file:
                file.writelines(lines)
            os.rename(draft, path)
        except OSError as error:
            raise PylvsError(f"{path}: {error.strerror}: tables that are created later lack the roles") from None

    def with_others(self, roles: VipRoles) -> VipRoles:
        """Return these roles with those of the other living writers."""
        others = (_stored(self.path, suffix) for suffix in _suffixes(self.path) if suffix != self._suffix)
        return _merged([roles, *filter(None, others)])

    def close(self) -> None:
        """Remove the stored roles and release the lock."""
        _remove(self.path, self._suffix)
        os.close(self._alive)


def _suffixes(path: str) -> list[str]:
    """Return the suffixes of the files of all writers, living or not."""
    try:
        names = os.listdir(path)
    except OSError:
        return []
    return [name.removeprefix(_ALIVE) for name in names if name == _ALIVE or name.startswith(f"{_ALIVE}-")]


def _merged(found: list[VipRoles]) -> VipRoles:
    standby = frozenset[Address]().union(*(each.standby for each in found))
    return VipRoles(standby, frozenset[Address]().union(*(each.held for each in found)) - standby)


def stored(cookie: int) -> VipRoles | None:
    """Return the stored roles; None without a living writer."""
    path = roles_directory(cookie)
    found = [each for suffix in _suffixes(path) if (each := _stored(path, suffix)) is not None]
    return _merged(found) if found else None


def _stored(path: str, suffix: str) -> VipRoles | None:
    """Return the roles of one writer; None if it does not live."""
    try:
        alive = os.open(f"{path}/{_ALIVE}{suffix}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if _FILE_LOCK.unpack(fcntl.fcntl(alive, fcntl.F_OFD_GETLK, _lock(fcntl.F_WRLCK)))[0] == fcntl.F_UNLCK:
            return None
        with open(f"{path}/{_ADDRESSES}{suffix}", encoding="ascii") as file:
            words = [line.split() for line in file]
    except OSError:
        return None
    finally:
        os.close(alive)
    by_role: dict[str, set[Address]] = {_STANDBY: set(), _HELD: set()}
    for role, address in words:
        by_role[role].add(ipaddress.ip_address(address))
    return VipRoles(frozenset(by_role[_STANDBY]), frozenset(by_role[_HELD]))


def forget(cookie: int) -> None:
    """Remove the files of writers that were killed. A writer that starts at this moment waits and retries."""
    path = roles_directory(cookie)
    for suffix in _suffixes(path):
        name = f"{path}/{_ALIVE}{suffix}"
        try:
            alive = os.open(name, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        with contextlib.suppress(OSError):
            fcntl.fcntl(alive, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
            if os.path.samestat(os.fstat(alive), os.stat(name)):  # else a new writer has made its file in between
                _remove(path, suffix)
        os.close(alive)


def _remove(path: str, suffix: str) -> None:
    """Remove a writer's files, and the directory after the last one."""
    for name in _ADDRESSES, _DRAFT, _ALIVE:
        with contextlib.suppress(OSError):
            os.unlink(f"{path}/{name}{suffix}")
    with contextlib.suppress(OSError):
        os.rmdir(path)
        os.rmdir(ROLES)


def _collect() -> None:
    """Remove the directories of killed writers, of all namespaces."""
    with contextlib.suppress(OSError):
        for name in os.listdir(ROLES):
            if name.removeprefix("net").isdigit():
                forget(int(name.removeprefix("net")))


class Standby:
    """The roles of an instance's virtual routers (`pylvs.model.vrrp.Roles`); for one process at a time."""

    def __init__(self, instance: str = "") -> None:
        """Become a writer of the roles. Raises Busy while another process is, NotPermitted, Unsupported."""
        abi.struct("root")  # load now what would delay a take-over
        libbpf.library()
        self._keeper = Keeper(netns_cookie(), instance)
        self._tables: Tables | None = None
        self._mark = 0  # of the tables that are open

    @staticmethod
    def prepare() -> None:
        """Let this process find tables that are made later, also after it has dropped capabilities. Raises OSError."""
        mounts.hold_roots()

    def set_standby(self, addresses: frozenset[Address], held: frozenset[Address] = frozenset()) -> None:
        """Publish the roles: `addresses` are standby, the other `held` ones active.

        Raises NoSpace for too many addresses, Unsupported for tables of another pylvs, NotPermitted.
        """
        most = abi.constant("STANDBY_ADDRESSES")
        if len(addresses | held) > most:
            raise NoSpace(
                f"{len(addresses | held)} virtual addresses: {most} can have roles", "roles of addresses", most
            )
        roles = VipRoles(addresses, held - addresses)
        try:
            # First: a process that makes tables copies them until they stay the same (`settle`). So either it copies
            # these, or its tables are there now.
            self._keeper.keep(roles)
        finally:
            self._write_roles(roles)

    def close(self) -> None:
        """Make all addresses active and remove the stored roles: the virtual routers end in good order."""
        try:
            self.set_standby(frozenset())
        finally:
            self._keeper.close()

    def _write_roles(self, roles: VipRoles) -> None:
        tables = self._opened()
        if tables is None:
            return
        # A process that holds the lock copies the stored roles into the tables, and compares them again after that.
        # So does another writer, whose roles may change during that: it sees them only after the lock.
        with contextlib.suppress(Busy, FileNotFoundError):
            merged, before = self._keeper.with_others(roles), None
            while merged != before:
                with Lock(self._keeper.path, _WAIT_S, "the roles"):
                    if not _hold(tables, merged):
                        write(tables, merged)
                merged, before = self._keeper.with_others(roles), merged

    def _opened(self) -> Tables | None:
        """Return the tables that are pinned now; None while there are none."""
        if self._tables is None:
            state = State.open()
            if not state.exists:
                return None
            self._tables, self._mark = Tables(state), 0
        mark = self._tables.mark()
        if not mark:  # they were taken down
            self._tables = None
            return None
        if mark != self._mark:
            self._tables.state.check_build()
            self._tables, self._mark = Tables(self._tables.state), mark
        return self._tables


def settle(tables: Tables) -> None:
    """Copy the stored roles into the tables if they differ. Raises Busy."""
    cookie = tables.state.cookie
    roles = stored(cookie)
    while roles is not None and not _hold(tables, roles):
        with contextlib.suppress(FileNotFoundError), Lock(roles_directory(cookie), what="the roles"):
            roles = stored(cookie)
            if roles is not None:
                write(tables, roles)
        roles = stored(cookie)


def in_force(tables: Tables) -> VipRoles:
    """Return the roles in the tables."""
    side = int(tables.root.get(0, "standby"))
    standby: set[Address] = set()
    held: set[Address] = set()
    for key, sets in tables.standby.items():
        address = address_of(key, 6 if any(key[4:]) else 4)
        (standby if sets[0] & side else held).add(address)
    return VipRoles(frozenset(standby), frozenset(held))


def _hold(tables: Tables, roles: VipRoles) -> bool:
    """Return `in_force(tables) == roles`, but faster."""
    side = int(tables.root.get(0, "standby"))
    wanted = dict.fromkeys(map(address_bytes, roles.held), False)
    wanted |= dict.fromkeys(map(address_bytes, roles.standby), True)
    return wanted == {key: bool(sets[0] & side) for key, sets in tables.standby.items()}


def write(tables: Tables, roles: VipRoles) -> None:
    """Put the roles in force by one store: packets see the former set or this one. The caller is the only writer.

    An address has a bit for each of two sets. The bits of the former set stay until the next call, for packets that
    are being processed.
    """
    before = int(tables.root.get(0, "standby"))
    side = 2 if before == 1 else 1
    standby = {address_bytes(each) for each in roles.standby}
    routers = standby | {address_bytes(each) for each in roles.held}
    there = {key: sets[0] for key, sets in tables.standby.items()}
    wanted = {key: there.get(key, 0) & before | (side if key in standby else 0) for key in routers | set(there)}
    fresh = {key: sets for key, sets in wanted.items() if there.get(key) != sets}
    if fresh:
        tables.standby.put_many(b"".join(fresh), bytes(fresh.values()), len(fresh))
    keys = tables.root.get(0, "address_keys")
    bits = bitmap(((address_bytes(address), address.version) for address in roles.standby), keys)
    words = tables.root.array.words
    at = abi.struct("root").offset("standby_bits") >> 3
    for index, word in enumerate(bits):
        if word and word & ~words[at + index]:
            words[at + index] |= word
    tables.root.publish(0, "standby", side if standby else 0)
    write_bitmap(tables, "standby_bits", bits)
    gone = set(there) - routers
    if gone:
        tables.standby.remove_many(b"".join(gone), len(gone))

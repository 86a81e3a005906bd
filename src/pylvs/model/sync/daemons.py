"""The parameters of a sync daemon (IPVS-SEMANTICS 10.1), and the daemons that a configuration asks for."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, ip_address
from typing import Protocol as Interface

from pylvs.model.addresses import Address, family_of
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation
from pylvs.model.rows import ServiceRow

MASTER, BACKUP = ROLES = ("master", "backup")
GROUP = IPv4Address("224.0.0.81")
PORT, TTL = 8848, 1
HEADERS = {4: 28, 6: 48}  # bytes of an IP and an UDP header
MTU = 1500  # that a master assumes
LONGEST_MESSAGE = 65507
_SHORTEST = {MASTER: 1, BACKUP: 1024}


@dataclass(frozen=True, slots=True)
class SyncDaemon:
    """One sync daemon. `maxlen` limits its messages, in bytes; 0: as the MTU does."""

    role: str
    interface: str
    syncid: int = 0
    maxlen: int = 0
    group: Address = GROUP
    port: int = PORT
    ttl: int = TTL

    def longest(self, mtu: int) -> int:
        """Return the length of its longest message; `mtu` is that of its interface."""
        if self.maxlen:
            return min(max(self.maxlen, _SHORTEST[self.role]), LONGEST_MESSAGE)
        if self.role == MASTER:
            return MTU - HEADERS[self.group.version]
        return min(max(mtu, MTU), 65535) - HEADERS[4]

    def encoded(self) -> dict[str, str | int]:
        """Return plain values, for JSON."""
        return {
            "role": self.role,
            "interface": self.interface,
            "syncid": self.syncid,
            "maxlen": self.maxlen,
            "group": str(self.group),
            "port": self.port,
            "ttl": self.ttl,
        }

    @classmethod
    def decoded(cls, found: dict[str, str | int]) -> SyncDaemon:
        """Return the daemon of plain values. Raises KeyError, ValueError."""
        return cls(
            str(found["role"]),
            str(found["interface"]),
            int(found["syncid"]),
            int(found["maxlen"]),
            ip_address(found["group"]),
            int(found["port"]),
            int(found["ttl"]),
        )


@dataclass(frozen=True, slots=True)
class RunningDaemon:
    """A sync daemon that runs; `maxlen` is in bytes, as in force. `owner` is what started it, "" for a command."""

    daemon: SyncDaemon
    maxlen: int
    pid: int
    owner: str = ""


class SyncDaemons(Interface):
    """The sync daemons of a network namespace."""

    def start(self, daemon: SyncDaemon, rows: Iterable[ServiceRow]) -> None:
        """Start a daemon beside these services. Raises DaemonRuns, InvalidOperation, NoSuchDevice, PylvsError."""

    def stop(self, role: str) -> None:
        """Stop a daemon. Raises NoDaemon, PylvsError."""

    def running(self) -> Iterable[RunningDaemon]:
        """Return the daemons that run, the master first."""


def check(rows: Iterable[ServiceRow]) -> None:
    """Raise InvalidOperation if IPVS would not start a daemon beside these services."""
    for row in rows:
        if any(family_of(each.destination.key.address) != row.service.key.family for each in row.destinations):
            raise InvalidOperation(f"{row.service.key} has a server of the other address family")


@dataclass(frozen=True, slots=True)
class SyncWanted:
    """What lvs_sync_daemon configures: `instance` is the virtual router whose state decides the role.

    Without one, both daemons run.
    """

    interface: str
    instance: str = ""
    syncid: int = 0
    maxlen: int = 0
    group: Address = GROUP
    port: int = PORT
    ttl: int = TTL

    def daemon(self, role: str) -> SyncDaemon:
        """Return the daemon of a role."""
        return SyncDaemon(role, self.interface, self.syncid, self.maxlen, self.group, self.port, self.ttl)

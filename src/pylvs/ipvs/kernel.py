"""The kernel's IPVS in this network namespace: read and edit its table, read its connections and settings."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from pylvs.ipvs import listing, messages
from pylvs.ipvs.listing import Line
from pylvs.ipvs.messages import KernelDestination, KernelService, SyncDaemon
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Unsupported
from pylvs.model.service import Destination, ServiceKey, Timeouts, VirtualService
from pylvs.netlink.codec import NETLINK_GENERIC, Netlink, NetlinkError, generic_family

CONNECTIONS = "/proc/net/ip_vs_conn"
SETTINGS = "/proc/sys/net/ipv4/vs"


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Raise Unsupported if the block cannot read a line."""
    try:
        yield
    except listing.Unreadable as error:
        raise Unsupported(f"{CONNECTIONS}: this kernel prints a form that pylvs does not know: {error}") from None


@dataclass(frozen=True, slots=True)
class KernelRow:
    """A service with its destinations, the newest first."""

    service: KernelService
    destinations: tuple[KernelDestination, ...]

    @property
    def wanted(self) -> tuple[VirtualService, tuple[Destination, ...]]:
        """Return what the row is without counts."""
        return self.service.service, tuple(each.destination for each in self.destinations)


class KernelIpvs:
    """IPVS's netlink family and its files. Open it in the network namespace in question."""

    def __init__(self) -> None:
        """Raise Unsupported if ip_vs is not loaded."""
        self._link = Netlink(NETLINK_GENERIC)
        family = generic_family(self._link, messages.FAMILY)
        if family is None:
            self._link.close()
            raise Unsupported("the kernel has no IPVS: the module ip_vs is not loaded; modprobe ip_vs loads it")
        self._family = family

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._link.close()

    def _do(self, doing: str, command: int, *members: bytes) -> list[bytes]:
        try:
            return self._link.request(self._family, messages.request(command, *members))
        except NetlinkError as error:
            raise error.as_failure(f"ip_vs: {doing}") from None

    def _dump(self, doing: str, command: int, *members: bytes) -> list[bytes]:
        try:
            return self._link.dump(self._family, messages.request(command, *members))
        except NetlinkError as error:
            raise error.as_failure(f"ip_vs: {doing}") from None

    def rows(self) -> list[KernelRow]:
        """Return all services with their destinations. An edit at this moment may be seen in part."""
        found = []
        for body in self._dump("listing services", messages.GET_SERVICE):
            service = messages.parse_service(body)
            key = service.service.key
            bodies = self._dump(f"listing the servers of {key}", messages.GET_DEST, messages.service_named(key))
            found.append(KernelRow(service, tuple(messages.parse_destination(each, key.family) for each in bodies)))
        return found

    def timeouts(self) -> Timeouts:
        """Return the timeouts in force."""
        return messages.parse_timeouts(self._do("reading timeouts", messages.GET_CONFIG)[0])

    def daemons(self) -> list[SyncDaemon]:
        """Return the sync daemons that run."""
        return list(map(messages.parse_daemon, self._dump("listing sync daemons", messages.GET_DAEMON)))

    def settings(self) -> Mapping[str, str]:
        """Return the texts of net.ipv4.vs by name."""
        found = {}
        for name in sorted(os.listdir(SETTINGS)):
            with open(f"{SETTINGS}/{name}") as file:
                found[name] = file.read().strip()
        return found

    def connections(self) -> Iterator[Line]:
        """Yield connections and templates. Raises Unsupported for a line of an unknown form."""
        with readable():
            yield from listing.parse(list(self.connection_lines()))

    def connection_lines(self) -> Iterator[bytes]:
        """Yield the kernel's list of connections and templates, line by line; the first one is the title."""
        with open(CONNECTIONS, "rb", buffering=1 << 20) as file:
            yield from file

    def flush(self) -> None:
        """Delete all services; IPVS no longer sees packets. Connections stay until they expire."""
        self._do("deleting all services", messages.FLUSH)

    def add_service(self, service: VirtualService) -> None:
        """Add a service without destinations."""
        self._do(f"adding {service.key}", messages.NEW_SERVICE, messages.service_whole(service))

    def add_destination(self, key: ServiceKey, destination: Destination) -> None:
        """Add a destination to a service."""
        named = messages.service_named(key)
        whole = messages.destination_whole(destination)
        self._do(f"adding {key} -> {destination.key}", messages.NEW_DEST, named, whole)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Set the timeouts that are not 0."""
        self._do("setting timeouts", messages.SET_CONFIG, messages.timeouts_whole(timeouts))

    def start_backup(self, interface: str, syncid: int) -> None:
        """Start the sync daemon that takes connections over."""
        self._do(
            "starting its sync daemon", messages.NEW_DAEMON, messages.daemon_whole(messages.BACKUP, interface, syncid)
        )

    def stop_backup(self, interface: str, syncid: int) -> None:
        """Stop that daemon."""
        self._do(
            "stopping its sync daemon", messages.DEL_DAEMON, messages.daemon_whole(messages.BACKUP, interface, syncid)
        )

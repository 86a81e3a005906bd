"""Names of hosts and ports: a small interface, and the machine's own answers to it."""

from __future__ import annotations

from ipaddress import IPv4Address

from pylvs.model import sockets as socket
from pylvs.model.addresses import Address

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object

TRANSPORTS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_SCTP: "sctp"}
REMEMBERED = 4096  # names kept while a long listing runs


class Names(Protocol):
    """Whoever knows names; None where there is none. Protocols are IP protocol numbers."""

    def address(self, host: str) -> IPv4Address | None:
        """The IPv4 address of a host."""

    def port(self, service: str, protocol: int) -> int | None:
        """The port of a named service."""

    def host(self, address: Address) -> str | None:
        """The name of a host."""

    def service(self, port: int, protocol: int) -> str | None:
        """The name of a port."""


class SystemNames:
    """What the C library says: /etc/hosts, /etc/services, DNS, as nsswitch.conf wants it."""

    def __init__(self) -> None:
        self._hosts: dict[Address, str | None] = {}
        self._services: dict[tuple[int, int], str | None] = {}

    def address(self, host: str) -> IPv4Address | None:
        """The IPv4 address of a host."""
        if not host or host.startswith("<"):  # Python gives "" and "<broadcast>" meanings of its own
            return None
        try:
            return IPv4Address(socket.gethostbyname(host))
        except (OSError, ValueError):
            return None

    def port(self, service: str, protocol: int) -> int | None:
        """The port of a named service."""
        try:
            return socket.getservbyname(service, TRANSPORTS[protocol])
        except (OSError, ValueError, KeyError):
            return None

    def host(self, address: Address) -> str | None:
        """The name of a host."""
        if address not in self._hosts:
            _make_room(self._hosts)
            try:
                self._hosts[address] = socket.gethostbyaddr(str(address))[0]
            except (OSError, ValueError):
                self._hosts[address] = None
        return self._hosts[address]

    def service(self, port: int, protocol: int) -> str | None:
        """The name of a port."""
        if (port, protocol) not in self._services:
            _make_room(self._services)
            try:
                self._services[port, protocol] = socket.getservbyport(port, TRANSPORTS[protocol])
            except (OSError, ValueError, KeyError):
                self._services[port, protocol] = None
        return self._services[port, protocol]


def _make_room(known: dict[Address, str | None] | dict[tuple[int, int], str | None]) -> None:
    if len(known) >= REMEMBERED:
        known.clear()

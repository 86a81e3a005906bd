"""Names of hosts and ports: a small interface, and the machine's own answers to it."""

from __future__ import annotations

from collections.abc import Callable
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


# --- endpoints -------------------------------------------------------------------------------------------------------
# How addresses and ports are written in listings and rules.


LONGEST = 59  # letters of host:port
LONGEST_V4_LISTED = 28  # letters of an IPv4 one in a listing

Writer = Callable[[Address, int, int], str]  # address, port, protocol (0: its ports have no names)


def address_text(address: Address) -> str:
    """An address as inet_ntop writes it: unlike Python, with dotted quads in mapped addresses."""
    return str(address) if isinstance(address, IPv4Address) else socket.inet_ntop(socket.AF_INET6, address.packed)


def numeric(address: Address, port: int, _: int = 0) -> str:
    """`192.0.2.1:80`, `[2001:db8::1]:80`."""
    return f"{address!s}:{port}" if isinstance(address, IPv4Address) else f"[{address_text(address)}]:{port}"


def with_names(names: Names) -> Writer:
    """A writer that uses names where there are any, and cuts what becomes too long."""

    def write(address: Address, port: int, protocol: int) -> str:
        host = names.host(address) or address_text(address)
        service = names.service(port, protocol) or str(port)
        return (f"{host}:{service}" if isinstance(address, IPv4Address) else f"[{host}]:{service}")[:LONGEST]

    return write


def listed(writer: Writer) -> Writer:
    """A writer for the columns of a listing."""

    def write(address: Address, port: int, protocol: int) -> str:
        text = writer(address, port, protocol)
        return text[:LONGEST_V4_LISTED] if isinstance(address, IPv4Address) else text

    return write


def mark_text(mark: int) -> str:
    """A firewall mark, which ipvsadm takes without a sign and prints with one."""
    return str(mark - (1 << 32) if mark >= 1 << 31 else mark)


def mask_text(netmask: int, family: int) -> str:
    """A persistence mask: an IPv4 mask, an IPv6 prefix length."""
    return str(IPv4Address(netmask)) if family == socket.AF_INET else str(netmask)

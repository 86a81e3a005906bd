"""Names of hosts and ports, by the C library, and endpoints as text."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address

from pylvs.model import sockets as socket
from pylvs.model.addresses import Address

TRANSPORTS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_SCTP: "sctp"}
REMEMBERED = 4096  # names to cache during a listing
LONGEST = 59  # characters of host:port
LONGEST_V4_LISTED = 28  # characters of an IPv4 host:port in a listing

Writer = Callable[[Address, int, int], str]  # address, port, protocol (0: without port names)


class Names:
    """Names of the C library: /etc/hosts, /etc/services, DNS, as nsswitch.conf configures. None where there is none.

    Protocols are IP protocol numbers.
    """

    def address(self, host: str) -> IPv4Address | None:
        """Look up the IPv4 address of a host name."""
        if not host or host.startswith("<"):  # Python gives "" and "<broadcast>" meanings of its own
            return None
        try:
            return IPv4Address(socket.gethostbyname(host))
        except (OSError, ValueError):
            return None

    def port(self, service: str, protocol: int) -> int | None:
        """Look up the port of a service name."""
        try:
            return socket.getservbyname(service, TRANSPORTS[protocol])
        except (OSError, ValueError, KeyError):
            return None

    def host(self, address: Address) -> str | None:
        """Look up the host name of an address."""
        try:
            return socket.gethostbyaddr(str(address))[0]
        except (OSError, ValueError):
            return None

    def service(self, port: int, protocol: int) -> str | None:
        """Look up the service name of a port."""
        try:
            return socket.getservbyport(port, TRANSPORTS[protocol])
        except (OSError, ValueError, KeyError):
            return None


def address_text(address: Address) -> str:
    """Write an address as inet_ntop(3) does: unlike Python, with dotted quads in mapped addresses."""
    return str(address) if isinstance(address, IPv4Address) else socket.inet_ntop(socket.AF_INET6, address.packed)


def numeric(address: Address, port: int, _: int = 0) -> str:
    """Write an endpoint as `192.0.2.1:80` or `[2001:db8::1]:80`."""
    return f"{address!s}:{port}" if isinstance(address, IPv4Address) else f"[{address_text(address)}]:{port}"


def with_names(names: Names) -> Writer:
    """Return a writer that uses names where there are any, and cuts long texts."""
    host_of, service_of = lru_cache(REMEMBERED)(names.host), lru_cache(REMEMBERED)(names.service)

    def write(address: Address, port: int, protocol: int) -> str:
        host = host_of(address) or address_text(address)
        service = service_of(port, protocol) or str(port)
        return (f"{host}:{service}" if isinstance(address, IPv4Address) else f"[{host}]:{service}")[:LONGEST]

    return write


def listed(writer: Writer) -> Writer:
    """Return a writer for the columns of a listing."""

    def write(address: Address, port: int, protocol: int) -> str:
        text = writer(address, port, protocol)
        return text[:LONGEST_V4_LISTED] if isinstance(address, IPv4Address) else text

    return write


def mark_text(mark: int) -> str:
    """Write a firewall mark as ipvsadm does: as a signed number, although it reads an unsigned one."""
    return str(mark - (1 << 32) if mark >= 1 << 31 else mark)


def mask_text(netmask: int, family: int) -> str:
    """Write a persistence mask: an IPv4 mask, or an IPv6 prefix length."""
    return str(IPv4Address(netmask)) if family == socket.AF_INET else str(netmask)

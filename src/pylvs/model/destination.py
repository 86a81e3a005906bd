"""Destinations: the real servers of a service (IPVS-SEMANTICS 1.5 to 1.8)."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from ipaddress import ip_address

from pylvs.model.addresses import Address, endpoint
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation

MAX_WEIGHT = 0x7FFFFFFF
MAX_PORT = 0xFFFF


class Method(IntEnum):
    """Forwarding methods, with IPVS's numbers."""

    MASQ = 0
    LOCAL = 1
    TUNNEL = 2
    ROUTE = 3


# As keepalived.conf and the daemon's log write them.
METHOD_NAMES = {Method.MASQ: "NAT", Method.LOCAL: "local", Method.TUNNEL: "TUN", Method.ROUTE: "DR"}


class TunnelKind(IntEnum):
    """Encapsulations of the tunnel method, with IPVS's numbers."""

    IPIP = 0
    GUE = 1
    GRE = 2


class TunnelFlag(IntFlag):
    """Checksum choices of a tunnel; none of them is "nocsum"."""

    CSUM = 1
    REMCSUM = 2


@dataclass(frozen=True, slots=True)
class Tunnel:
    """How a tunnelled destination is reached; port in host order, GUE only."""

    kind: TunnelKind = TunnelKind.IPIP
    port: int = 0
    flags: TunnelFlag = TunnelFlag(0)


@dataclass(frozen=True, slots=True)
class DestinationKey:
    """What identifies a destination within its service; port 0 means "the port of the packet"."""

    address: Address
    port: int

    def __hash__(self) -> int:
        return hash((int(self.address), self.port))  # an address itself hashes the text of its number

    def __str__(self) -> str:
        return endpoint(self.address, self.port)


@dataclass(frozen=True, slots=True)
class Destination:
    """A real server of a service, with its weight, thresholds and forwarding method."""

    key: DestinationKey
    method: Method = Method.ROUTE
    weight: int = 1
    upper: int = 0  # overloaded from this number of connections; 0: never
    lower: int = 0  # available again below this number; 0: three quarters of upper
    tunnel: Tunnel = Tunnel()


def _server_pattern() -> str:
    word, port = "[0-9A-Fa-f]{1,4}", "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    byte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
    shortened = (f"({word}:){{1,{before}}}(:{word}){{1,{7 - before}}}" for before in range(1, 7))
    ipv6 = "|".join((f"({word}:){{7}}{word}", f"({word}:){{1,7}}:", *shortened, f":(:{word}){{1,7}}", "::"))
    return rf"^({byte}(\.{byte}){{3}}(:{port})?|{ipv6}|\[({ipv6})\](:{port})?)$"


SERVER_PATTERN = _server_pattern()  # the syntax of `server_named` as a regular expression of JSON Schema


def server_named(text: str) -> DestinationKey | Address:
    """Parse `10.0.0.2:80` or `[2001:db8::2]:80`, one server, or an address: every server with it.

    Raises InvalidOperation.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        if colon and (bracketed or ":" not in host):
            address = ip_address(host[1:-1] if bracketed else host)
            if not (port.isascii() and port.isdigit() and int(port) <= MAX_PORT):
                raise ValueError
            return DestinationKey(address, int(port))
        return ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise InvalidOperation(
            f"{text}: must be ADDRESS or ADDRESS:PORT of a real server, [ADDRESS]:PORT in IPv6"
        ) from None

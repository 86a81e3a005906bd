"""What identifies services and servers, and the parsing of values that both have."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from pylvs.library.invalid import InvalidValue
from pylvs.model.addresses import ANY_V4, ANY_V6, Address, endpoint
from pylvs.model.dataclass import dataclass
from pylvs.model.service import MAX_PORT, DestinationKey, Protocol
from pylvs.model.service import ServiceKey as ModelKey

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from enum import Enum
    from typing import Literal, TypeVar

    Choice = TypeVar("Choice", bound=Enum)
    ProtocolName = Literal["tcp", "udp", "sctp", "TCP", "UDP", "SCTP"]

MAX_MARK = 0xFFFFFFFF
_FAMILIES = (4, 6)
_ENDPOINT = re.compile(r"(?:\[(?P<six>[^][]+)\]|(?P<four>[^][:]+)):(?P<port>[0-9]{1,5})")
_MARK = re.compile(r"FWM (?P<mark>[0-9]{1,10})(?P<six> IPv6)?", re.IGNORECASE)


def setter(instance: object) -> Callable[[str, object], None]:
    """Return how the `__init__` of a frozen class sets its fields."""
    return lambda name, value: object.__setattr__(instance, name, value)


def number(field: str, value: object, lowest: int, highest: int) -> int:
    """Return a whole number within its bounds. Raises InvalidValue."""
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
        raise InvalidValue(field, value, f"must be a whole number from {lowest} to {highest}")
    return int(value)


def boolean(field: str, value: object) -> bool:
    """Return True or False. Raises InvalidValue for anything else: the text "no" would count as True."""
    if not isinstance(value, bool):
        raise InvalidValue(field, value, "must be True or False")
    return value


def address(field: str, value: object) -> Address:
    """Return an address from its text or itself. Raises InvalidValue."""
    hint = "must be an IPv4 or IPv6 address"
    try:
        found = value if isinstance(value, IPv4Address | IPv6Address) else ip_address(text(field, value, hint))
    except ValueError:
        raise InvalidValue(field, value, hint) from None
    if isinstance(found, IPv6Address) and found.scope_id is not None:
        raise InvalidValue(field, value, f"must have no zone; write {str(found).partition('%')[0]}")
    return found


def text(field: str, value: object, hint: str) -> str:
    """Return a text. Raises InvalidValue for anything else."""
    if not isinstance(value, str):
        raise InvalidValue(field, value, hint)
    return value


def choice(field: str, value: object, choices: type[Choice], by_value: bool = False) -> Choice:
    """Return a member of an enumeration from its name, in any case, or itself. Raises InvalidValue."""
    if isinstance(value, choices):
        return value
    names = {str(each.value if by_value else each.name).lower(): each for each in choices}
    found = names.get(value.lower()) if isinstance(value, str) else None
    if found is None:
        raise InvalidValue(field, value, f"must be one of: {', '.join(names)}")
    return found


def _split(field: str, value: object) -> tuple[Address, int]:
    hint = "must be ADDRESS:PORT, or [ADDRESS]:PORT in IPv6"
    found = _ENDPOINT.fullmatch(text(field, value, hint))
    if not found:
        raise InvalidValue(field, value, hint)
    where = address("address", found["six"] or found["four"])
    if (where.version == 6) != bool(found["six"]):
        raise InvalidValue(field, value, "must have brackets around an IPv6 address, and only there")
    return where, number("port", int(found["port"]), 0, MAX_PORT)


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """What identifies a service: protocol, address and port, or a firewall mark of one IP version.

    The key of a mark has protocol TCP, the zero address of its IP version, and port 0.
    """

    protocol: Protocol
    address: Address
    port: int
    mark: int

    def __init__(self, protocol: Protocol | ProtocolName, address: Address | str, port: int, *, mark: int = 0) -> None:
        """Raise InvalidValue for a field that no service can have."""
        put = setter(self)
        put("protocol", choice("protocol", protocol, Protocol))
        put("address", _address(address))
        put("port", number("port", port, 0, MAX_PORT))
        put("mark", number("mark", mark, 0, MAX_MARK))
        if self.mark and (self.protocol, int(self.address), self.port) != (Protocol.TCP, 0, 0):
            raise InvalidValue("mark", mark, "has no address and no port; use of_mark(mark)")

    @classmethod
    def of_mark(cls, mark: int, version: int = 4) -> ServiceKey:
        """Return the key of the service of a firewall mark, for packets of IPv4 or IPv6 (`version` 6)."""
        return cls(Protocol.TCP, any_address(version), 0, mark=number("mark", mark, 1, MAX_MARK))

    @classmethod
    def parse(cls, text: str) -> ServiceKey:
        """Invert `str`: `TCP 192.0.2.1:80`, `udp [2001:db8::1]:53`, `FWM 7`, `FWM 7 IPv6`. Raises InvalidValue."""
        hint = "must be PROTOCOL ADDRESS:PORT, or FWM MARK"
        found = _MARK.fullmatch(_text("service", text, hint))
        if found:
            return cls.of_mark(int(found["mark"]), 6 if found["six"] else 4)
        protocol, space, rest = text.partition(" ")
        if not space:
            raise InvalidValue("service", text, hint)
        return cls(choice("protocol", protocol, Protocol), *_split("service", rest))

    @classmethod
    def from_model(cls, key: ModelKey) -> ServiceKey:
        """Return the key of a service in the table."""
        return cls(key.protocol, key.address, key.port, mark=key.mark)

    def to_model(self) -> ModelKey:
        """Return the key that the data plane knows."""
        return ModelKey(self.protocol, self.address, self.port, self.mark)

    def __str__(self) -> str:
        return str(self.to_model())


@dataclass(frozen=True, slots=True)
class ServerKey:
    """What identifies a server within its service. Port 0 of a mark's service means the port of the packet."""

    address: Address
    port: int

    def __init__(self, address: Address | str, port: int) -> None:
        """Raise InvalidValue for a field that no server can have."""
        put = setter(self)
        put("address", _address(address))
        put("port", number("port", port, 0, MAX_PORT))

    @classmethod
    def parse(cls, text: str) -> ServerKey:
        """Invert `str`: `10.0.0.1:80`, `[2001:db8::1]:80`. Raises InvalidValue."""
        return parse_server(text, "server")

    @classmethod
    def from_model(cls, key: DestinationKey) -> ServerKey:
        """Return the key of a server in the table."""
        return cls(key.address, key.port)

    def to_model(self) -> DestinationKey:
        """Return the key that the data plane knows."""
        return DestinationKey(self.address, self.port)

    def __str__(self) -> str:
        return endpoint(self.address, self.port)


def parse_server(text: str, field: str) -> ServerKey:
    """Return the key of a text, which is the value of an argument `field`. Raises InvalidValue."""
    return ServerKey(*_split(field, text))


# Fields and arguments of the classes hide these functions.
def _address(value: object) -> Address:
    return address("address", value)


_text = text


def any_address(version: object) -> Address:
    """Return the zero address of an IP version. Raises InvalidValue."""
    if not isinstance(version, int) or version not in _FAMILIES:
        raise InvalidValue("version", version, "must be 4 or 6")
    return ANY_V4 if version == 4 else ANY_V6

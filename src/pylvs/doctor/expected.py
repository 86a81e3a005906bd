"""What an examiner of a whole network expects of one host: its clients, its gateway, and what it forwards."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Flow:
    """Packets that a router has to forward, from the device `iif` to the device `oif`.

    `public`: the address that clients use, which the router has to replace by `daddr`; None for others.
    """

    saddr: Address
    daddr: Address
    iif: str
    oif: str
    protocol: int = 6
    sport: int = 0
    dport: int = 0
    public: Address | None = None

    @property
    def is_reply(self) -> bool:
        """Return whether the packets come from the port of a service."""
        return bool(self.sport)


@dataclass(frozen=True, slots=True)
class Expected:
    """`gateway`: that of a real server's replies. `flows`: those of a router."""

    clients: tuple[Address, ...] = ()
    gateway: Address | None = None
    flows: tuple[Flow, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as types of JSON, for `from_dict`."""
        return {
            "clients": list(map(str, self.clients)),
            "gateway": str(self.gateway) if self.gateway else "",
            "flows": [
                {name: _text(getattr(flow, name)) for name in flow.__dataclass_fields__ if getattr(flow, name)}
                for flow in self.flows
            ],
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Expected:
        """Return what `as_dict` returned."""
        flows = tuple(Flow(**{name: _value(name, each) for name, each in flow.items()}) for flow in fields["flows"])
        gateway = ip_address(fields["gateway"]) if fields["gateway"] else None
        return cls(tuple(map(ip_address, fields["clients"])), gateway, flows)


NOTHING = Expected()


def _text(value: object) -> object:
    return value if isinstance(value, int | str) else str(value)


def _value(name: str, value: Any) -> Any:
    return ip_address(value) if name in ("saddr", "daddr", "public") else value

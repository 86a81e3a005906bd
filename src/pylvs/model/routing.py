"""Addresses, routes and rules of `ip address`, `ip route` and `ip rule`: a virtual router's, or fixed ones.

Besides, announcements of addresses to other routers.

Tables, scopes, protocols and types of service are rtnetlink's numbers (rtnetlink(7)), not names.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass

Interface = IPv4Interface | IPv6Interface  # an address with its prefix length
Network = IPv4Network | IPv6Network

SCOPE_GLOBAL, SCOPE_SITE, SCOPE_LINK, SCOPE_HOST, SCOPE_NOWHERE = 0, 200, 253, 254, 255
TABLE_MAIN = 254
TABLE_LOCAL = 255
PROTOCOL_KEEPALIVED = 18  # RTPROT_KEEPALIVED
FOREVER = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAddress:
    """An address on a device, with the options of `ip address add`."""

    interface: Interface
    device: str = ""  # "": the virtual router's own, its VMAC included; for a fixed address the default interface
    label: str = ""  # ifconfig's alias, at most 15 characters
    scope: int = SCOPE_GLOBAL
    broadcast: Address | None = None
    peer: Address | None = None  # of a point-to-point link
    preferred_lft_s: int = FOREVER  # 0 deprecates: the host does not choose it as a source
    valid_lft_s: int = FOREVER  # then the kernel removes it
    metric: int = 0  # of its route; 0: the kernel's default
    home: bool = False  # IFA_F_HOMEADDRESS
    no_dad: bool = False  # IFA_F_NODAD
    manage_temporary: bool = False  # IFA_F_MANAGETEMPADDR
    no_prefix_route: bool = False  # IFA_F_NOPREFIXROUTE
    join_group: bool = False  # IFA_F_MCAUTOJOIN
    own_vmac: bool = False  # on a VMAC of its own above `device`
    tracked: bool = True  # its removal by another program counts

    def __str__(self) -> str:
        return f"{self.interface} dev {self.device}" if self.device else str(self.interface)


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    """A next hop of a route: gateway, device or both."""

    via: Address | None = None
    device: str = ""
    weight: int = 1  # share, 1 to 256
    onlink: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route; several next hops are one multipath route."""

    destination: Network
    kind: str = "unicast"  # unicast, local, broadcast, multicast, throw, unreachable, prohibit, blackhole, nat
    next_hops: tuple[NextHop, ...] = ()
    source: Address | None = None  # preferred source
    from_network: Network | None = None  # IPv6: for packets from there alone
    table: int = TABLE_MAIN
    scope: int | None = None  # None: the kernel's default for this kind
    metric: int = 0
    tos: int = 0
    protocol: int = PROTOCOL_KEEPALIVED
    append: bool = False  # after equal routes, not before them
    options: tuple[tuple[str, str], ...] = ()  # the rest, in the syntax of `ip route`: ("mtu", "lock 1400")
    tracked: bool = True

    def __str__(self) -> str:
        kind = "" if self.kind == "unicast" else f"{self.kind} "
        return f"{kind}{self.destination}" + (f" from {self.from_network}" if self.from_network else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRule:
    """A rule of the routing policy: an action for packets that match all conditions."""

    family: int  # 4 or 6
    action: str = "table"  # table, goto, nop, blackhole, unreachable, prohibit
    table: int = 0  # for action table; 0 with `l3mdev`
    goto: int = 0  # for action goto: the preference of the next rule
    preference: int = 0
    source: Network | None = None
    destination: Network | None = None
    inverted: bool = False  # `not`
    iif: str = ""
    oif: str = ""
    mark: int = 0
    mark_mask: int = 0  # 0: any mark
    tos: int = 0
    l3mdev: bool = False
    protocol: int = PROTOCOL_KEEPALIVED
    options: tuple[tuple[str, str], ...] = ()  # the rest, in the syntax of `ip rule`: ("uidrange", "10-20")
    tracked: bool = True


class State(StrEnum):
    """What other routers know of an address of this director."""

    ANNOUNCED = "announced"
    LEAVING = "leaving"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Announcement:
    """The state of an address, and why it is not announced."""

    address: Address
    state: State
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Left:
    """When a director was commanded to leave, and when it withdraws its addresses: Unix times."""

    since: float
    until: float

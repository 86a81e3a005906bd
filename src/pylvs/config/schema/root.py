"""The top level of a configuration file; a new top-level block is one line in ROOT.

The small blocks are defined here: static addresses, routes and rules, track groups, and limits and delays of devices.
"""

from __future__ import annotations

from pylvs.config.language.tree import Word
from pylvs.config.schema.global_defs import GLOBAL_DEFS, TOP
from pylvs.config.schema.grammar import Block, Keyword, State, Twice, Type, Words
from pylvs.config.schema.routes import RouteLine
from pylvs.config.schema.routing_rules import RuleLine
from pylvs.config.schema.types import Seconds, choice
from pylvs.config.schema.virtual_server import VIRTUAL_SERVER, VIRTUAL_SERVER_GROUP
from pylvs.config.schema.vrrp_instance import VRRP_INSTANCE, VRRP_SYNC_GROUP
from pylvs.config.schema.vrrp_tracks import TRACK_DEFINITIONS
from pylvs.config.schema.vrrp_types import DEVICE, MAX_INTERVAL_S, NAME, AddressLine, Device, NameList
from pylvs.model.dataclass import dataclass

MAX_LINK_DELAY_S = 255.0


@dataclass(frozen=True, slots=True)
class DelayedLink:
    """How long a device must be down or up before pylvs reacts."""

    device: Device
    down_s: float
    up_s: float

    @property
    def devices(self) -> tuple[Word, ...]:
        return self.device.devices


@dataclass(frozen=True, slots=True)
class DelayLine(Type[DelayedLink]):
    """A device, seconds for down, and seconds for up if they differ."""

    def parse(self, words: Words) -> DelayedLink:
        device = DEVICE.parse(words)
        seconds = Seconds(0, MAX_LINK_DELAY_S)
        down = seconds.parse(words)
        return DelayedLink(device, down, seconds.parse(words) if words else down)

    def __str__(self) -> str:
        return f"DEVICE SECONDS [SECONDS], 0 to {MAX_LINK_DELAY_S:g}: down, and up"


@dataclass(frozen=True, slots=True)
class PolledLine(Type[Device]):
    """A device, and how keepalived polls it."""

    def parse(self, words: Words) -> Device:
        device = DEVICE.parse(words)
        if words:
            choice("MII", "ETHTOOL", "IOCTL").parse(words)
        return device

    def __str__(self) -> str:
        return "DEVICE [MII|ETHTOOL|IOCTL]"


STATIC_IPADDRESS = Block(
    "static_ipaddress",
    "addresses that this machine holds in every VRRP state",
    lines=AddressLine(static=True),
    twice=Twice.MANY,
)
STATIC_ROUTES = Block(
    "static_routes", "routes that this machine has in every VRRP state", lines=RouteLine(static=True), twice=Twice.MANY
)
STATIC_RULES = Block(
    "static_rules",
    "routing rules that this machine has in every VRRP state",
    lines=RuleLine(static=True),
    twice=Twice.MANY,
)
TRACK_GROUP = Block(
    "track_group",
    "virtual routers that go to fault when a static address, route or rule with this track_group is removed",
    (Block("group", "names of the virtual routers", lines=NameList("the name of a vrrp_instance"), twice=Twice.MANY),),
    head=NAME,
    twice=Twice.MANY,
)
GARP_GROUP = Block(
    "garp_group",
    "minimum time between gratuitous ARPs on a device, or on several devices together",
    (
        Keyword("garp_interval", Seconds(0, MAX_INTERVAL_S), "seconds between gratuitous ARPs"),
        Keyword("gna_interval", Seconds(0, MAX_INTERVAL_S), "seconds between neighbour advertisements"),
        Keyword("interface", DEVICE, "device"),
        Block("interfaces", "devices that share the limit", lines=NameList("a device"), twice=Twice.MANY),
    ),
    twice=Twice.MANY,
)
LINKBEAT_INTERFACES = Block(
    "linkbeat_interfaces",
    "devices with polled links",
    lines=PolledLine(),
    state=State.NEVER,
    instead="the kernel reports every change of a link; remove it",
)
INTERFACE_UP_DOWN_DELAYS = Block(
    "interface_up_down_delays",
    "how long a device must be up or down before virtual routers react",
    lines=DelayLine(),
    twice=Twice.MANY,
)
ROOT = Block(
    "",
    "the whole file",
    (
        GLOBAL_DEFS,
        *TOP,
        VIRTUAL_SERVER_GROUP,
        VIRTUAL_SERVER,
        VRRP_INSTANCE,
        VRRP_SYNC_GROUP,
        *TRACK_DEFINITIONS,
        STATIC_IPADDRESS,
        STATIC_ROUTES,
        STATIC_RULES,
        TRACK_GROUP,
        GARP_GROUP,
        LINKBEAT_INTERFACES,
        INTERFACE_UP_DOWN_DELAYS,
    ),
)

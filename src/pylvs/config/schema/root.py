"""The top level of a configuration file: a new top-level block is one line in ROOT."""

from __future__ import annotations

from pylvs.config.schema.global_defs import GLOBAL_DEFS, ignored, later, never
from pylvs.config.schema.grammar import Block, Keyword, State
from pylvs.config.schema.routing_types import address_line, route_line, rule_line
from pylvs.config.schema.types import TEXT, integer, seconds
from pylvs.config.schema.virtual_server import VIRTUAL_SERVER, VIRTUAL_SERVER_GROUP
from pylvs.config.schema.vrrp import TRACK_DEFINITIONS, VRRP_INSTANCE, VRRP_SYNC_GROUP
from pylvs.config.schema.vrrp_types import DELAY_LINE, DEVICE, MAX_INTERVAL_S, NAME, POLLED_LINE, names

POLLED = "the kernel reports every change of a link; remove it"
INTERVAL = seconds(0, MAX_INTERVAL_S)
ROOT = Block(
    "",
    "the whole file",
    (
        GLOBAL_DEFS,
        *later("start pylvs within it: ip netns exec NAME pylvs run", "net_namespace", "net_namespace_ipvs"),
        *later("give each instance a directory: pylvs run --state-dir", "instance"),
        *ignored("use_pid_dir", "namespace_with_ipsets"),
        *ignored("child_wait_time", kind=integer()),
        Block(
            "SSL",
            "client certificate of SSL_GET",
            (
                Keyword("password", TEXT, "password of the private key"),
                Keyword("ca", TEXT, "trusted certificates"),
                Keyword("certificate", TEXT, "client certificate"),
                Keyword("key", TEXT, "private key of the certificate"),
            ),
            state=State.LATER,
            instead="SSL_GET shows no certificate",
            merged=True,
        ),
        *never(POLLED, "linkbeat_use_polling"),
        VIRTUAL_SERVER_GROUP,
        VIRTUAL_SERVER,
        VRRP_INSTANCE,
        VRRP_SYNC_GROUP,
        *TRACK_DEFINITIONS,
        Block(
            "static_ipaddress", "addresses that this machine holds in every VRRP state", lines=address_line(static=True)
        ),
        Block("static_routes", "routes that this machine has in every VRRP state", lines=route_line(static=True)),
        Block("static_rules", "routing rules that this machine has in every VRRP state", lines=rule_line(static=True)),
        Block(
            "track_group",
            "virtual routers that go to fault when a static address, route or rule with this track_group is removed",
            (Block("group", "names of the virtual routers", lines=names("the name of a vrrp_instance")),),
            head=NAME,
        ),
        Block(
            "garp_group",
            "minimum time between gratuitous ARPs on a device, or on several devices together",
            (
                Keyword("garp_interval", INTERVAL, "seconds between gratuitous ARPs"),
                Keyword("gna_interval", INTERVAL, "seconds between neighbour advertisements"),
                Keyword("interface", DEVICE, "device"),
                Block("interfaces", "devices that share the limit", lines=names("a device")),
            ),
        ),
        Block(
            "linkbeat_interfaces",
            "devices with polled links",
            lines=POLLED_LINE,
            state=State.NEVER,
            instead=POLLED,
            merged=True,
        ),
        Block(
            "interface_up_down_delays",
            "how long a device must be up or down before virtual routers react",
            lines=DELAY_LINE,
        ),
    ),
)

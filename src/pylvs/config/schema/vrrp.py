"""The keywords of virtual routers: `vrrp_instance`, `vrrp_sync_group`, and the blocks that define tracked objects."""

from __future__ import annotations

from pylvs.config.schema.grammar import Block, Keyword, State, Type
from pylvs.config.schema.routing_types import ROUTE_LINE, RULE_LINE
from pylvs.config.schema.types import (
    ADDRESS,
    BARE,
    COUNT,
    FLAG,
    SCRIPT_ALONE,
    TEXT,
    USER,
    at_least_one,
    bare,
    choice,
    flag,
    integer,
    script,
    seconds,
    text,
)
from pylvs.config.schema.vrrp_types import (
    ADDRESS_LINE,
    AT_LEAST_ONE,
    BFD_IDLE_MS,
    BFD_MS,
    CHECKSUM,
    DELETED,
    DEVICE,
    EXTRA,
    FILE_WEIGHT,
    INITIAL,
    IPVLAN,
    MAX_FILE_WEIGHT,
    NAME,
    OPTIONAL_WEIGHT,
    PASSWORD,
    PEER_LINE,
    PROCESS,
    VMAC,
    multicast,
    names,
    track_line,
    track_weight,
)

RUN_SECONDS = at_least_one(4294)
OCTET = integer(1, 255, exact=True)
FIRST_ADDRESS = "the interface's first address"

TRACKS = (
    Block(
        "track_interface",
        "tracked devices; with weight 0, a device that is down is a fault",
        lines=track_line("a device", clamped=True, keeps_line=True),
    ),
    Block("track_script", "tracked scripts", lines=track_line("a vrrp_script", clamped=True, keeps_line=True)),
    Block("track_file", "tracked files", lines=track_line("a track_file", MAX_FILE_WEIGHT)),
    Block(
        "track_process",
        "tracked processes",
        lines=track_line("a vrrp_track_process", MAX_FILE_WEIGHT, keeps_line=True),
    ),
    Block(
        "track_bfd",
        "tracked BFD sessions; with weight 0, a session that is down is a fault",
        lines=track_line("a bfd_instance"),
    ),
)


NOTIFIES = (
    script("notify_master", "run at the transition to master"),
    script("notify_backup", "run at the transition to backup"),
    script("notify_fault", "run at the transition to fault"),
    script("notify_stop", "run when pylvs stops it"),
    script("notify_deleted", "report DELETED instead of FAULT when a reload removes it, and run the program", DELETED),
    script("notify", "run at every transition, after the others; arguments: INSTANCE or GROUP, name, state, priority"),
    flag(
        "notify_priority_changes",
        "write changes of priority into the FIFOs",
        global_names=("vrrp_notify_priority_changes",),
    ),
    flag("smtp_alert", "mail transitions", global_names=("smtp_alert_vrrp", "smtp_alert")),
)

VRRP_SCRIPT = Block(
    "vrrp_script",
    "a program that runs periodically; exit status 0 is success",
    (
        Keyword("script", SCRIPT_ALONE, "the program and its arguments"),
        Keyword("interval", RUN_SECONDS, "seconds between two runs", 1),
        Keyword("timeout", RUN_SECONDS, "seconds after which it is killed", default_of="interval"),
        Keyword("weight", track_weight(keep=True), "default weight where a virtual router gives none", 0),
        Keyword("rise", integer(1), "consecutive successes until the state is up", 1),
        Keyword("fall", integer(1), "consecutive failures until the state is down", 1),
        Keyword("user", USER, "user and group that the program runs as", default_doc="script_user"),
        bare("init_fail", "start in state down"),
    ),
    head=NAME,
)
TRACK_FILE = Block(
    "track_file",
    "a file with a number that, times a weight, changes priorities",
    (
        Keyword("file", text("a path"), "path of the file"),
        Keyword("weight", FILE_WEIGHT, "default weight where a virtual router gives none", 1),
        Keyword("init_file", INITIAL, "create the file at startup with this number, by default 0"),
    ),
    aliases=("vrrp_track_file",),
    head=NAME,
)


def _delay(name: str, doc: str) -> Keyword:
    return Keyword(name, seconds(0.000001, 3600), doc)


VRRP_TRACK_PROCESS = Block(
    "vrrp_track_process",
    "a number of processes that must run",
    (
        Keyword("process", PROCESS, "name of the process; with arguments, its command line"),
        Keyword(
            "param_match",
            choice("initial", "partial"),
            "initial: the last argument may be longer; partial: more arguments may follow",
        ),
        Keyword("weight", FILE_WEIGHT, "default weight where a virtual router gives none", 0),
        Keyword("quorum", integer(1, 65535), "minimum number of processes", 1),
        Keyword("quorum_max", integer(0, 65535), "maximum number of processes", default_doc="any"),
        _delay("fork_delay", "seconds that enough processes must run before the state is up"),
        _delay("terminate_delay", "seconds that too few processes must run before the state is down"),
        _delay("delay", "both delays"),
        bare("full_command", "compare with the whole command line"),
    ),
    head=NAME,
)


BFD_INSTANCE = Block(
    "bfd_instance",
    "a BFD session with a neighbor (RFC 5880)",
    (
        Keyword("neighbor_ip", ADDRESS, "address of the neighbor", aliases=("neighbour_ip",)),
        Keyword("source_ip", ADDRESS, "own address", default_doc="the route's"),
        Keyword("min_rx", BFD_MS, "least milliseconds between two packets that the neighbor sends", 10.0),
        Keyword("min_tx", BFD_MS, "least milliseconds between two sent packets", 10.0),
        Keyword("idle_tx", BFD_IDLE_MS, "the same, while the session is not up", 1000.0),
        Keyword("multiplier", OCTET, "missing packets after which the neighbor finds it down", 5),
        bare("passive", "send nothing before the neighbor does"),
        Keyword("ttl", OCTET, "TTL, or hop limit, of sent packets", default_doc="255", aliases=("hoplimit",)),
        Keyword(
            "max_hops",
            integer(-1, 255, exact=True),
            "by how much the TTL of received packets may be less than ttl, for IPv6 without hoplimit than 64; "
            "-1 or 255: by anything",
            0,
        ),
        bare("multihop", "use the UDP port 4784 of RFC 5883, not 3784", is_own=True),
        Keyword("weight", track_weight(), "default weight where a virtual router gives none", 0),
        bare("vrrp", "for virtual routers; without vrrp and checker, for both"),
        bare("checker", "for health checks; without vrrp and checker, for both"),
    ),
    head=NAME,
)
TRACK_DEFINITIONS = (VRRP_SCRIPT, TRACK_FILE, VRRP_TRACK_PROCESS, BFD_INSTANCE)


def _with_global(name: str, kind: Type[object], doc: str, default: object, *fallbacks: str) -> Keyword:
    """Make a keyword whose default is `vrrp_NAME` of global_defs, or one of the fallbacks there."""
    return Keyword(name, kind, doc, default, global_names=(f"vrrp_{name}", *fallbacks))


AUTHENTICATION = Block(
    "authentication",
    "VRRP version 2: a password in every advertisement, or an IPsec authentication header",
    (
        Keyword(
            "auth_type", choice("PASS", "AH"), "PASS: the password in plain text; AH: IPsec's authentication header"
        ),
        Keyword("auth_pass", PASSWORD, "the password"),
    ),
    merged=True,
)

LOWER = "after an advertisement with a lower priority"
GARP = (
    _with_global(
        "garp_master_delay", COUNT, "seconds after a take-over until gratuitous ARPs are repeated; 0: no repetition", 5
    ),
    _with_global("garp_master_repeat", AT_LEAST_ONE, "number of gratuitous ARPs at a time", 5),
    _with_global("garp_master_refresh", COUNT, "seconds between gratuitous ARPs while master; 0: none", 0),
    _with_global("garp_master_refresh_repeat", AT_LEAST_ONE, "number of gratuitous ARPs at each refresh", 1),
    _with_global("garp_lower_prio_delay", COUNT, f"as garp_master_delay, {LOWER}", 5, "vrrp_garp_master_delay"),
    _with_global("garp_lower_prio_repeat", COUNT, f"as garp_master_repeat, {LOWER}", 5, "vrrp_garp_master_repeat"),
    Keyword(
        "garp_extra_if",
        EXTRA,
        "seconds between gratuitous ARPs on the other devices that hold addresses",
        default_doc="0: none",
        global_names=("vrrp_garp_extra_if",),
    ),
)

UNICAST = (
    Block("unicast_peer", "the other routers; advertisements are sent to them instead of multicast", lines=PEER_LINE),
    Keyword("unicast_src_ip", ADDRESS, "source address of advertisements", default_doc=FIRST_ADDRESS),
    Keyword(
        "unicast_ttl", integer(0, 255, exact=True), "TTL, or hop limit, of unicast advertisements", default_doc="255"
    ),
    bare("unicast_fault_no_peer", "without a peer, go to fault instead of multicast"),
    _with_global("check_unicast_src", BARE, "accept advertisements only from peers", False),
    Keyword(
        "old_unicast_checksum",
        CHECKSUM,
        "version 3: the checksum of keepalived before 1.3.7; never: not even if a peer uses it",
        aliases=("old_unicast_chksum",),
    ),
)

VRRP_INSTANCE = Block(
    "vrrp_instance",
    "a virtual router: addresses that one of several routers holds",
    (
        Keyword("state", choice("MASTER", "BACKUP"), "initial state", "BACKUP"),
        Keyword("interface", DEVICE, "interface of advertisements; optional with unicast_peer and unicast_src_ip"),
        Keyword("vrf", DEVICE, "without interface: the VRF of unicast advertisements"),
        Keyword("virtual_router_id", OCTET, "VRID, the same on all routers"),
        Keyword(
            "priority",
            OCTET,
            "priority: the highest becomes master; 255 owns the addresses",
            100,
            default_doc="100; with state MASTER 255",
        ),
        Keyword("advert_int", seconds(0.01, 255), "seconds between advertisements", 1.0),
        Keyword(
            "max_advert_int",
            seconds(0.01, 40.95),
            "version 3: the longest interval that a backup adopts from a single advertisement, in seconds",
            default_doc="ten times advert_int",
            is_own=True,
        ),
        _with_global("version", integer(2, 3), "version of VRRP; IPv6 needs 3", 2),
        AUTHENTICATION,
        Block("virtual_ipaddress", "addresses that the master holds", lines=ADDRESS_LINE),
        Block("virtual_ipaddress_excluded", "virtual addresses that are not in advertisements", lines=ADDRESS_LINE),
        Block("virtual_routes", "routes that the master adds", lines=ROUTE_LINE),
        Block("virtual_rules", "routing rules that the master adds", lines=RULE_LINE),
        bare("nopreempt", "do not take over from a router of lower priority"),
        Keyword("preempt", BARE, "take over from a router of lower priority", default_doc="unless nopreempt"),
        Keyword("preempt_delay", seconds(0, 1000), "seconds to wait before preemption", 0.0),
        Keyword("accept", BARE, "accept packets to the addresses on this host", default_doc="unless strict_mode"),
        bare("no_accept", "drop packets to the addresses unless this router owns them"),
        flag("strict_mode", "follow RFC 9568 strictly", global_names=("vrrp_strict",)),
        Keyword("mcast_src_ip", ADDRESS, "source address of advertisements", default_doc=FIRST_ADDRESS),
        Keyword("mcast_dst_ip", multicast(), "multicast group of advertisements", default_doc="vrrp_mcast_group4 or 6"),
        bare("track_src_ip", "fault while this machine does not have the source address"),
        *UNICAST,
        Keyword(
            "use_vmac", VMAC, "use a macvlan with the virtual MAC address", default_doc="none; its name is vrrp.VRID"
        ),
        bare("use_vmac_addr", "use a macvlan on each other device that holds an address"),
        Keyword("use_ipvlan", IPVLAN, "use an ipvlan of mode L2; IPv4 needs an address", default_doc="none"),
        bare("vmac_xmit_base", "send advertisements from the underlying device"),
        *GARP,
        Keyword("vmac_garp_intvl", EXTRA, "old name of garp_extra_if", is_now="garp_extra_if"),
        _with_global("lower_prio_no_advert", FLAG, "do not answer an advertisement with a lower priority", False),
        _with_global(
            "higher_prio_send_advert",
            FLAG,
            "send a last advertisement to a router with a higher priority before becoming backup",
            True,
        ),
        _with_global("down_timer_adverts", integer(1, 100), "missing advertisements until a backup takes over", 3),
        bare("dont_track_primary", "do not go to fault if the interface is down"),
        *TRACKS,
        Keyword(
            "track_data_plane",
            OPTIONAL_WEIGHT,
            "fault while this machine cannot forward services; with a weight, change the priority instead",
            default_doc="only reported",
            is_own=True,
        ),
        *NOTIFIES,
        script("notify_master_rx_lower_pri", "run when a master receives an advertisement with a lower priority"),
        _with_global(
            "skip_check_adv_addr", FLAG, "do not compare the addresses again in later advertisements of a router", False
        ),
        bare("promote_secondaries", "keep the secondary addresses of a network when the primary is removed"),
        Keyword(
            "kernel_rx_buf_size",
            integer(1, exact=True),
            "size of the receive buffer in octets",
            default_doc="the kernel's",
        ),
        Keyword("native_ipv6", BARE, "the addresses are IPv6", default_doc="as they are"),
        Keyword("debug", integer(0, 4), "nothing", state=State.IGNORED),
        bare("linkbeat_use_polling", "poll the link of the interface each second, besides the kernel's messages"),
        Keyword(
            "lvs_sync_daemon_interface",
            TEXT,
            "deprecated: as lvs_sync_daemon in global_defs, with this virtual router and syncid 0",
            aliases=("lvs_sync_daemon_inteface",),
        ),
    ),
    head=NAME,
)

VRRP_SYNC_GROUP = Block(
    "vrrp_sync_group",
    "virtual routers that change state together",
    (
        Block("group", "names of the virtual routers", lines=names("the name of a vrrp_instance")),
        *TRACKS,
        *NOTIFIES,
        bare("sync_group_tracking_weight", "the weights of the members count"),
        Keyword("global_tracking", BARE, "as sync_group_tracking_weight", is_now="sync_group_tracking_weight"),
    ),
    head=NAME,
)

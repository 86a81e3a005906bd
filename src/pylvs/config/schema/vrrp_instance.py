"""`vrrp_instance` and `vrrp_sync_group`."""

from __future__ import annotations

from pylvs.config.schema.grammar import Block, Keyword, State, Twice
from pylvs.config.schema.routes import RouteLine
from pylvs.config.schema.routing_rules import RuleLine
from pylvs.config.schema.types import BARE, FLAG, SCRIPT, TEXT, Integer, Seconds, Texts, choice
from pylvs.config.schema.vrrp_tracks import NOTIFIES, TRACKS, OptionalWeightType
from pylvs.config.schema.vrrp_types import (
    AT_LEAST_ONE,
    CHECKSUM,
    DEVICE,
    NAME,
    SOURCE,
    AddressLine,
    ExtraType,
    MulticastType,
    NameList,
    PasswordType,
    PeerLine,
    VmacType,
)

MAX_U32 = 0xFFFFFFFF
COUNT = Integer(0, MAX_U32)
PRIORITY, ADVERT_S = 100, 1.0

AUTHENTICATION = Block(
    "authentication",
    "VRRP version 2: a password in every advertisement, or an IPsec authentication header",
    (
        Keyword(
            "auth_type", choice("PASS", "AH"), "PASS: the password in plain text; AH: IPsec's authentication header"
        ),
        Keyword("auth_pass", PasswordType(), "the password"),
    ),
)

GARP = (
    Keyword(
        "garp_master_delay",
        COUNT,
        "seconds after a take-over until gratuitous ARPs are repeated; 0: no repetition",
        default=5,
        global_names=("vrrp_garp_master_delay",),
    ),
    Keyword(
        "garp_master_repeat",
        AT_LEAST_ONE,
        "number of gratuitous ARPs at a time",
        default=5,
        global_names=("vrrp_garp_master_repeat",),
    ),
    Keyword(
        "garp_master_refresh",
        COUNT,
        "seconds between gratuitous ARPs while master; 0: none",
        default=0,
        global_names=("vrrp_garp_master_refresh",),
    ),
    Keyword(
        "garp_master_refresh_repeat",
        AT_LEAST_ONE,
        "number of gratuitous ARPs at each refresh",
        default=1,
        global_names=("vrrp_garp_master_refresh_repeat",),
    ),
    Keyword(
        "garp_lower_prio_delay",
        COUNT,
        "as garp_master_delay, after an advertisement with a lower priority",
        default=5,
        global_names=("vrrp_garp_lower_prio_delay", "vrrp_garp_master_delay"),
    ),
    Keyword(
        "garp_lower_prio_repeat",
        COUNT,
        "as garp_master_repeat, after an advertisement with a lower priority",
        default=5,
        global_names=("vrrp_garp_lower_prio_repeat", "vrrp_garp_master_repeat"),
    ),
    Keyword(
        "garp_extra_if",
        ExtraType(),
        "seconds between gratuitous ARPs on the other devices that hold addresses",
        default_doc="0: none",
        global_names=("vrrp_garp_extra_if",),
    ),
)

UNICAST = (
    Block(
        "unicast_peer",
        "the other routers; advertisements are sent to them instead of multicast",
        lines=PeerLine(),
        twice=Twice.MANY,
    ),
    Keyword("unicast_src_ip", SOURCE, "source address of advertisements", default_doc="the interface's first address"),
    Keyword("unicast_ttl", Integer(0, 255), "TTL, or hop limit, of unicast advertisements", default_doc="255"),
    Keyword("unicast_fault_no_peer", BARE, "without a peer, go to fault instead of multicast", default=False),
    Keyword(
        "check_unicast_src",
        BARE,
        "accept advertisements only from peers",
        default=False,
        global_names=("vrrp_check_unicast_src",),
    ),
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
        Keyword("state", choice("MASTER", "BACKUP"), "initial state", default="BACKUP"),
        Keyword("interface", DEVICE, "interface of advertisements"),
        Keyword("virtual_router_id", Integer(1, 255), "VRID, the same on all routers"),
        Keyword(
            "priority",
            Integer(1, 255),
            "priority: the highest becomes master; 255 owns the addresses",
            default=PRIORITY,
            default_doc="100; with state MASTER 255",
        ),
        Keyword("advert_int", Seconds(0.01, 255), "seconds between advertisements", default=ADVERT_S),
        Keyword("version", Integer(2, 3), "version of VRRP; IPv6 needs 3", default=2, global_names=("vrrp_version",)),
        AUTHENTICATION,
        Block("virtual_ipaddress", "addresses that the master holds", lines=AddressLine(), twice=Twice.MANY),
        Block(
            "virtual_ipaddress_excluded",
            "virtual addresses that are not in advertisements",
            lines=AddressLine(),
            twice=Twice.MANY,
        ),
        Block("virtual_routes", "routes that the master adds", lines=RouteLine(), twice=Twice.MANY),
        Block("virtual_rules", "routing rules that the master adds", lines=RuleLine(), twice=Twice.MANY),
        Keyword("nopreempt", BARE, "do not take over from a router of lower priority", default=False),
        Keyword("preempt", BARE, "take over from a router of lower priority", default_doc="unless nopreempt"),
        Keyword("preempt_delay", Seconds(0, 1000), "seconds to wait before preemption", default=0.0),
        Keyword("accept", BARE, "accept packets to the addresses on this host", default_doc="unless strict_mode"),
        Keyword("no_accept", BARE, "drop packets to the addresses unless this router owns them", default=False),
        Keyword("strict_mode", FLAG, "follow RFC 9568 strictly", default=False, global_names=("vrrp_strict",)),
        Keyword(
            "mcast_src_ip", SOURCE, "source address of advertisements", default_doc="the interface's first address"
        ),
        Keyword(
            "mcast_dst_ip", MulticastType(), "multicast group of advertisements", default_doc="vrrp_mcast_group4 or 6"
        ),
        Keyword("track_src_ip", BARE, "fault while this machine does not have the source address", default=False),
        *UNICAST,
        Keyword(
            "use_vmac",
            VmacType(),
            "use a macvlan with the virtual MAC address",
            default_doc="none; its name is vrrp.VRID",
        ),
        Keyword("use_vmac_addr", BARE, "use a macvlan on each other device that holds an address", default=False),
        Keyword("vmac_xmit_base", BARE, "send advertisements from the underlying device", default=False),
        *GARP,
        Keyword(
            "lower_prio_no_advert",
            FLAG,
            "do not answer an advertisement with a lower priority",
            default=False,
            global_names=("vrrp_lower_prio_no_advert",),
        ),
        Keyword(
            "higher_prio_send_advert",
            FLAG,
            "send an advertisement to a router with a higher priority before becoming backup",
            default=False,
            global_names=("vrrp_higher_prio_send_advert",),
        ),
        Keyword(
            "down_timer_adverts",
            Integer(1, 100),
            "missing advertisements until a backup takes over",
            default=3,
            global_names=("vrrp_down_timer_adverts",),
        ),
        Keyword("dont_track_primary", BARE, "do not go to fault if the interface is down", default=False),
        *TRACKS,
        Keyword(
            "track_data_plane",
            OptionalWeightType(),
            "fault while this machine cannot forward services; with a weight, change the priority instead",
            default_doc="only reported",
            since="0.2",
        ),
        *NOTIFIES,
        Keyword(
            "notify_master_rx_lower_pri",
            SCRIPT,
            "run when a master receives an advertisement with a lower priority",
            twice=Twice.FIRST,
        ),
        Keyword(
            "skip_check_adv_addr",
            FLAG,
            "do not compare the addresses again in later advertisements of a router",
            default=False,
            global_names=("vrrp_skip_check_adv_addr",),
        ),
        Keyword(
            "promote_secondaries",
            BARE,
            "keep the secondary addresses of a network when the primary is removed",
            default=False,
        ),
        Keyword("kernel_rx_buf_size", Integer(1), "size of the receive buffer in octets", default_doc="the kernel's"),
        Keyword("native_ipv6", BARE, "the addresses are IPv6", default_doc="as they are"),
        Keyword("debug", Integer(0, 4), "nothing", state=State.IGNORED),
        Keyword(
            "linkbeat_use_polling",
            BARE,
            "poll the link of the device",
            state=State.NEVER,
            instead="the kernel reports every change of a link; remove it",
        ),
        Keyword(
            "lvs_sync_daemon_interface",
            TEXT,
            "interface of the connection synchronisation daemon",
            state=State.LATER,
            instead="connections are not synchronised",
            aliases=("lvs_sync_daemon_inteface",),
        ),
        Keyword("use_ipvlan", Texts(), "use an ipvlan", state=State.LATER, instead="use use_vmac"),
        Keyword("vrf", TEXT, "the VRF of unicast advertisements", state=State.LATER, instead="name the interface"),
    ),
    head=NAME,
    twice=Twice.MANY,
)

VRRP_SYNC_GROUP = Block(
    "vrrp_sync_group",
    "virtual routers that change state together",
    (
        Block("group", "names of the virtual routers", lines=NameList("the name of a vrrp_instance"), twice=Twice.MANY),
        *TRACKS,
        *NOTIFIES,
        Keyword("sync_group_tracking_weight", BARE, "the weights of the members count", default=False),
        Keyword(
            "global_tracking",
            BARE,
            "as sync_group_tracking_weight",
            state=State.DEAD,
            instead="write track_interface, track_script or track_file into the group",
        ),
    ),
    head=NAME,
    twice=Twice.MANY,
)

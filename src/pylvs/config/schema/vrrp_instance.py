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

MOST = 0xFFFFFFFF
COUNT = Integer(0, MOST)
PRIORITY, ADVERT_S = 100, 1.0

AUTHENTICATION = Block(
    "authentication",
    "version 2: a password in every advertisement, or an authentication header",
    (
        Keyword("auth_type", choice("PASS", "AH"), "PASS: the password as it is; AH: IPsec's header"),
        Keyword("auth_pass", PasswordType(), "the password"),
    ),
)

GARP = (
    Keyword(
        "garp_master_delay",
        COUNT,
        "seconds until gratuitous ARPs are sent again after a take-over; 0: not again",
        default=5,
        global_names=("vrrp_garp_master_delay",),
    ),
    Keyword(
        "garp_master_repeat",
        AT_LEAST_ONE,
        "how many gratuitous ARPs are sent at a time",
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
        "how many then",
        default=1,
        global_names=("vrrp_garp_master_refresh_repeat",),
    ),
    Keyword(
        "garp_lower_prio_delay",
        COUNT,
        "as garp_master_delay, after a router of lower priority was heard",
        default=5,
        global_names=("vrrp_garp_lower_prio_delay", "vrrp_garp_master_delay"),
    ),
    Keyword(
        "garp_lower_prio_repeat",
        COUNT,
        "as garp_master_repeat, after a router of lower priority was heard",
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
    Block("unicast_peer", "the other routers: advertisements go to them alone", lines=PeerLine(), twice=Twice.MANY),
    Keyword("unicast_src_ip", SOURCE, "source of advertisements", default_doc="the interface's first address"),
    Keyword("unicast_ttl", Integer(0, 255), "TTL, or hop limit, of unicast advertisements", default_doc="255"),
    Keyword("unicast_fault_no_peer", BARE, "fault, not multicast, without a peer", default=False),
    Keyword(
        "check_unicast_src",
        BARE,
        "take advertisements of peers alone",
        default=False,
        global_names=("vrrp_check_unicast_src",),
    ),
    Keyword(
        "old_unicast_checksum",
        CHECKSUM,
        "version 3: keepalived's checksum before 1.3.7; never: not even if a peer uses it",
        aliases=("old_unicast_chksum",),
    ),
)

VRRP_INSTANCE = Block(
    "vrrp_instance",
    "a virtual router: addresses that one of several machines holds",
    (
        Keyword("state", choice("MASTER", "BACKUP"), "what to begin as", default="BACKUP"),
        Keyword("interface", DEVICE, "where it speaks to the others"),
        Keyword("virtual_router_id", Integer(1, 255), "its number (VRID), the same on all machines"),
        Keyword(
            "priority",
            Integer(1, 255),
            "the highest becomes master; 255 owns the addresses",
            default=PRIORITY,
            default_doc="100; with state MASTER 255",
        ),
        Keyword("advert_int", Seconds(0.01, 255), "seconds between advertisements", default=ADVERT_S),
        Keyword("version", Integer(2, 3), "of VRRP; IPv6 is always 3", default=2, global_names=("vrrp_version",)),
        AUTHENTICATION,
        Block("virtual_ipaddress", "addresses that the master holds", lines=AddressLine(), twice=Twice.MANY),
        Block(
            "virtual_ipaddress_excluded",
            "more of them, not named in advertisements",
            lines=AddressLine(),
            twice=Twice.MANY,
        ),
        Block("virtual_routes", "routes that the master has", lines=RouteLine(), twice=Twice.MANY),
        Block("virtual_rules", "rules that the master has", lines=RuleLine(), twice=Twice.MANY),
        Keyword("nopreempt", BARE, "do not take over from a router of lower priority", default=False),
        Keyword("preempt", BARE, "take over from a router of lower priority", default_doc="unless nopreempt"),
        Keyword("preempt_delay", Seconds(0, 1000), "seconds to wait before that", default=0.0),
        Keyword("accept", BARE, "packets to the addresses reach this host", default_doc="unless strict_mode"),
        Keyword("no_accept", BARE, "they do not, unless it owns them", default=False),
        Keyword(
            "strict_mode", FLAG, "nothing that RFC 9568 does not have", default=False, global_names=("vrrp_strict",)
        ),
        Keyword("mcast_src_ip", SOURCE, "source of advertisements", default_doc="the interface's first address"),
        Keyword("mcast_dst_ip", MulticastType(), "where they go", default_doc="vrrp_mcast_group4 or 6"),
        Keyword("track_src_ip", BARE, "fault while this machine does not have the source", default=False),
        *UNICAST,
        Keyword("use_vmac", VmacType(), "a macvlan of its own", default_doc="none; its name is vrrp.VRID"),
        Keyword("use_vmac_addr", BARE, "one more for each other device that holds an address", default=False),
        Keyword("vmac_xmit_base", BARE, "advertisements go through the device below", default=False),
        *GARP,
        Keyword(
            "lower_prio_no_advert",
            FLAG,
            "say nothing to a router of lower priority",
            default=False,
            global_names=("vrrp_lower_prio_no_advert",),
        ),
        Keyword(
            "higher_prio_send_advert",
            FLAG,
            "answer a router of higher priority before giving way",
            default=False,
            global_names=("vrrp_higher_prio_send_advert",),
        ),
        Keyword(
            "down_timer_adverts",
            Integer(1, 100),
            "advertisements that must be missing",
            default=3,
            global_names=("vrrp_down_timer_adverts",),
        ),
        Keyword("dont_track_primary", BARE, "interface down is no fault", default=False),
        *TRACKS,
        Keyword(
            "track_data_plane",
            OptionalWeightType(),
            "fault while services cannot be forwarded here; with a weight, that much of its priority",
            default_doc="it is said, and changes nothing",
            since="0.2",
        ),
        *NOTIFIES,
        Keyword(
            "notify_master_rx_lower_pri",
            SCRIPT,
            "run when a master hears a router of lower priority",
            twice=Twice.FIRST,
        ),
        Keyword(
            "skip_check_adv_addr",
            FLAG,
            "do not compare the addresses in every advertisement of one router",
            default=False,
            global_names=("vrrp_skip_check_adv_addr",),
        ),
        Keyword("promote_secondaries", BARE, "keep the other addresses of a network when one goes", default=False),
        Keyword("kernel_rx_buf_size", Integer(1), "octets of the receive buffer", default_doc="the kernel's"),
        Keyword("native_ipv6", BARE, "the addresses are IPv6", default_doc="as they are"),
        Keyword("debug", Integer(0, 4), "nothing", state=State.NEEDLESS),
        Keyword(
            "linkbeat_use_polling",
            BARE,
            "poll the device's link",
            state=State.NEVER,
            instead="the kernel tells of every change of a link; remove it",
        ),
        Keyword(
            "lvs_sync_daemon_interface",
            TEXT,
            "of the connection sync daemon",
            state=State.LATER,
            instead="connections are not synchronised",
            aliases=("lvs_sync_daemon_inteface",),
        ),
        Keyword("use_ipvlan", Texts(), "an ipvlan of its own", state=State.LATER, instead="use use_vmac"),
        Keyword("vrf", TEXT, "the VRF of unicast advertisements", state=State.LATER, instead="name the interface"),
    ),
    head=NAME,
    twice=Twice.MANY,
)

VRRP_SYNC_GROUP = Block(
    "vrrp_sync_group",
    "virtual routers that change state together",
    (
        Block("group", "their names", lines=NameList("the name of a vrrp_instance"), twice=Twice.MANY),
        *TRACKS,
        *NOTIFIES,
        Keyword("sync_group_tracking_weight", BARE, "the members' own weights count", default=False),
        Keyword(
            "global_tracking",
            BARE,
            "the same",
            state=State.DEAD,
            instead="write track_interface, track_script or track_file into the group",
        ),
    ),
    head=NAME,
    twice=Twice.MANY,
)

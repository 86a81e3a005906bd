"""The words of `global_defs` about virtual routers, and what stands outside of all blocks about them."""

from __future__ import annotations

import os

from pylvs.config.schema.fixed import LONGEST_INTERVAL_S
from pylvs.config.schema.nouns import BadValue, Block, Keyword, State, Type, Words
from pylvs.config.schema.scripts import SCRIPT
from pylvs.config.schema.types import BARE, FLAG, TEXT, Integer, Seconds, Texts, number_of
from pylvs.config.schema.vrrp_instance import COUNT
from pylvs.config.schema.vrrp_types import AT_LEAST_ONE, DEVICE, ExtraType, MulticastType
from pylvs.model.dataclass import dataclass
from pylvs.model.vrrp import MULTICAST_V4, MULTICAST_V6, Fifo

VRRP_ANY = Texts()
OWN_RULES = "pylvs needs no table of this name; remove it"


@dataclass(frozen=True, slots=True)
class FifoType(Type[Fifo]):
    """A path, and whom the pipe belongs to."""

    def parse(self, words: Words) -> Fifo:
        """The pipe, without its reader."""
        word = words.take("a path")
        if not word.text.startswith("/"):
            raise BadValue(f"'{word.text}' is no absolute path", "begin it with /", word)
        user = words.take("").text if words else ""
        return Fifo(word.text, user, words.take("").text if words else "")

    def __str__(self) -> str:
        return "a path [user [group]]"


@dataclass(frozen=True, slots=True)
class CpusType(Type[tuple[int, ...]]):
    """Numbers of CPUs."""

    def parse(self, words: Words) -> tuple[int, ...]:
        """At least one."""
        found, last = [], (os.cpu_count() or 1) - 1
        for word in (words.take("the number of a CPU"), *words.rest()):
            number = number_of(word)
            if not 0 <= number <= last:
                raise BadValue(f"this machine has no CPU {word.text}", f"write one of 0 to {last}", word)
            found.append(number)
        return tuple(found)

    def __str__(self) -> str:
        return "CPU [CPU ...]"


@dataclass(frozen=True, slots=True)
class DynamicType(Type[bool]):
    """The keyword alone, or with `allow_if_changes`."""

    def parse(self, words: Words) -> bool:
        """True."""
        word = words.peek()
        if word is not None and words.take_if("allow_if_changes") is None:
            raise BadValue(f"'{word.text}' is not known here", "write allow_if_changes, or nothing", word)
        return True

    def __str__(self) -> str:
        return "[allow_if_changes]"


VRRP_GARP = (
    Keyword("vrrp_garp_master_delay", COUNT, "default of garp_master_delay", default=5),
    Keyword("vrrp_garp_master_repeat", AT_LEAST_ONE, "default of garp_master_repeat", default=5),
    Keyword("vrrp_garp_master_refresh", COUNT, "default of garp_master_refresh", default=0),
    Keyword("vrrp_garp_master_refresh_repeat", AT_LEAST_ONE, "default of garp_master_refresh_repeat", default=1),
    Keyword("vrrp_garp_lower_prio_delay", COUNT, "of garp_lower_prio_delay", default_of="vrrp_garp_master_delay"),
    Keyword("vrrp_garp_lower_prio_repeat", COUNT, "of garp_lower_prio_repeat", default_of="vrrp_garp_master_repeat"),
    Keyword("vrrp_garp_extra_if", ExtraType(), "default of garp_extra_if", default_doc="0: none"),
    Keyword("vrrp_min_garp", FLAG, "one gratuitous ARP, and none again, where nothing else is said", default=False),
    Keyword(
        "vrrp_garp_interval", Seconds(0.000001, LONGEST_INTERVAL_S), "least seconds between gratuitous ARPs on a device"
    ),
    Keyword("vrrp_gna_interval", Seconds(0.000001, LONGEST_INTERVAL_S), "the same of neighbour advertisements"),
)

VRRP_DEFAULTS = (
    Keyword("vrrp_version", Integer(2, 3), "default of version", default=2),
    Keyword("vrrp_mcast_group4", MulticastType(4), "where IPv4 advertisements go", default=MULTICAST_V4),
    Keyword("vrrp_mcast_group6", MulticastType(6), "where IPv6 advertisements go", default=MULTICAST_V6),
    Keyword("vrrp_down_timer_adverts", Integer(1, 100), "default of down_timer_adverts", default=3),
    Keyword("vrrp_lower_prio_no_advert", FLAG, "default of lower_prio_no_advert", default=False),
    Keyword("vrrp_higher_prio_send_advert", FLAG, "default of higher_prio_send_advert", default=False),
    Keyword("vrrp_check_unicast_src", BARE, "default of check_unicast_src", default=False),
    Keyword("vrrp_skip_check_adv_addr", FLAG, "default of skip_check_adv_addr", default=False),
    Keyword("vrrp_strict", FLAG, "default of strict_mode", default=False),
    Keyword("vrrp_notify_priority_changes", FLAG, "default of notify_priority_changes", default=False),
    Keyword("default_interface", DEVICE, "of static_ipaddress, static_routes and static_rules", default_doc="eth0"),
)

VRRP_NOTIFICATIONS = (
    Keyword("notify_fifo", FifoType(), "pipe that transitions are written to"),
    Keyword("notify_fifo_script", SCRIPT, "program that reads it; its name is the last argument"),
    Keyword("vrrp_notify_fifo", FifoType(), "the same, of virtual routers alone"),
    Keyword("vrrp_notify_fifo_script", SCRIPT, "program that reads it"),
    Keyword("lvs_notify_fifo", FifoType(), "the same, of services and servers alone"),
    Keyword("lvs_notify_fifo_script", SCRIPT, "program that reads it"),
    Keyword("fifo_write_vrrp_states_on_reload", BARE, "all states are written at a reload", default=False),
    Keyword("smtp_alert_vrrp", FLAG, "default of smtp_alert of virtual routers", default_doc="smtp_alert"),
    Keyword("no_email_faults", BARE, "no mail of faults", default=False),
    Keyword("log_unknown_vrids", BARE, "log advertisements of routers that are not configured", default=False),
)

VRRP_PROCESS = (
    Keyword("vrrp_startup_delay", Seconds(0, LONGEST_INTERVAL_S), "seconds until virtual routers start", default=0.0),
    Keyword("dynamic_interfaces", DynamicType(), "interfaces may come later", default_doc="they must be there"),
    Keyword("vmac_prefix", TEXT, "beginning of VMACs' names", default="vrrp"),
    Keyword("vmac_addr_prefix", TEXT, "the same, of use_vmac_addr's", default_of="vmac_prefix"),
    Keyword("vrrp_priority", Integer(-20, 19), "nice value of VRRP's process", default=0),
    Keyword("vrrp_rt_priority", Integer(1, 99), "its real-time priority", default_doc="none"),
    Keyword("vrrp_cpu_affinity", CpusType(), "CPUs that it runs on", default_doc="all"),
    Keyword("vrrp_no_swap", BARE, "its memory is locked always", state=State.NEEDLESS),
)


def _vrrp_unsupported(state: State, instead: str, *names: str) -> tuple[Keyword, ...]:
    return tuple(Keyword(name, VRRP_ANY, instead, state=state, instead=instead) for name in names)


VRRP_UNSUPPORTED = (
    *_vrrp_unsupported(
        State.NEVER, OWN_RULES, "nftables", "nftables_priority", "nftables_counters", "nftables_ifindex"
    ),
    *_vrrp_unsupported(State.NEVER, OWN_RULES, "vrrp_iptables", "vrrp_ipsets"),
    *_vrrp_unsupported(State.LATER, "the kernel's IGMP reports stay as they are", "disable_local_igmp"),
    *_vrrp_unsupported(State.NEVER, "write kernel_rx_buf_size", "vrrp_rx_bufs_policy", "vrrp_rx_bufs_multiplier"),
    *_vrrp_unsupported(
        State.NEVER, "there is no SNMP; see pylvs metrics", "enable_snmp_vrrp", "enable_snmp_keepalived"
    ),
    *_vrrp_unsupported(
        State.NEVER, "there is no SNMP; see pylvs metrics", "enable_snmp_rfc", "enable_snmp_rfcv2", "enable_snmp_rfcv3"
    ),
    *_vrrp_unsupported(
        State.NEEDLESS, "has no meaning in pylvs", "vrrp_process_name", "vrrp_rlimit_rttime", "vrrp_rlimit_rtime"
    ),
    *_vrrp_unsupported(
        State.NEEDLESS, "buffers grow by themselves", "vrrp_netlink_cmd_rcv_bufs", "vrrp_netlink_cmd_rcv_bufs_force"
    ),
    *_vrrp_unsupported(
        State.NEEDLESS,
        "buffers grow by themselves",
        "vrrp_netlink_monitor_rcv_bufs",
        "vrrp_netlink_monitor_rcv_bufs_force",
    ),
)
VRRP_KEYWORDS: tuple[Keyword | Block, ...] = (
    *VRRP_GARP,
    *VRRP_DEFAULTS,
    *VRRP_NOTIFICATIONS,
    *VRRP_PROCESS,
    *VRRP_UNSUPPORTED,
)

# Words that stand outside of all blocks.
VRRP_TOP: tuple[Keyword | Block, ...] = _vrrp_unsupported(
    State.NEVER, "the kernel tells of every change of a link; remove it", "linkbeat_use_polling"
)

"""The keywords of `global_defs`, and those outside of all blocks."""

from __future__ import annotations

import os

from pylvs.config.schema.grammar import BadValue, Block, Keyword, State, Type, Words
from pylvs.config.schema.types import (
    BARE,
    FLAG,
    SCRIPT,
    TEXT,
    USER,
    Endpoint,
    Integer,
    Seconds,
    Text,
    Texts,
    did_you_mean,
    number_of,
    port_of,
)
from pylvs.config.schema.vrrp_instance import COUNT
from pylvs.config.schema.vrrp_types import AT_LEAST_ONE, DEVICE, MAX_INTERVAL_S, ExtraType, MulticastType
from pylvs.model.dataclass import dataclass
from pylvs.model.service import LONGEST_S, Timeouts
from pylvs.model.vrrp import MULTICAST_V4, MULTICAST_V6, Fifo

SMTP_PORT = 25
NO_SNMP = "there is no SNMP; pylvs serves metrics to Prometheus, see metrics_address"
NO_VRRP_SNMP = "there is no SNMP; see pylvs metrics"
NO_MARKS = "each address of a group stays a service of its own"
OWN_RULES = "pylvs needs no table of this name; remove it"
ANY = Texts()


def _ignored(*names: str, kind: Type[object] = ANY) -> tuple[Keyword, ...]:
    """Make keywords that are always met, or have no meaning in pylvs."""
    return tuple(Keyword(name, kind, "has no meaning in pylvs", state=State.IGNORED) for name in names)


def _never(instead: str, *names: str) -> tuple[Keyword, ...]:
    """Make keywords that pylvs will not implement."""
    return tuple(Keyword(name, ANY, instead, state=State.NEVER, instead=instead) for name in names)


def _later(instead: str, *names: str) -> tuple[Keyword, ...]:
    """Make keywords that pylvs does not implement yet."""
    return tuple(Keyword(name, ANY, instead, state=State.LATER, instead=instead) for name in names)


@dataclass(frozen=True, slots=True)
class MailServer(Type[tuple[str, int]]):
    """A mail server's address or name, and an optional port."""

    def parse(self, words: Words) -> tuple[str, int]:
        word = words.take("a mail server")
        server = word.text
        if server.count(":") == 1:
            host, _, port = server.partition(":")
            raise BadValue(f"'{server}' is neither an address nor a name", f"write '{host} {port}'", word)
        return server, port_of(words.take("")) if words else SMTP_PORT

    def __str__(self) -> str:
        return "ADDRESS|NAME [PORT]"


MAIL: tuple[Keyword | Block, ...] = (
    Block(
        "notification_email",
        "recipients of alerts; without one, no alert is sent",
        lines=Texts("mail addresses", minimum=1),
    ),
    Keyword(
        "notification_email_from", Text("a mail address"), "sender address of alerts", default_doc="keepalived@HOST"
    ),
    Keyword("smtp_server", MailServer(), "mail server", default=("127.0.0.1", SMTP_PORT)),
    Keyword("smtp_helo_name", TEXT, "name in the HELO command", default_doc="the host's name"),
    Keyword("smtp_connect_timeout", Seconds(0.000001), "timeout of the mail server", default=30.0),
    Keyword("smtp_alert", FLAG, "mail alerts of everything, unless a block overrides it"),
    Keyword("smtp_alert_checker", FLAG, "mail alerts of real servers and services", default_doc="smtp_alert"),
)


@dataclass(frozen=True, slots=True)
class FifoType(Type[Fifo]):
    """The path of a named pipe, and its owner."""

    def parse(self, words: Words) -> Fifo:
        """Return the pipe; another keyword names its reader."""
        word = words.take("a path")
        if not word.text.startswith("/"):
            raise BadValue(f"'{word.text}' is no absolute path", "begin it with /", word)
        user = words.take("").text if words else ""
        return Fifo(word.text, user, words.take("").text if words else "")

    def __str__(self) -> str:
        return "a path [user [group]]"


@dataclass(frozen=True, slots=True)
class CpusType(Type[tuple[int, ...]]):
    """One or more numbers of CPUs of this machine."""

    def parse(self, words: Words) -> tuple[int, ...]:
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
    Keyword(
        "vrrp_garp_lower_prio_delay", COUNT, "default of garp_lower_prio_delay", default_of="vrrp_garp_master_delay"
    ),
    Keyword(
        "vrrp_garp_lower_prio_repeat", COUNT, "default of garp_lower_prio_repeat", default_of="vrrp_garp_master_repeat"
    ),
    Keyword("vrrp_garp_extra_if", ExtraType(), "default of garp_extra_if", default_doc="0: none"),
    Keyword("vrrp_min_garp", FLAG, "default: one gratuitous ARP, without repetition", default=False),
    Keyword(
        "vrrp_garp_interval",
        Seconds(0.000001, MAX_INTERVAL_S),
        "minimum seconds between gratuitous ARPs on a device",
    ),
    Keyword(
        "vrrp_gna_interval",
        Seconds(0.000001, MAX_INTERVAL_S),
        "minimum seconds between unsolicited neighbour advertisements on a device",
    ),
)

VRRP_DEFAULTS = (
    Keyword("vrrp_version", Integer(2, 3), "default of version", default=2),
    Keyword("vrrp_mcast_group4", MulticastType(4), "multicast group of IPv4 advertisements", default=MULTICAST_V4),
    Keyword("vrrp_mcast_group6", MulticastType(6), "multicast group of IPv6 advertisements", default=MULTICAST_V6),
    Keyword("vrrp_down_timer_adverts", Integer(1, 100), "default of down_timer_adverts", default=3),
    Keyword("vrrp_lower_prio_no_advert", FLAG, "default of lower_prio_no_advert", default=False),
    Keyword("vrrp_higher_prio_send_advert", FLAG, "default of higher_prio_send_advert", default=False),
    Keyword("vrrp_check_unicast_src", BARE, "default of check_unicast_src", default=False),
    Keyword("vrrp_skip_check_adv_addr", FLAG, "default of skip_check_adv_addr", default=False),
    Keyword("vrrp_strict", FLAG, "default of strict_mode", default=False),
    Keyword("vrrp_notify_priority_changes", FLAG, "default of notify_priority_changes", default=False),
    Keyword(
        "default_interface",
        DEVICE,
        "device of static_ipaddress, static_routes and static_rules that name none",
        default_doc="eth0",
    ),
)

VRRP_NOTIFICATIONS = (
    Keyword("notify_fifo", FifoType(), "pipe for state transitions and for changes of services and servers"),
    Keyword("notify_fifo_script", SCRIPT, "program that reads the pipe; the pipe's path is its last argument"),
    Keyword("vrrp_notify_fifo", FifoType(), "pipe for state transitions of virtual routers"),
    Keyword("vrrp_notify_fifo_script", SCRIPT, "program that reads the pipe"),
    Keyword("lvs_notify_fifo", FifoType(), "pipe for changes of services and servers"),
    Keyword("lvs_notify_fifo_script", SCRIPT, "program that reads the pipe"),
    Keyword("fifo_write_vrrp_states_on_reload", BARE, "write all states into the FIFOs at a reload", default=False),
    Keyword("smtp_alert_vrrp", FLAG, "default of smtp_alert of virtual routers", default_doc="smtp_alert"),
    Keyword("no_email_faults", BARE, "mail no faults", default=False),
    Keyword("log_unknown_vrids", BARE, "log advertisements of routers that are not configured", default=False),
)

VRRP_PROCESS = (
    Keyword(
        "vrrp_startup_delay",
        Seconds(0, MAX_INTERVAL_S),
        "delay of virtual routers at startup, in seconds",
        default=0.0,
    ),
    Keyword(
        "dynamic_interfaces", DynamicType(), "accept interfaces that do not exist yet", default_doc="they must be there"
    ),
    Keyword("vmac_prefix", TEXT, "prefix of the names of VMACs", default="vrrp"),
    Keyword("vmac_addr_prefix", TEXT, "prefix of the names of VMACs of use_vmac_addr", default_of="vmac_prefix"),
    Keyword("vrrp_priority", Integer(-20, 19), "nice value of the VRRP process", default=0),
    Keyword("vrrp_rt_priority", Integer(1, 99), "real-time priority of the VRRP process", default_doc="none"),
    Keyword("vrrp_cpu_affinity", CpusType(), "CPUs of the VRRP process", default_doc="all"),
    Keyword("vrrp_no_swap", BARE, "always on: the memory of the VRRP process is locked", state=State.IGNORED),
)


VRRP_UNSUPPORTED = (
    *_never(OWN_RULES, "nftables", "nftables_priority", "nftables_counters", "nftables_ifindex"),
    *_never(OWN_RULES, "vrrp_iptables", "vrrp_ipsets"),
    *_later("the kernel's IGMP reports stay as they are", "disable_local_igmp"),
    *_never("write kernel_rx_buf_size", "vrrp_rx_bufs_policy", "vrrp_rx_bufs_multiplier"),
    *_never(NO_VRRP_SNMP, "enable_snmp_vrrp", "enable_snmp_keepalived"),
    *_never(NO_VRRP_SNMP, "enable_snmp_rfc", "enable_snmp_rfcv2", "enable_snmp_rfcv3"),
    *_ignored("vrrp_process_name", "vrrp_rlimit_rttime", "vrrp_rlimit_rtime"),
    *_ignored("vrrp_netlink_cmd_rcv_bufs", "vrrp_netlink_cmd_rcv_bufs_force"),
    *_ignored("vrrp_netlink_monitor_rcv_bufs", "vrrp_netlink_monitor_rcv_bufs_force"),
)


@dataclass(frozen=True, slots=True)
class TimeoutsType(Type[Timeouts]):
    """Pairs of a name and seconds; 0 or a missing name leaves the timeout unchanged."""

    def parse(self, words: Words) -> Timeouts:
        names = {"tcp": 0, "tcpfin": 0, "udp": 0}
        if not words:
            words.take("one of tcp, tcpfin and udp with seconds")
        for word in words.rest():
            if word.text not in names:
                near = did_you_mean(word.text, list(names)) or "tcp, tcpfin or udp"
                raise BadValue(f"there is no timeout '{word.text}'", near, word)
            seconds = words.take("seconds")
            names[word.text] = number_of(seconds)
            if not 0 <= names[word.text] <= LONGEST_S:
                raise BadValue(f"{seconds.text} is not between 0 and {LONGEST_S} seconds", word=seconds)
        return Timeouts(names["tcp"], names["tcpfin"], names["udp"])

    def __str__(self) -> str:
        return "[tcp SECONDS] [tcpfin SECONDS] [udp SECONDS]"


@dataclass(frozen=True, slots=True)
class FlushOnStop(Type[str]):
    """What to remove at the end: "all", or with VS the services of the configuration, "vs"."""

    def parse(self, words: Words) -> str:
        if not words:
            return "all"
        word = words.take("")
        if word.text.lower() != "vs":
            raise BadValue(f"'{word.text}' cannot be flushed", "write VS, or nothing", word)
        return "vs"

    def __str__(self) -> str:
        return "[VS]"


KEYWORDS: tuple[Keyword | Block, ...] = (
    Keyword("router_id", TEXT, "name of this machine in alerts", default_doc="the host's name"),
    *MAIL,
    Keyword(
        "script_user",
        USER,
        "user and group that scripts run as",
        default_doc="keepalived_script if there is one, else root",
    ),
    Keyword(
        "enable_script_security", FLAG, "reject scripts that run as root and that other users can modify", default=False
    ),
    Keyword(
        "checker_log_all_failures",
        FLAG,
        "log every failed check, not only the one that takes the server down",
        default=False,
    ),
    Keyword("checker_priority", Integer(-20, 19), "nice value of the health checks", default=0),
    Keyword("lvs_timeouts", TimeoutsType(), "timeouts of idle connections"),
    Keyword("lvs_flush", FLAG, "remove all services from the table at startup", default=False),
    Keyword(
        "lvs_flush_on_stop",
        FlushOnStop(),
        "what to remove at shutdown, at once instead of server by server",
        aliases=("lvs_flush_onstop",),
        default="",
    ),
    Keyword(
        "exclusive",
        FLAG,
        "remove services from the table that are not in the configuration",
        default=False,
        since="0.2",
    ),
    Keyword("shared_probes", FLAG, "share one probe between identical checks", default=False, since="0.2"),
    Keyword("metrics_address", Endpoint(port_needed=True), "serve /metrics on this TCP address too", since="0.2"),
    Keyword("no_checker_emails", FLAG, "mail only changes of state", default=False, state=State.IGNORED),
    Keyword("startup_script", SCRIPT, "run at startup, before anything else"),
    Keyword("startup_script_timeout", Integer(1, 1000), "seconds after which it is terminated", default=10),
    Keyword("shutdown_script", SCRIPT, "run at shutdown, after everything else"),
    Keyword("shutdown_script_timeout", Integer(1, 1000), "seconds after which it is terminated", default=10),
    *_ignored("max_auto_priority", kind=Integer(-1, 99, bare=99)),
    *_later("notify_up and notify_down do not run for what is up at the start", "rs_init_notifies"),
    *_later("connections are not copied to another director", "lvs_sync_daemon"),
    *_later("reload with pylvs reload", "reload_time_file", "reload_repeat", "reload_file"),
    *_never(NO_MARKS, "nftables_ipvs", "nftables_ipvs_priority", "nftables_ipvs_start_fwmark"),
    *_never("start pylvs with taskset", "checker_cpu_affinity"),
    *_never("checks have no real-time priority; see checker_priority", "checker_rt_priority"),
    *_never(NO_SNMP, "snmp_socket", "enable_snmp_checker", "enable_traps"),
    *_never("pylvs has a control socket, see pylvs status", "enable_dbus", "dbus_service_name"),
    *_never("a reload that fails changes nothing, and nothing is written", "config_save_dir"),
    *_ignored(
        "process_names",
        "process_name",
        "checker_process_name",
        "lvs_process_name",
        "bfd_process_name",
        "checker_no_swap",
        "checker_rlimit_rttime",
        "checker_rlimit_rtime",
        "bfd_priority",
        "bfd_no_swap",
        "bfd_rt_priority",
        "bfd_cpu_affinity",
        "bfd_rlimit_rttime",
        "bfd_rlimit_rtime",
        "min_auto_priority_delay",
        "lvs_netlink_cmd_rcv_bufs",
        "lvs_netlink_cmd_rcv_bufs_force",
        "lvs_netlink_monitor_rcv_bufs",
        "lvs_netlink_monitor_rcv_bufs_force",
        "process_monitor_rcv_bufs",
        "process_monitor_rcv_bufs_force",
        "reload_check_config",
        "include_check",
        "tmp_config_directory",
        "data_use_instance",
        "random_seed",
        "umask",
    ),
    *VRRP_GARP,
    *VRRP_DEFAULTS,
    *VRRP_NOTIFICATIONS,
    *VRRP_PROCESS,
    *VRRP_UNSUPPORTED,
)
GLOBAL_DEFS = Block("global_defs", "settings of the whole daemon", KEYWORDS)

# Keywords outside of all blocks.
TOP: tuple[Keyword | Block, ...] = (
    *_later("start pylvs within it: ip netns exec NAME pylvs run", "net_namespace", "net_namespace_ipvs"),
    *_later("give each instance a directory: pylvs run --state-dir", "instance"),
    *_ignored("use_pid_dir", "namespace_with_ipsets"),
    *_ignored("child_wait_time", kind=Integer()),
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
    ),
    *_never("the kernel reports every change of a link; remove it", "linkbeat_use_polling"),
)

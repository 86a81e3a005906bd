"""`global_defs`, as far as checks, scripts and the table are concerned. VRRP's words are in `vrrp_globals.py`."""

from __future__ import annotations

from pylvs.config.schema import vrrp_globals
from pylvs.config.schema.mail import MAIL
from pylvs.config.schema.nouns import Block, Keyword, State, Type, Words, Wrong
from pylvs.config.schema.scripts import SCRIPT, USER
from pylvs.config.schema.types import FLAG, TEXT, Endpoint, Integer, Texts, did_you_mean, number_of
from pylvs.model.dataclass import dataclass
from pylvs.model.service import LONGEST_S, Timeouts

ANY = Texts()
NO_SNMP = "there is no SNMP; pylvs serves metrics to Prometheus, see metrics_address"
NO_MARKS = "each address of a group stays a service of its own"


@dataclass(frozen=True, slots=True)
class TimeoutsType(Type[Timeouts]):
    """Pairs of a name and seconds; 0, or a name that is not given, leaves what there is."""

    def parse(self, words: Words) -> Timeouts:
        """The three timeouts, 0 for each that stays."""
        names = {"tcp": 0, "tcpfin": 0, "udp": 0}
        if not words:
            words.take("one of tcp, tcpfin and udp with seconds")
        for word in words.rest():
            if word.text not in names:
                near = did_you_mean(word.text, list(names)) or "tcp, tcpfin or udp"
                raise Wrong(f"there is no timeout '{word.text}'", near, word)
            seconds = words.take("seconds")
            names[word.text] = number_of(seconds)
            if not 0 <= names[word.text] <= LONGEST_S:
                raise Wrong(f"{seconds.text} is not between 0 and {LONGEST_S} seconds", word=seconds)
        return Timeouts(names["tcp"], names["tcpfin"], names["udp"])

    def __str__(self) -> str:
        return "[tcp SECONDS] [tcpfin SECONDS] [udp SECONDS]"


@dataclass(frozen=True, slots=True)
class FlushOnStop(Type[str]):
    """What is removed at the end: nothing behind it is everything, VS the services of the configuration."""

    def parse(self, words: Words) -> str:
        """ "all" or "vs"."""
        if not words:
            return "all"
        word = words.take("")
        if word.text.lower() != "vs":
            raise Wrong(f"'{word.text}' cannot be flushed", "write VS, or nothing", word)
        return "vs"

    def __str__(self) -> str:
        return "[VS]"


def _needless(*names: str, kind: Type[object] = ANY) -> tuple[Keyword, ...]:
    """Words that are met already, or that have no meaning here."""
    return tuple(Keyword(name, kind, "has no meaning in pylvs", state=State.NEEDLESS) for name in names)


def _never(instead: str, *names: str) -> tuple[Keyword, ...]:
    """Words of what pylvs does not do."""
    return tuple(Keyword(name, ANY, instead, state=State.NEVER, instead=instead) for name in names)


def _later(instead: str, *names: str) -> tuple[Keyword, ...]:
    """Words of what pylvs does not do yet."""
    return tuple(Keyword(name, ANY, instead, state=State.LATER, instead=instead) for name in names)


KEYWORDS: tuple[Keyword | Block, ...] = (
    Keyword("router_id", TEXT, "this machine's name in alerts", default_doc="the host's name"),
    *MAIL,
    Keyword("script_user", USER, "whom scripts run as", default_doc="keepalived_script if there is one, else root"),
    Keyword("enable_script_security", FLAG, "run no script as root that others than root can change", default=False),
    Keyword("checker_log_all_failures", FLAG, "log each failed check, not only the last", default=False),
    Keyword("checker_priority", Integer(-20, 19), "nice value of the checks", default=0),
    Keyword("lvs_timeouts", TimeoutsType(), "how long connections may be silent"),
    Keyword("lvs_flush", FLAG, "empty the table at the start", default=False),
    Keyword(
        "lvs_flush_on_stop",
        FlushOnStop(),
        "what the end removes without taking servers out one by one",
        aliases=("lvs_flush_onstop",),
        default="",
    ),
    Keyword("exclusive", FLAG, "remove services that the configuration does not have", default=False, since="0.2"),
    Keyword("shared_probes", FLAG, "one probe for all checks that ask the same", default=False, since="0.2"),
    Keyword("metrics_address", Endpoint(port_needed=True), "where /metrics is served over TCP as well", since="0.2"),
    Keyword("no_checker_emails", FLAG, "mail only when a server comes or goes", default=False, state=State.NEEDLESS),
    Keyword("startup_script", SCRIPT, "run to its end before anything else"),
    Keyword("startup_script_timeout", Integer(1, 1000), "seconds until it is ended", default=10),
    Keyword("shutdown_script", SCRIPT, "run after everything else"),
    Keyword("shutdown_script_timeout", Integer(1, 1000), "seconds until it is ended", default=10),
    *_needless("max_auto_priority", kind=Integer(-1, 99, bare=99)),
    *_later("notify_up and notify_down do not run for what is up at the start", "rs_init_notifies"),
    *_later("connections are not copied to another director", "lvs_sync_daemon"),
    *_later("reload with pylvs reload", "reload_time_file", "reload_repeat", "reload_file"),
    *_never(NO_MARKS, "nftables_ipvs", "nftables_ipvs_priority", "nftables_ipvs_start_fwmark"),
    *_never("start pylvs with taskset", "checker_cpu_affinity"),
    *_never("checks have no real-time priority; see checker_priority", "checker_rt_priority"),
    *_never(NO_SNMP, "snmp_socket", "enable_snmp_checker", "enable_traps"),
    *_never("pylvs has a control socket, see pylvs status", "enable_dbus", "dbus_service_name"),
    *_never("a reload that fails changes nothing, and nothing is written", "config_save_dir"),
    *_needless(
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
    *vrrp_globals.KEYWORDS,
)
GLOBAL_DEFS = Block("global_defs", "settings of the whole daemon", KEYWORDS)

# Words that stand outside of all blocks.
TOP: tuple[Keyword | Block, ...] = (
    *_later("start pylvs within it: ip netns exec NAME pylvs run", "net_namespace", "net_namespace_ipvs"),
    *_later("give each instance a directory: pylvs run --state-dir", "instance"),
    *_needless("use_pid_dir", "namespace_with_ipsets"),
    *_needless("child_wait_time", kind=Integer()),
    Block(
        "SSL",
        "certificate that SSL_GET shows to servers",
        (
            Keyword("password", TEXT, "of the key"),
            Keyword("ca", TEXT, "certificates that are trusted"),
            Keyword("certificate", TEXT, "what is shown"),
            Keyword("key", TEXT, "its key"),
        ),
        state=State.LATER,
        instead="SSL_GET shows no certificate",
    ),
)

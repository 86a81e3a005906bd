"""The keywords of `virtual_server_group`, `virtual_server` and `real_server`."""

from __future__ import annotations

from pylvs.config.schema.checkers import ALPHA, CHECKERS, SERVER_TIMING, inherited
from pylvs.config.schema.grammar import Block, Keyword, State
from pylvs.config.schema.service_types import (
    CLIENT_RULE,
    ENGINE,
    FAMILY,
    FORWARDING,
    GRANULARITY,
    GROUP_ENTRY,
    MAX_DOCUMENTED_WEIGHT,
    PERSISTENCE,
    PROTOCOL,
    SCHEDULER,
    SERVER,
    SERVICE,
    SERVICE_WEIGHT,
    WEIGHT,
)
from pylvs.config.schema.types import (
    BARE,
    COUNT,
    MAX_U32,
    TEXT,
    bare,
    flag,
    integer,
    script,
    seconds,
)
from pylvs.model.dataclass import replace
from pylvs.model.service import MAX_MSS, MIN_MSS

VIRTUAL_SERVER_GROUP = Block(
    "virtual_server_group",
    "several addresses and firewall marks with the same real servers",
    head=TEXT,
    lines=GROUP_ENTRY,
)

BEYOND = f"above {MAX_DOCUMENTED_WEIGHT} with a warning"
WEIGHT_OF_SERVER = inherited("weight", WEIGHT, f"share of new connections; 0: none; {BEYOND}", 1)
METHOD = inherited("lvs_method", FORWARDING, "how packets get to the server", default_doc="NAT")
INHIBIT_ON_FAILURE = flag("inhibit_on_failure", "keep a failed server in the table with weight 0", inherited=True)
SNMP_NAME = Keyword("snmp_name", TEXT, "name in SNMP (enable_snmp_checker)")
CHECKER_SHARE = flag(
    "checker_share",
    "make equal checks of one server once, for all its services",
    True,
    inherited=True,
    global_names=("checker_share",),
    is_own=True,
)
VIRTUALHOST = inherited("virtualhost", TEXT, "host name in requests of HTTP checks")


# As in keepalived, alerts are on by default for real servers and off for services, and servers do not inherit.
SMTP_ALERT = flag(
    "smtp_alert",
    "mail an alert at each change of state",
    True,
    global_names=("smtp_alert_checker", "smtp_alert"),
)

REAL_SERVER = Block(
    "real_server",
    "a real server and its checks",
    (
        WEIGHT_OF_SERVER,
        METHOD,
        Keyword("uthreshold", COUNT, "connections at which the server is full and gets no more; 0: never", 0),
        Keyword("lthreshold", COUNT, "connections below which a full server gets new ones again", 0),
        INHIBIT_ON_FAILURE,
        script("notify_up", "run at the transition to up"),
        script("notify_down", "run at the transition to down"),
        SMTP_ALERT,
        VIRTUALHOST,
        CHECKER_SHARE,
        SNMP_NAME,
        ALPHA,
        *SERVER_TIMING,
        *CHECKERS,
    ),
    head=SERVER,
)


def _flag(name: str, bit: int, doc: str) -> Keyword:
    return bare(name, f"{doc} (bit {bit} of the scheduler's flags)")


VIRTUAL_SERVER = Block(
    "virtual_server",
    "a virtual service with its real servers",
    (
        Keyword("lvs_sched", SCHEDULER, "scheduler", aliases=("lb_algo",), default="wlc"),
        Keyword("lvs_method", FORWARDING, "forwarding method", aliases=("lb_kind",), default_doc="NAT"),
        Keyword("protocol", PROTOCOL, "transport protocol", default_doc="UDP"),
        _flag("flag-1", 1, "the scheduler's first flag"),
        _flag("flag-2", 2, "the scheduler's second flag"),
        _flag("flag-3", 3, "the scheduler's third flag"),
        _flag("sh-fallback", 1, "sh: use the next server if the chosen one is down"),
        _flag("sh-port", 2, "sh: hash the client's port too"),
        _flag("mh-fallback", 1, "mh: use the next server if the chosen one is down"),
        _flag("mh-port", 2, "mh: hash the client's port too"),
        Keyword("hashed", BARE, "for old kernels", state=State.DEAD, instead="remove it"),
        bare("ops", "UDP: schedule every packet separately (one-packet scheduling)"),
        Keyword("persistence_timeout", PERSISTENCE, "seconds of persistence", default_doc="not persistent"),
        Keyword("persistence_granularity", GRANULARITY, "network of clients that share a server"),
        Keyword("persistence_engine", ENGINE, "sip: persistence by the Call-ID of SIP messages", ""),
        Keyword(
            "mss_clamp",
            integer(MIN_MSS, MAX_MSS),
            "largest MSS that TCP's SYNs may have when they pass, of clients and of NAT servers",
            default_doc="unchanged",
            is_own=True,
        ),
        Block(
            "client_rules",
            "clients that may open connections, or not, and how fast; the longest prefix decides",
            lines=CLIENT_RULE,
            merged=True,
            is_own=True,
        ),
        bare("announce", "announce its addresses by the routing daemon of this host, while it serves", is_own=True),
        Keyword("ip_family", FAMILY, "address family of a firewall mark's service", default_doc="the real servers'"),
        Keyword("quorum", integer(1, MAX_U32), "weight of available servers that the service needs", 1),
        Keyword("hysteresis", COUNT, "margin of weight below and above the quorum against flapping", 0),
        script("quorum_up", "run when the quorum is reached again"),
        script("quorum_down", "run when the quorum is lost"),
        Keyword(
            "handshake_share",
            integer(0, 100),
            "a server that completes less than this percentage of the others' handshakes is down; 0: never",
            0,
            is_own=True,
        ),
        Keyword(
            "handshake_minimum",
            integer(1, MAX_U32),
            "handshakes that clients must have begun in the last minute for that",
            20,
            is_own=True,
        ),
        Keyword(
            "handshake_retry",
            seconds(1.0),
            "seconds after which such a server counts as up again; if it fails again, twice as long",
            60.0,
            is_own=True,
        ),
        bare("omega", "run notify_down and quorum_down when pylvs exits"),
        bare("ha_suspend", "suspend checks while this machine does not hold the address"),
        Keyword("sorry_server", SERVER, "server that gets connections while the quorum is lost"),
        bare("sorry_server_inhibit", "keep the sorry server in the table with weight 0"),
        Keyword(
            "sorry_server_lvs_method", FORWARDING, "forwarding method of the sorry server", default_of="lvs_method"
        ),
        replace(WEIGHT_OF_SERVER, type=SERVICE_WEIGHT, doc=f"weight of its real servers; {BEYOND}"),
        replace(INHIBIT_ON_FAILURE, type=BARE),
        replace(SMTP_ALERT, default=False),
        VIRTUALHOST,
        CHECKER_SHARE,
        SNMP_NAME,
        Keyword("nat_mask", TEXT, "for old kernels", state=State.DEAD, instead="remove it"),
        replace(ALPHA, type=BARE),
        *SERVER_TIMING,
        REAL_SERVER,
    ),
    head=SERVICE,
)

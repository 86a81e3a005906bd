"""The keywords of `virtual_server_group`, `virtual_server` and `real_server`."""

from __future__ import annotations

from pylvs.config.schema.checkers import CHECKERS, SERVER_TIMING
from pylvs.config.schema.grammar import Block, Keyword, State
from pylvs.config.schema.service_types import (
    FAMILY,
    FORWARDING,
    GRANULARITY,
    GROUP_ENTRY,
    PERSISTENCE,
    PROTOCOL,
    SCHEDULER,
    SERVER,
    SERVICE,
    WEIGHT,
)
from pylvs.config.schema.types import BARE, COUNT, FLAG, MAX_U32, SCRIPT, TEXT, integer

VIRTUAL_SERVER_GROUP = Block(
    "virtual_server_group",
    "several addresses and firewall marks with the same real servers",
    head=TEXT,
    lines=GROUP_ENTRY,
)

WEIGHT_OF_SERVER = Keyword("weight", WEIGHT, "share of new connections; 0: none", 1, inherited=True)
METHOD = Keyword("lvs_method", FORWARDING, "how packets get to the server", inherited=True, default_doc="NAT")
INHIBIT_ON_FAILURE = Keyword(
    "inhibit_on_failure", FLAG, "keep a failed server in the table with weight 0", False, inherited=True
)
SNMP_NAME = Keyword("snmp_name", TEXT, "name in SNMP", state=State.NEVER, instead="there is no SNMP; see pylvs metrics")
VIRTUALHOST = Keyword("virtualhost", TEXT, "host name in requests of HTTP checks", inherited=True)


def smtp_alert(default: bool) -> Keyword:
    """Make `smtp_alert`; as in keepalived it is on by default for real servers, off for services."""
    return Keyword(
        "smtp_alert",
        FLAG,
        "mail an alert at each change of state",
        default,
        inherited=True,
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
        Keyword("notify_up", SCRIPT, "run at the transition to up", first_wins=True),
        Keyword("notify_down", SCRIPT, "run at the transition to down", first_wins=True),
        smtp_alert(default=True),
        VIRTUALHOST,
        SNMP_NAME,
        *SERVER_TIMING,
        *CHECKERS,
    ),
    head=SERVER,
)


def _flag(name: str, bit: int, doc: str) -> Keyword:
    return Keyword(name, BARE, f"{doc} (bit {bit} of the scheduler's flags)", False)


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
        Keyword("ops", BARE, "UDP: schedule every packet separately (one-packet scheduling)", False),
        Keyword("persistence_timeout", PERSISTENCE, "seconds of persistence", default_doc="not persistent"),
        Keyword("persistence_granularity", GRANULARITY, "network of clients that share a server"),
        Keyword("persistence_engine", TEXT, "persistence engine: what identifies a client besides its address", ""),
        Keyword("ip_family", FAMILY, "address family of a firewall mark's service", default_doc="the real servers'"),
        Keyword("quorum", integer(1, MAX_U32), "weight of available servers that the service needs", 1),
        Keyword("hysteresis", COUNT, "margin of weight below and above the quorum against flapping", 0),
        Keyword("quorum_up", SCRIPT, "run when the quorum is reached again", first_wins=True),
        Keyword("quorum_down", SCRIPT, "run when the quorum is lost", first_wins=True),
        Keyword("omega", FLAG, "run notify_down and quorum_down when pylvs exits", False),
        Keyword("ha_suspend", FLAG, "suspend checks while this machine does not hold the address", False),
        Keyword("sorry_server", SERVER, "server that gets connections while the quorum is lost"),
        Keyword("sorry_server_inhibit", FLAG, "keep the sorry server in the table with weight 0", False),
        Keyword(
            "sorry_server_lvs_method", FORWARDING, "forwarding method of the sorry server", default_of="lvs_method"
        ),
        WEIGHT_OF_SERVER,
        INHIBIT_ON_FAILURE,
        smtp_alert(default=False),
        VIRTUALHOST,
        SNMP_NAME,
        Keyword("nat_mask", TEXT, "for old kernels", state=State.DEAD, instead="remove it"),
        *SERVER_TIMING,
        REAL_SERVER,
    ),
    head=SERVICE,
)

"""The keywords of `virtual_server_group`, `virtual_server` and `real_server`, and of their checkers.

A new checker is a block here and in CHECKERS. Checkers share the keywords of timing, which virtual and real servers
give to them, and those of the target.
"""

from __future__ import annotations

from operator import add
from typing import Any

from pylvs.config.schema.grammar import Block, Keyword, State, Type
from pylvs.config.schema.service_types import (
    ALL_GOOD,
    DIGEST,
    DOMAIN_NAME,
    ENGINE,
    FAMILY,
    FORWARDING,
    GRANULARITY,
    GROUP_ENTRY,
    LOAD_SOURCE,
    MAX_DOCUMENTED_WEIGHT,
    MULTIPLIER,
    PERSISTENCE,
    PROTOCOL,
    REGEX_OPTIONS,
    SCHEDULER,
    SERVER,
    SERVICE,
    SERVICE_WEIGHT,
    STATUS_CODES,
    WEIGHT,
    hex_bytes,
)
from pylvs.config.schema.types import (
    ADDRESS,
    BARE,
    COUNT,
    FLAG,
    MARK,
    MAX_U32,
    PORT,
    SCRIPT_ALONE,
    TEXT,
    USER,
    bare,
    choice,
    flag,
    integer,
    real,
    script,
    seconds,
    text,
    texts,
)
from pylvs.model.checks import LoadSource, Pattern
from pylvs.model.dataclass import replace


def inherited(name: str, kind: Type[object], doc: str, default: object = None, **more: Any) -> Keyword:
    """Make a keyword that takes its value from the blocks around, as the timing of checkers does."""
    return Keyword(name, kind, doc, default, inherited=True, **more)


# Timing, which virtual and real servers give to their checkers.
OWN = "the checker's own"
DELAY = "seconds between a failure and the next check"
DELAY_LOOP_S = 60.0
CONNECT_TIMEOUT_S = 5.0
INTERVAL = seconds(0.000001, 1e9)
ALPHA = flag("alpha", "start in state down, until the first check succeeds", inherited=True)
CONNECT_TIMEOUT = inherited(
    "connect_timeout",
    seconds(0.000001),
    "seconds that a whole check may take; each page and each SMTP host has as many",
    CONNECT_TIMEOUT_S,
)
WARMUP_AND_DELAY = (
    inherited(
        "warmup", seconds(maximum=1e9), "maximum random delay of the first check, in seconds", default_of="delay_loop"
    ),
    inherited("delay_loop", INTERVAL, "seconds between checks", DELAY_LOOP_S),
)
RETRY = integer(1, MAX_U32, exact=True)
SERVER_TIMING = (
    CONNECT_TIMEOUT,
    inherited("retry", RETRY, "additional consecutive failures before a server is down", default_doc=OWN),
    inherited("delay_before_retry", seconds(), DELAY, default_doc=OWN),
    *WARMUP_AND_DELAY,
)
LOG_ALL_FAILURES = flag(
    "log_all_failures",
    "log every failure, not only the one that takes the server down",
    global_names=("checker_log_all_failures",),
)
NB_GET_RETRY = Keyword("nb_get_retry", texts(), "deprecated name of retry", state=State.DEAD, instead="write retry")


def checker_timing(
    retry: int = 1, delay: float | None = 1.0, timeout: bool = True, nb_get_retry: Keyword = NB_GET_RETRY
) -> tuple[Keyword, ...]:
    """Make the timing keywords of a checker, with its defaults; a `delay` (before a retry) of None is delay_loop."""
    return (
        ALPHA,
        *((CONNECT_TIMEOUT,) if timeout else ()),
        inherited("retry", COUNT, "additional consecutive failures before the server is down", retry),
        inherited("delay_before_retry", seconds(), DELAY, delay, default_of="" if delay else "delay_loop"),
        *WARMUP_AND_DELAY,
        LOG_ALL_FAILURES,
        nb_get_retry,
    )


CONNECTION = (
    Keyword("connect_ip", ADDRESS, "address to connect to", default_doc="the real server's"),
    Keyword("connect_port", PORT, "port to connect to", default_doc="the real server's"),
    Keyword("bindto", ADDRESS, "address to connect from"),
    Keyword("bind_port", PORT, "port to connect from"),
    Keyword("bind_if", TEXT, "device to connect through"),
    Keyword("fwmark", MARK, "firewall mark of the check's packets"),
)
TARGET = (
    *CONNECTION,
    flag("via_vip", "connect to the VIP, through the director's own forwarding to this server", is_own=True),
)

TCP_CHECK = Block("TCP_CHECK", "a TCP connection can be established", (*TARGET, *checker_timing()))
PING_CHECK = Block("PING_CHECK", "an ICMP echo is answered", (*CONNECTION, *checker_timing()))
LENGTH = integer(0, 65535, exact=True)
UDP_CHECK = Block(
    "UDP_CHECK",
    "a datagram is not refused; or, with require_reply, it is answered",
    (
        Keyword("payload", hex_bytes(), "bytes to send", Pattern(), default_doc="some random bytes"),
        Keyword("require_reply", hex_bytes(wild=True, empty=True), "require an answer that begins with these bytes"),
        Keyword("min_reply_length", LENGTH, "minimum length of the answer", 0),
        Keyword("max_reply_length", LENGTH, "maximum length of the answer", 255),
        *TARGET,
        *checker_timing(),
    ),
)
DNS_TYPE = choice("A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "RRSIG", "DNSKEY", any_case=True)
DNS_CHECK = Block(
    "DNS_CHECK",
    "a name server answers over UDP without an error",
    (
        Keyword("type", DNS_TYPE, "type of the query", "SOA"),
        Keyword("name", DOMAIN_NAME, "requested name", "."),
        *TARGET,
        *checker_timing(retry=3, delay=None),
    ),
)
HOST = Block(
    "host",
    "deprecated: another address that must answer too; its timing is that of the whole check",
    (*CONNECTION, *checker_timing()),
)
SMTP_CHECK = Block(
    "SMTP_CHECK",
    "a mail server greets, and answers HELO and QUIT",
    (
        Keyword("helo_name", TEXT, "name in the HELO command", "smtpchecker.keepalived.org"),
        HOST,
        *TARGET,
        *checker_timing(),
    ),
)
OFFSET = integer(0, exact=True)
URL = Block(
    "url",
    "a URL and the conditions of its answer, all of which must hold",
    (
        Keyword("path", text("a path"), "requested path"),
        Keyword("digest", DIGEST, "MD5 sum of the body", ""),
        Keyword("status_code", STATUS_CODES, "accepted status codes", ALL_GOOD, combine=add),
        inherited("virtualhost", TEXT, "requested name"),
        Keyword("regex", text("a regular expression"), "regular expression that the answer must match", ""),
        bare("regex_no_match", "the body must not match"),
        Keyword("regex_options", REGEX_OPTIONS, "options of the regular expression", (), combine=add),
        Keyword("regex_min_offset", OFFSET, "first byte at which a match may begin", 0),
        Keyword("regex_max_offset", OFFSET, "last byte at which a match may begin"),
        Keyword(
            "regex_stack",
            texts(),
            "memory of PCRE2",
            state=State.IGNORED,
            instead="PCRE2 allocates its stack as needed",
        ),
        flag("tls_compliant", "send close_notify at the end of the TLS connection", is_own=True),
    ),
)
HTTP_NB_GET_RETRY = Keyword("nb_get_retry", COUNT, "deprecated name of retry", is_now="retry")
HTTP_VERSION = choice("1.0", "1.0C", "1.0K", "1.1", "1.1C", "1.1K", any_case=True)
HTTP_KEYWORDS: tuple[Keyword | Block, ...] = (
    URL,
    Keyword("http_protocol", HTTP_VERSION, "HTTP version, and whether the connection closes", "1.0"),
    flag("fast_recovery", "check the URLs without delay while the server recovers"),
    inherited("virtualhost", TEXT, "requested name"),
    *TARGET,
    *checker_timing(delay=3.0, nb_get_retry=HTTP_NB_GET_RETRY),
    flag("enable_sni", "send the virtual host's name in the TLS handshake (SNI)"),
    Keyword("sni_name", TEXT, "send this name in the TLS handshake (SNI)", "", is_own=True),
    flag("verify_server", "the server's certificate is of a trusted CA, and of the requested name", is_own=True),
)
HTTP_GET = Block("HTTP_GET", "every URL answers as configured", HTTP_KEYWORDS)
SSL_GET = Block("SSL_GET", "HTTP_GET over TLS; see verify_server", HTTP_KEYWORDS)
BFD_CHECK = Block(
    "BFD_CHECK",
    "a BFD session is up",
    (Keyword("name", TEXT, "name of the bfd_instance"), ALPHA),
)
MISC_CHECK = Block(
    "MISC_CHECK",
    "the exit status of a program is the result: 0 up, 1 down",
    (
        Keyword("misc_path", SCRIPT_ALONE, "the program and its arguments"),
        Keyword(
            "misc_timeout",
            integer(1, 4294),
            "seconds after which the program is killed and the server is down",
            default_doc="the virtual server's delay_loop",
        ),
        bare("misc_dynamic", "exit status 2 to 255: up, with weight status - 2"),
        Keyword("user", USER, "user and group that the program runs as", default_doc="script_user"),
        *checker_timing(retry=0, timeout=False),
    ),
)
FILE_CHECK = Block(
    "FILE_CHECK",
    "a number in a file, times a multiplier, changes the weight; with multiplier 0, it takes the server down",
    (
        Keyword("track_file", TEXT, "name of the track_file block"),
        Keyword("weight", MULTIPLIER, "multiplier of the file's number", default_doc="the track_file's"),
        Keyword("dynamic", FLAG, "always on: the number changes the weight", state=State.IGNORED),
    ),
)
AGENT_CHECK = Block(
    "AGENT_CHECK",
    'the server answers one line over TCP: "75%", "drain", "maint", "up", "down"',
    (Keyword("send", text("a text"), "line to send before the answer is read", ""), *CONNECTION, *checker_timing()),
    is_own=True,
)
LOAD1 = (LoadSource.LOAD1_PER_CORE, "")
LOAD_CHECK = Block(
    "LOAD_CHECK",
    "the weight follows the server's load, read from Prometheus's node_exporter; never takes a server down",
    (
        Keyword("path", text("a path"), "path of the metrics", "/metrics"),
        Keyword("source", LOAD_SOURCE, "value that is the load", LOAD1, default_doc="load1_per_core"),
        Keyword("full", real(0.000001, 1e15), "load at which the server gets the smallest weight", 1.0),
        Keyword("floor", real(0, 1), "smallest weight, as a share of the configured one", 0.1),
        Keyword("smoothing", real(0, 0.99), "share of the previous load in the smoothed one", 0.5),
        Keyword("hysteresis", real(0, 1), "smallest change of the weight, as a share", 0.05),
        Keyword(
            "patience",
            integer(1, 1000, exact=True),
            "consecutive failures before the configured weight counts again",
            3,
        ),
        flag("tls", "use HTTPS; the certificate is not verified"),
        *CONNECTION,
        *checker_timing(),
    ),
    is_own=True,
)

CHECKERS = (
    TCP_CHECK,
    HTTP_GET,
    SSL_GET,
    SMTP_CHECK,
    DNS_CHECK,
    MISC_CHECK,
    UDP_CHECK,
    PING_CHECK,
    FILE_CHECK,
    BFD_CHECK,
    AGENT_CHECK,
    LOAD_CHECK,
)


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
        Keyword("ip_family", FAMILY, "address family of a firewall mark's service", default_doc="the real servers'"),
        Keyword("quorum", integer(1, MAX_U32), "weight of available servers that the service needs", 1),
        Keyword("hysteresis", COUNT, "margin of weight below and above the quorum against flapping", 0),
        script("quorum_up", "run when the quorum is reached again"),
        script("quorum_down", "run when the quorum is lost"),
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

"""The keywords of checkers, each below the keyword of its kind in the model.

Checkers share the keywords of timing, which virtual and real servers give to them, and those of the target.
"""

from __future__ import annotations

from operator import add
from typing import Any

from pylvs.config.schema.grammar import Block, Keyword, State, Type
from pylvs.config.schema.service_types import (
    ALL_GOOD,
    DIGEST,
    DOMAIN_NAME,
    LOAD_SOURCE,
    MULTIPLIER,
    REGEX_OPTIONS,
    STATUS_CODES,
    hex_bytes,
)
from pylvs.config.schema.types import (
    ADDRESS,
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
    seconds,
    text,
    texts,
)
from pylvs.model.checks import KINDS, LoadSource, Pattern


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

LENGTH = integer(0, 65535, exact=True)
DNS_TYPE = choice("A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "RRSIG", "DNSKEY", any_case=True)
HOST = Block(
    "host",
    "deprecated: another address that must answer too; its timing is that of the whole check",
    (*CONNECTION, *checker_timing()),
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
LOAD1 = (LoadSource.LOAD1_PER_CORE, "")
# The keywords of a checker that has others than those of its target and timing.
_KEYWORDS: dict[str, tuple[Keyword | Block, ...]] = {
    "HTTP_GET": HTTP_KEYWORDS,
    "SSL_GET": HTTP_KEYWORDS,
    "SMTP_CHECK": (
        Keyword("helo_name", TEXT, "name in the HELO command", "smtpchecker.keepalived.org"),
        HOST,
        *TARGET,
        *checker_timing(),
    ),
    "DNS_CHECK": (
        Keyword("type", DNS_TYPE, "type of the query", "SOA"),
        Keyword("name", DOMAIN_NAME, "requested name", "."),
        *TARGET,
        *checker_timing(retry=3, delay=None),
    ),
    "UDP_CHECK": (
        Keyword("payload", hex_bytes(), "bytes to send", Pattern(), default_doc="some random bytes"),
        Keyword("require_reply", hex_bytes(wild=True, empty=True), "require an answer that begins with these bytes"),
        Keyword("min_reply_length", LENGTH, "minimum length of the answer", 0),
        Keyword("max_reply_length", LENGTH, "maximum length of the answer", 255),
        *TARGET,
        *checker_timing(),
    ),
    "PING_CHECK": (
        *CONNECTION,
        *checker_timing(),
    ),
    "FILE_CHECK": (
        Keyword("track_file", TEXT, "name of the track_file block"),
        Keyword("weight", MULTIPLIER, "multiplier of the file's number", default_doc="the track_file's"),
        Keyword("dynamic", FLAG, "always on: the number changes the weight", state=State.IGNORED),
    ),
    "BFD_CHECK": (
        Keyword("name", TEXT, "name of the bfd_instance"),
        ALPHA,
    ),
    "MISC_CHECK": (
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
    "AGENT_CHECK": (
        Keyword("send", text("a text"), "line to send before the answer is read", ""),
        *CONNECTION,
        *checker_timing(),
    ),
    "LOAD_CHECK": (
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
}
CHECKERS = tuple(
    Block(name, f"up when {kind.up_when}", _KEYWORDS.get(name, (*TARGET, *checker_timing())), is_own=kind.is_own)
    for name, kind in KINDS.items()
)

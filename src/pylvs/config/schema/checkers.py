"""The keywords of the checkers: a new checker is a block here and in CHECKERS.

They share the keywords of timing, which virtual and real servers give to them, and those of the target.
"""

from __future__ import annotations

from pylvs.config.schema.grammar import Block, Keyword, State
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
    choice,
    integer,
    real,
    seconds,
    text,
    texts,
)
from pylvs.model.checks import LoadSource, Pattern

# Timing, which virtual and real servers give to their checkers.
INTERVAL = seconds(0.000001, 1e9)
ALPHA = Keyword("alpha", FLAG, "start in state down, until the first check succeeds", False, inherited=True)
CONNECT_TIMEOUT = Keyword(
    "connect_timeout",
    seconds(0.000001),
    "timeout of the connection, and then of each answer, in seconds",
    5.0,
    inherited=True,
)
WARMUP_AND_DELAY = (
    Keyword(
        "warmup",
        seconds(maximum=1e9),
        "maximum random delay of the first check, in seconds",
        default_of="delay_loop",
        inherited=True,
    ),
    Keyword("delay_loop", INTERVAL, "seconds between checks", 60.0, inherited=True),
)
SERVER_TIMING = (
    ALPHA,
    CONNECT_TIMEOUT,
    Keyword(
        "retry",
        integer(1, MAX_U32),
        "additional consecutive failures before a server is down",
        default_doc="the checker's own",
        inherited=True,
    ),
    Keyword(
        "delay_before_retry",
        seconds(),
        "seconds between a failure and the next check",
        default_doc="the checker's own",
        inherited=True,
    ),
    *WARMUP_AND_DELAY,
)
LOG_ALL_FAILURES = Keyword(
    "log_all_failures",
    FLAG,
    "log every failure, not only the one that takes the server down",
    False,
    global_names=("checker_log_all_failures",),
)
NB_GET_RETRY = Keyword("nb_get_retry", texts(), "deprecated name of retry", state=State.DEAD, instead="write retry")


def checker_timing(
    retry: int = 1,
    delay_before_retry: float | None = 1.0,
    connect_timeout: bool = True,
    nb_get_retry: Keyword = NB_GET_RETRY,
) -> tuple[Keyword, ...]:
    """Make the timing keywords of a checker, with its defaults; a `delay_before_retry` of None is delay_loop."""
    return (
        ALPHA,
        *((CONNECT_TIMEOUT,) if connect_timeout else ()),
        Keyword("retry", COUNT, "additional consecutive failures before the server is down", retry, inherited=True),
        Keyword(
            "delay_before_retry",
            seconds(),
            "seconds between a failure and the next check",
            delay_before_retry,
            default_of="delay_loop" if delay_before_retry is None else "",
            inherited=True,
        ),
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
    Keyword(
        "via_vip", FLAG, "connect to the VIP, through the director's own forwarding to this server", False, since="0.2"
    ),
)

TCP_CHECK = Block("TCP_CHECK", "a TCP connection can be established", (*TARGET, *checker_timing()))
PING_CHECK = Block("PING_CHECK", "an ICMP echo is answered", (*CONNECTION, *checker_timing()))
LENGTH = integer(0, 65535)
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
DNS_TYPE = choice("A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", any_case=True)
DNS_CHECK = Block(
    "DNS_CHECK",
    "a name server answers over UDP without an error",
    (
        Keyword("type", DNS_TYPE, "type of the query", "SOA"),
        Keyword("name", DOMAIN_NAME, "requested name", "."),
        *TARGET,
        *checker_timing(retry=3, delay_before_retry=None),
    ),
)
HOST = Block("host", "deprecated: another address that must answer too", CONNECTION)
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
OFFSET = integer(0)
URL = Block(
    "url",
    "a URL and the conditions of its answer, all of which must hold",
    (
        Keyword("path", text("a path"), "requested path"),
        Keyword("digest", DIGEST, "MD5 sum of the body", ""),
        Keyword("status_code", STATUS_CODES, "accepted status codes", ALL_GOOD),
        Keyword("virtualhost", TEXT, "requested name", inherited=True),
        Keyword("regex", text("a regular expression"), "regular expression that the answer must match", ""),
        Keyword("regex_no_match", FLAG, "the body must not match", False),
        Keyword("regex_options", REGEX_OPTIONS, "options of the regular expression", ()),
        Keyword("regex_min_offset", OFFSET, "first byte at which a match may begin", 0),
        Keyword("regex_max_offset", OFFSET, "last byte at which a match may begin; 0: anywhere", 0),
        Keyword("regex_stack", texts(), "memory of PCRE2", state=State.IGNORED),
        Keyword("tls_compliant", FLAG, "send close_notify at the end of the TLS connection", False, since="0.2"),
    ),
)
HTTP_NB_GET_RETRY = Keyword("nb_get_retry", COUNT, "deprecated name of retry", is_now="retry")
PROTOCOL = choice("1.0", "1.0C", "1.0K", "1.1", "1.1C", "1.1K", any_case=True)
HTTP_KEYWORDS: tuple[Keyword | Block, ...] = (
    URL,
    Keyword("http_protocol", PROTOCOL, "HTTP version, and whether the connection closes", "1.0"),
    Keyword("fast_recovery", FLAG, "check the URLs without delay while the server recovers", False),
    Keyword("virtualhost", TEXT, "requested name", inherited=True),
    *TARGET,
    *checker_timing(delay_before_retry=3.0, nb_get_retry=HTTP_NB_GET_RETRY),
    Keyword("enable_sni", FLAG, "send the virtual host's name in the TLS handshake (SNI)", False),
    Keyword("sni_name", TEXT, "send this name in the TLS handshake (SNI)", "", since="0.2"),
)
HTTP_GET = Block("HTTP_GET", "every URL answers as configured", HTTP_KEYWORDS)
SSL_GET = Block("SSL_GET", "HTTP_GET over TLS; the certificate is not verified", HTTP_KEYWORDS)
BFD_CHECK = Block(
    "BFD_CHECK",
    "the state of a BFD session",
    (Keyword("name", TEXT, "name of the bfd_instance"), Keyword("alpha", FLAG, "start in state down", False)),
    state=State.LATER,
    instead="this check is left out; use PING_CHECK or TCP_CHECK",
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
            default_of="delay_loop",
        ),
        Keyword("misc_dynamic", FLAG, "exit status 2 to 255: up, with weight status - 2", False),
        Keyword("user", USER, "user and group that the program runs as", default_doc="script_user"),
        *checker_timing(retry=0, connect_timeout=False),
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
    since="0.2",
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
        Keyword("patience", integer(1, 1000), "consecutive failures before the configured weight counts again", 3),
        Keyword("tls", FLAG, "use HTTPS; the certificate is not verified", False),
        *CONNECTION,
        *checker_timing(),
    ),
    since="0.2",
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

"""Keywords that checkers share: timing, which virtual and real servers inherit to them, and target."""

from __future__ import annotations

from pylvs.config.schema.grammar import Keyword, State
from pylvs.config.schema.types import ADDRESS, FLAG, MARK, PORT, TEXT, Integer, Seconds, Texts

MIN_SECONDS = 0.000001
CONNECT_TIMEOUT_S = 5.0
DELAY_LOOP_S = 60.0
RETRY = 1
DELAY_BEFORE_RETRY_S = 1.0
MAX_RETRIES = 0xFFFFFFFF

ALPHA = Keyword("alpha", FLAG, "start in state down, until the first check succeeds", default=False, inherited=True)
CONNECT_TIMEOUT = Keyword(
    "connect_timeout",
    Seconds(MIN_SECONDS),
    "timeout of the connection, and then of each answer, in seconds",
    default=CONNECT_TIMEOUT_S,
    inherited=True,
)
WARMUP = Keyword(
    "warmup",
    Seconds(maximum=1e9),
    "maximum random delay of the first check, in seconds",
    default_of="delay_loop",
    inherited=True,
)
DELAY_LOOP = Keyword(
    "delay_loop", Seconds(MIN_SECONDS, maximum=1e9), "seconds between checks", default=DELAY_LOOP_S, inherited=True
)
LOG_ALL_FAILURES = Keyword(
    "log_all_failures",
    FLAG,
    "log every failure, not only the one that takes the server down",
    default=False,
    global_names=("checker_log_all_failures",),
)
INHIBIT_ON_FAILURE = Keyword(
    "inhibit_on_failure", FLAG, "keep a failed server in the table with weight 0", default=False, inherited=True
)


def smtp_alert(default: bool) -> Keyword:
    """Make `smtp_alert`; as in keepalived it is on by default for real servers, off for services."""
    return Keyword(
        "smtp_alert",
        FLAG,
        "mail an alert at each change of state",
        default=default,
        inherited=True,
        global_names=("smtp_alert_checker", "smtp_alert"),
    )


def server_timing(connect_timeout: bool = True) -> tuple[Keyword, ...]:
    """Make the timing keywords of virtual and real servers, which their checkers inherit."""
    return (
        ALPHA,
        *((CONNECT_TIMEOUT,) if connect_timeout else ()),
        Keyword(
            "retry",
            Integer(1, MAX_RETRIES),
            "additional consecutive failures before a server is down",
            default_doc="the checker's own",
            inherited=True,
        ),
        Keyword(
            "delay_before_retry",
            Seconds(),
            "seconds between a failure and the next check",
            default_doc="the checker's own",
            inherited=True,
        ),
        WARMUP,
        DELAY_LOOP,
    )


NB_GET_RETRY = Keyword("nb_get_retry", Texts(), "deprecated name of retry", state=State.DEAD, instead="write retry")


def checker_timing(
    retry: int = RETRY,
    delay_before_retry: float | None = DELAY_BEFORE_RETRY_S,
    connect_timeout: bool = True,
    nb_get_retry: Keyword = NB_GET_RETRY,
) -> tuple[Keyword, ...]:
    """Make the timing keywords of a checker, with its defaults; a `delay_before_retry` of None is delay_loop."""
    return (
        ALPHA,
        *((CONNECT_TIMEOUT,) if connect_timeout else ()),
        Keyword(
            "retry",
            Integer(0, MAX_RETRIES),
            "additional consecutive failures before the server is down",
            default=retry,
            inherited=True,
        ),
        Keyword(
            "delay_before_retry",
            Seconds(),
            "seconds between a failure and the next check",
            default=delay_before_retry,
            default_of="delay_loop" if delay_before_retry is None else "",
            inherited=True,
        ),
        WARMUP,
        DELAY_LOOP,
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
VIA_VIP = Keyword(
    "via_vip",
    FLAG,
    "connect to the VIP, through the director's own forwarding to this server",
    default=False,
    since="0.2",
)
TARGET = (*CONNECTION, VIA_VIP)

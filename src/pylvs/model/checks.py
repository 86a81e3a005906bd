"""Settings of health checks: their targets, intervals and conditions of success.

Times are in seconds. Omitted settings already have their values, by keepalived's rules of inheritance: virtual server,
then real server, then checker.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field


@dataclass(frozen=True, slots=True)
class Script:
    """A program of a check or a notification; an empty user is the configuration's script user."""

    arguments: tuple[str, ...]
    user: str = ""
    group: str = ""

    def __str__(self) -> str:
        return " ".join(self.arguments)


@dataclass(frozen=True, slots=True)
class Target:
    """The destination and source of a check; port 0 is a protocol without ports."""

    address: Address
    port: int = 0
    source: Address | None = None
    source_port: int = 0
    device: str = ""  # SO_BINDTODEVICE
    mark: int = 0  # SO_MARK
    via_vip: bool = False  # to the service's own address, forwarded by the director to this one server

    def __str__(self) -> str:
        host = f"[{self.address}]" if self.address.version == 6 and self.port else str(self.address)
        return f"{host}:{self.port}" if self.port else host


@dataclass(frozen=True, slots=True)
class Pace:
    """The interval of a check, and when a failure counts."""

    delay_loop_s: float = 60.0
    timeout_s: float = 5.0
    retry: int = 1  # failures in a row beyond the first before the server counts as down
    delay_before_retry_s: float = 1.0
    warmup_s: float = 60.0  # the first check comes after a random part of this
    alpha: bool = False  # down until the first check succeeds
    log_all_failures: bool = False
    shared: bool = False  # one probe for all equal checks of the same server


KINDS: dict[str, type[Check]] = {}  # by keyword, in the order of the reference; a class below Check enters itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The settings that all checks have, and what is true of all checks of one kind.

    The module of `pylvs.health.checkers` that the first keyword names, `tcp` of TCP_CHECK, has the kind's `probe`.
    """

    words: ClassVar[tuple[str, ...]] = ()  # its keywords in a configuration
    up_when: ClassVar[str]  # in the reference
    is_own: ClassVar[bool] = False  # keepalived does not have it
    uses_datagrams: ClassVar[bool] = False  # its sockets are those of UDP
    libraries: ClassVar[tuple[str, ...]] = ()  # large modules that its probe needs; see also `libraries_of`
    pace: Pace = field(default_factory=Pace)

    def __init_subclass__(cls) -> None:
        KINDS.update(dict.fromkeys(cls.words, cls))

    @property
    def keyword(self) -> str:
        """The keyword in this configuration: two keywords may make one kind of check."""
        return self.words[0]

    @property
    def sets_weight(self) -> bool:
        """Whether its outcomes may set a weight. The probe of such a check remembers something."""
        return False

    @property
    def subject(self) -> str:
        """Return what distinguishes checks of one kind on one server."""
        return ", ".join(map(str, targets_of(self)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpCheck(Check):
    """TCP: a connection succeeds."""

    words = ("TCP_CHECK",)
    up_when = "a connection can be made. It is closed normally: no reset, nothing in the server's log"
    target: Target


@dataclass(frozen=True, slots=True)
class Url:
    """One page of an HTTP check with the conditions of its response, which must all hold."""

    path: str
    digest: str = ""  # MD5 of the body, in hexadecimal
    statuses: tuple[tuple[int, int], ...] = ((200, 299),)  # first and last of each range
    virtualhost: str = ""
    regex: str = ""
    regex_no_match: bool = False  # the body must not match
    regex_options: tuple[str, ...] = ()  # PCRE2's, as keepalived writes them: caseless, multiline, dotall...
    regex_min_offset: int = 0  # byte at which a match may begin first
    regex_max_offset: int | None = None  # byte at which a match may begin last; None: anywhere
    tls_compliant: bool = False  # close_notify is sent at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsClient:
    """The `SSL` block: files in PEM format. Each may be ""; without a certificate the check shows none."""

    certificate: str = ""  # with the chain of its CA
    key: str = ""
    password: str = field(default="", repr=False)  # of the key
    ca: str = ""  # trusted instead of this machine's CAs


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCheck(Check):
    """HTTP: the response of every page meets its conditions."""

    words = ("HTTP_GET", "SSL_GET")
    up_when = "every page has a good status, digest and text. SSL_GET asks over TLS; see `verify_server`"
    target: Target
    urls: tuple[Url, ...]
    tls: bool = False
    sni: bool = False  # send the virtual host's name
    sni_name: str = ""  # send this name instead
    virtualhost: str = ""
    protocol: str = "1.0"  # 1.0 or 1.1; with C "Connection: close", as 1.1 alone has, with K "Connection: keep-alive"
    fast_recovery: bool = False  # a server that is down is back after the first success of all pages
    verify_server: bool = False  # with `tls`: the certificate is of a trusted CA and of the requested name
    client: TlsClient = TlsClient()  # with `tls`: the certificate that the check shows

    @property
    def keyword(self) -> str:
        """SSL_GET with TLS."""
        return self.words[self.tls]


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpCheck(Check):
    """SMTP: a mail server sends its greeting and replies to HELO and QUIT."""

    words = ("SMTP_CHECK",)
    up_when = "it greets with 220, answers HELO with 250, and QUIT with anything"
    targets: tuple[Target, ...]  # all must succeed
    helo_name: str = "smtpchecker.keepalived.org"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsCheck(Check):
    """DNS: a name server answers a query without an error."""

    words = ("DNS_CHECK",)
    up_when = "it answers the query over UDP with code NOERROR"
    uses_datagrams = True
    libraries = ("dns.message",)
    target: Target
    type: str = "SOA"
    name: str = "."


@dataclass(frozen=True, slots=True)
class Pattern:
    """Bytes, each with a mask of the bits that must match; an empty pattern matches all data."""

    value: bytes = b""
    mask: bytes = b""

    def matches(self, data: bytes) -> bool:
        """Return whether the pattern matches the start of the data; the shorter of both ends the comparison."""
        return all((had ^ wanted) & bits == 0 for had, wanted, bits in zip(data, self.value, self.mask, strict=False))

    def __str__(self) -> str:
        digits = zip(self.value.hex(), self.mask.hex(), strict=True)
        return "".join(digit if bits == "f" else "X" for digit, bits in digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpCheck(Check):
    """UDP: no ICMP error comes back; with `require_reply`, a reply does."""

    words = ("UDP_CHECK",)
    up_when = "no ICMP error arrives before the timeout; with `require_reply`, an answer does"
    uses_datagrams = True
    target: Target
    payload: bytes = b""  # empty: random bytes
    require_reply: bool = False
    reply: Pattern = Pattern()  # the start of the reply
    min_reply_length: int = 0
    max_reply_length: int = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class PingCheck(Check):
    """Ping: the server replies to an ICMP echo request."""

    words = ("PING_CHECK",)
    up_when = "an ICMP or ICMPv6 echo is answered"
    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck(Check):
    """File: its number times `weight` is added to the server's weight, with a minimum of 0.

    With weight 0 any number but 0 is a failure. A missing file, or one without a number, counts as 0.
    """

    words = ("FILE_CHECK",)
    up_when = (
        "the multiplier is not 0, or the file's number is 0. Its weight is the configured one plus the number times "
        "the multiplier, at least 0"
    )
    path: str
    weight: int = 1  # factor of the file's number
    reverse: bool = False  # subtract; with weight 0, the number 0 is the failure

    @property
    def sets_weight(self) -> bool:
        return True

    @property
    def subject(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class BfdCheck(Check):
    """BFD: the session of this name is up."""

    words = ("BFD_CHECK",)
    up_when = "its [BFD session](bfd.md) is up. A change counts at once; while the session is unknown, the state stays"
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MiscCheck(Check):
    """A program's exit status: 0 up, 1 down; with `dynamic`, 2 to 255 up with weight status - 2."""

    words = ("MISC_CHECK",)
    up_when = (
        "its program exits with 0 in time. With `misc_dynamic`, 1 is down, and 2 to 255 are up with weight status - 2"
    )
    script: Script
    dynamic: bool = False

    @property
    def sets_weight(self) -> bool:
        return self.dynamic

    @property
    def subject(self) -> str:
        return str(self.script)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCheck(Check):
    """HAProxy's agent protocol: one line over TCP, such as "75%", "drain", "maint", "up", "down"."""

    words = ("AGENT_CHECK",)
    up_when = 'its agent [reports it](checks.md#agents) in one line over TCP: "75%", "drain", "maint", "up", "down"'
    is_own = True
    target: Target
    send: bytes = b""

    @property
    def sets_weight(self) -> bool:
        return True


class LoadSource(Enum):
    """The metric of a load check: a busy share (1.0: full), or one that the operator names."""

    LOAD1_PER_CORE = "load1_per_core"
    CPU_BUSY = "cpu_busy"
    METRIC = "metric"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCheck(Check):
    """Load: the weight follows the server's load, from a page in Prometheus's text format.

    `full` is the load with the least weight. The weight approaches weight * (1 - load / full), with a minimum of
    `floor` times the configured weight. The check never disables a server. If the page is unreadable, the weight stays
    for `patience` readings; then the configured weight applies.
    """

    words = ("LOAD_CHECK",)
    up_when = (
        "no other check takes it down. Its weight [follows the load](../how-to/weights-by-load.md) that Prometheus's "
        "node_exporter reports"
    )
    is_own = True
    libraries = ("prometheus_client.parser",)
    target: Target
    path: str = "/metrics"
    source: LoadSource = LoadSource.LOAD1_PER_CORE
    metric: str = ""  # for METRIC: name with labels, in Prometheus's syntax
    full: float = 1.0
    floor: float = 0.1  # share of the configured weight
    smoothing: float = 0.5  # share of the old value in the new one, 0 to below 1
    hysteresis: float = 0.05  # ignore changes below this share of the weight
    patience: int = 3
    tls: bool = False

    @property
    def sets_weight(self) -> bool:
        return True


def targets_of(check: Check) -> tuple[Target, ...]:
    """Return the targets of a check; none for a program, a file or a session."""
    found = getattr(check, "targets", None) or (getattr(check, "target", None),)
    return tuple(each for each in found if isinstance(each, Target))


def goes_via_vip(check: Check) -> bool:
    """Return whether a check uses the service's own address, so its result depends on the service."""
    return any(target.via_vip for target in targets_of(check))

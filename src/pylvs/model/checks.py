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


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """The settings that all checks have."""

    word: ClassVar[str]  # its keyword in a configuration
    pace: Pace = field(default_factory=Pace)

    @property
    def keyword(self) -> str:
        """The keyword in this configuration: two keywords may make one kind of check."""
        return self.word


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpCheck(Check):
    """TCP: a connection succeeds."""

    word: ClassVar[str] = "TCP_CHECK"
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

    word: ClassVar[str] = "HTTP_GET"
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
        return "SSL_GET" if self.tls else self.word


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpCheck(Check):
    """SMTP: a mail server sends its greeting and replies to HELO and QUIT."""

    word: ClassVar[str] = "SMTP_CHECK"
    targets: tuple[Target, ...]  # all must succeed
    helo_name: str = "smtpchecker.keepalived.org"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsCheck(Check):
    """DNS: a name server answers a query without an error."""

    word: ClassVar[str] = "DNS_CHECK"
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

    word: ClassVar[str] = "UDP_CHECK"
    target: Target
    payload: bytes = b""  # empty: random bytes
    require_reply: bool = False
    reply: Pattern = Pattern()  # the start of the reply
    min_reply_length: int = 0
    max_reply_length: int = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class PingCheck(Check):
    """Ping: the server replies to an ICMP echo request."""

    word: ClassVar[str] = "PING_CHECK"
    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck(Check):
    """File: its number times `weight` is added to the server's weight, with a minimum of 0.

    With weight 0 any number but 0 is a failure. A missing file, or one without a number, counts as 0.
    """

    word: ClassVar[str] = "FILE_CHECK"
    path: str
    weight: int = 1  # factor of the file's number
    reverse: bool = False  # subtract; with weight 0, the number 0 is the failure


@dataclass(frozen=True, slots=True, kw_only=True)
class BfdCheck(Check):
    """BFD: the session of this name is up."""

    word: ClassVar[str] = "BFD_CHECK"
    session: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MiscCheck(Check):
    """A program's exit status: 0 up, 1 down; with `dynamic`, 2 to 255 up with weight status - 2."""

    word: ClassVar[str] = "MISC_CHECK"
    script: Script
    dynamic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCheck(Check):
    """HAProxy's agent protocol: one line over TCP, such as "75%", "drain", "maint", "up", "down"."""

    word: ClassVar[str] = "AGENT_CHECK"
    target: Target
    send: bytes = b""


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

    word: ClassVar[str] = "LOAD_CHECK"
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


def targets_of(check: Check) -> tuple[Target, ...]:
    """Return the targets of a check; none for a program, a file or a session."""
    found = getattr(check, "targets", None) or (getattr(check, "target", None),)
    return tuple(each for each in found if isinstance(each, Target))


def goes_via_vip(check: Check) -> bool:
    """Return whether a check uses the service's own address, so its result depends on the service."""
    return any(target.via_vip for target in targets_of(check))

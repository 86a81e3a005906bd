"""Health checks as nouns: whom each asks, how often, and what counts as an answer.

Times are in seconds. What an operator left out is filled in already, by keepalived's rules of inheritance: virtual
server, then real server, then checker.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, field

# --- scripts ---------------------------------------------------------------------------------------------------------
# Programs that an operator's configuration names: run as a check, or told of an event.


@dataclass(frozen=True, slots=True)
class Script:
    """A program with its arguments and whom it runs as; an empty user is the configuration's script user."""

    arguments: tuple[str, ...]
    user: str = ""
    group: str = ""

    def __str__(self) -> str:
        return " ".join(self.arguments)


# --- checks ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where a check goes and from where it comes; port 0 is a protocol without ports."""

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
    """How often a check is made, and when failure counts."""

    delay_loop_s: float = 60.0
    timeout_s: float = 5.0
    retry: int = 1  # failures in a row beyond the first before the server counts as down
    delay_before_retry_s: float = 1.0
    warmup_s: float = 60.0  # the first check comes after a random part of this
    alpha: bool = False  # down until the first check succeeds
    log_all_failures: bool = False
    shared: bool = False  # one probe for all checks that ask the same of the same server


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What all checks have in common."""

    word: ClassVar[str]  # the word that names it in a configuration
    pace: Pace = field(default_factory=Pace)


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpCheck(Check):
    """A connection can be made."""

    word: ClassVar[str] = "TCP_CHECK"
    target: Target


@dataclass(frozen=True, slots=True)
class Url:
    """One page of an HTTP check and what makes its answer good; everything given must hold."""

    path: str
    digest: str = ""  # MD5 of the body, in hexadecimal
    statuses: tuple[tuple[int, int], ...] = ((200, 299),)  # first and last of each range
    virtualhost: str = ""
    regex: str = ""
    regex_no_match: bool = False  # the body must not match
    regex_options: tuple[str, ...] = ()  # PCRE2's, as keepalived writes them: caseless, multiline, dotall...
    regex_min_offset: int = 0  # byte at which a match may begin first
    regex_max_offset: int = 0  # byte at which a match may begin last; 0: anywhere
    tls_compliant: bool = False  # close_notify is sent at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCheck(Check):
    """Every page answers as it should; with `tls` over TLS, whose certificate is not verified."""

    word: ClassVar[str] = "HTTP_GET"
    target: Target
    urls: tuple[Url, ...]
    tls: bool = False
    sni: bool = False  # send the virtual host's name
    sni_name: str = ""  # send this name instead
    virtualhost: str = ""
    protocol: str = "1.0"  # 1.0 or 1.1; with C "Connection: close", as 1.1 alone has, with K "Connection: keep-alive"
    fast_recovery: bool = False  # a server that is down is back after the first success of all pages


@dataclass(frozen=True, slots=True, kw_only=True)
class SmtpCheck(Check):
    """A mail server greets, answers HELO and QUIT."""

    word: ClassVar[str] = "SMTP_CHECK"
    targets: tuple[Target, ...]  # all must do so
    helo_name: str = "smtpchecker.keepalived.org"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsCheck(Check):
    """A name server answers a question without an error."""

    word: ClassVar[str] = "DNS_CHECK"
    target: Target
    type: str = "SOA"
    name: str = "."


@dataclass(frozen=True, slots=True)
class Pattern:
    """Bytes, and of each the bits that count; no bytes are anything."""

    value: bytes = b""
    mask: bytes = b""

    def matches(self, data: bytes) -> bool:
        """Whether data begins so, as far as it goes."""
        return all((had ^ wanted) & bits == 0 for had, wanted, bits in zip(data, self.value, self.mask, strict=False))

    def __str__(self) -> str:
        digits = zip(self.value.hex(), self.mask.hex(), strict=True)
        return "".join(digit if bits == "f" else "X" for digit, bits in digits)


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpCheck(Check):
    """No ICMP error comes back; with `require_reply`, an answer does."""

    word: ClassVar[str] = "UDP_CHECK"
    target: Target
    payload: bytes = b""  # nothing: some random bytes
    require_reply: bool = False
    reply: Pattern = Pattern()  # what the answer begins with
    min_reply_length: int = 0
    max_reply_length: int = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class PingCheck(Check):
    """An ICMP echo is answered."""

    word: ClassVar[str] = "PING_CHECK"
    target: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck(Check):
    """A file's number times `weight` is added to the server's weight, which does not go below 0.

    With weight 0 any number but 0 is a fault. What is no number, and no file, is 0.
    """

    word: ClassVar[str] = "FILE_CHECK"
    path: str
    weight: int = 1  # the file's number is multiplied by this
    reverse: bool = False  # subtracted instead; with weight 0, the number 0 is the fault


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
    """What a load check reads out of the metrics: a busy share (1.0: full), or a metric of the operator's own."""

    LOAD1_PER_CORE = "load1_per_core"
    CPU_BUSY = "cpu_busy"
    METRIC = "metric"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCheck(Check):
    """The weight follows the server's real load, read from a page in Prometheus's text format.

    With `full` the load at which the server gets least, the aim is weight * (1 - load / full), never below
    `floor` of the configured weight. It never takes a server out: an unreadable page leaves the weight as it was
    for `patience` readings, then the configured weight is back.
    """

    word: ClassVar[str] = "LOAD_CHECK"
    target: Target
    path: str = "/metrics"
    source: LoadSource = LoadSource.LOAD1_PER_CORE
    metric: str = ""  # for METRIC: name, with labels as Prometheus writes them
    full: float = 1.0
    floor: float = 0.1  # share of the configured weight
    smoothing: float = 0.5  # share of the old value in the new one, 0 to below 1
    hysteresis: float = 0.05  # changes of a smaller share of the weight are not made
    patience: int = 3
    tls: bool = False


def targets_of(check: Check) -> tuple[Target, ...]:
    """Where a check goes; nothing for one that asks a program or a file."""
    found = getattr(check, "targets", None) or (getattr(check, "target", None),)
    return tuple(each for each in found if isinstance(each, Target))


def goes_via_vip(check: Check) -> bool:
    """Whether it goes through the service's own address, so that what it asks depends on the service."""
    return any(target.via_vip for target in targets_of(check))

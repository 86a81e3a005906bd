"""The outcome of a probe, and the exception by which a checker ends a probe with a reason."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable

from pylvs.model.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """Good or failed, the reason, and a weight if the check sets one.

    `weight` replaces the configured weight until the next outcome; None keeps the configured weight. `ok` with weight 0
    drains the server. `inconclusive`: this host could not make the check (no descriptors, no memory, no free port), so
    the server keeps its state.
    """

    ok: bool
    reason: str
    weight: int | None = None
    inconclusive: bool = False


# Made once from a `model.checks.Check`, called for each probe. It returns within the check's timeout; each of several
# pages or hosts has a timeout of its own. It raises only CancelledError, and leaves no socket or process behind.
Probe = Callable[[], Awaitable[Outcome]]


def constant_probe(outcome: Outcome) -> Probe:
    """Return a probe for a check that cannot be made."""

    async def ask() -> Outcome:
        return outcome

    return ask


_MAX_QUOTE = 60
_ESCAPES = {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}

_ERRNO_TEXTS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ECONNABORTED: "connection aborted",
    errno.EPIPE: "connection closed by the server",
    errno.EHOSTUNREACH: "no route to host",
    errno.EHOSTDOWN: "host is down",
    errno.ENETUNREACH: "network unreachable",
    errno.ENETDOWN: "network is down",
    errno.ETIMEDOUT: "timed out",
    errno.EADDRINUSE: "the source port is taken",
    errno.EADDRNOTAVAIL: "the source address is not on this machine",
    errno.EACCES: "refused by this machine's routes or firewall",  # prohibit routes, netfilter's ICMP prohibited
    errno.EPERM: "refused by this machine's firewall, or without the privilege",
    errno.ENODEV: "no such device",
    errno.EMSGSIZE: "message too long",
    errno.EINVAL: "the address cannot be connected to",
}

# This host ran out of a resource: inconclusive.
_LOCAL_ERRNO_TEXTS = {
    errno.EMFILE: "this process has too many open files",
    errno.ENFILE: "this machine has too many open files",
    errno.ENOBUFS: "no buffer space on this machine",
    errno.ENOMEM: "no memory on this machine",
    errno.EAGAIN: "no resources on this machine",
}


class ProbeFailed(Exception):
    """Ends a probe; `inconclusive` as in `Outcome`."""

    def __init__(self, reason: str, inconclusive: bool = False) -> None:
        super().__init__(reason)
        self.inconclusive = inconclusive


class NoSocket(ProbeFailed):
    """A socket could not be made; `code` is the errno."""

    def __init__(self, code: int) -> None:
        super().__init__(errno_text(code), code in _LOCAL_ERRNO_TEXTS)
        self.code = code


def errno_text(code: int) -> str:
    """Return a short text for an errno."""
    known = _ERRNO_TEXTS.get(code) or _LOCAL_ERRNO_TEXTS.get(code)
    if known:
        return known
    text = os.strerror(code)
    return text[:1].lower() + text[1:]


def errno_failure(code: int, where: str = "") -> ProbeFailed:
    """Return the failure for an errno; `where` is appended ("while sending")."""
    return ProbeFailed(f"{errno_text(code)} {where}".rstrip(), code in _LOCAL_ERRNO_TEXTS)


def quoted(data: bytes) -> str:
    """Quote received bytes for one log line: short, printable ASCII, without terminal escapes."""
    signs = (chr(each) if 32 <= each < 127 else _ESCAPES.get(each, f"\\x{each:02x}") for each in data[:_MAX_QUOTE])
    text = "".join(signs)
    return f"'{text}…'" if len(data) > _MAX_QUOTE else f"'{text}'"

"""What one check found out."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable

from pylvs.model.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """Up or down, the reason in a few words for the history, and a weight where the check sets one.

    `weight` replaces the configured weight as long as the check keeps saying so; None leaves it. `ok` with weight 0
    drains: up, but no new connections. `inconclusive` means that this machine had no means to make the check (no
    descriptors, no memory, no free port): it says nothing of the server, which stays as it was.
    """

    ok: bool
    reason: str
    weight: int | None = None
    inconclusive: bool = False


# A checker is made once from its `model.checks.Check` and called for each probe. It answers within the check's timeout,
# of which several pages or hosts have one each. It raises nothing but CancelledError, and leaves no socket or process.
Probe = Callable[[], Awaitable[Outcome]]


# --- failures --------------------------------------------------------------------------------------------------------
# What went wrong in a check, in the few words that a history and an operator get.


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

# This machine ran out of something: no news of the server.
_LOCAL_ERRNO_TEXTS = {
    errno.EMFILE: "this process has too many open files",
    errno.ENFILE: "this machine has too many open files",
    errno.ENOBUFS: "no buffer space on this machine",
    errno.ENOMEM: "no memory on this machine",
    errno.EAGAIN: "no resources on this machine",
}


class ProbeFailed(Exception):
    """Why a check ends here; `inconclusive` as in an `Outcome`."""

    def __init__(self, reason: str, inconclusive: bool = False) -> None:
        super().__init__(reason)
        self.inconclusive = inconclusive

    def outcome(self) -> Outcome:
        """As the answer of a probe."""
        return Outcome(False, str(self), inconclusive=self.inconclusive)


class NoSocket(ProbeFailed):
    """Not even a socket could be made; with the errno that says why."""

    def __init__(self, code: int) -> None:
        super().__init__(errno_text(code), code in _LOCAL_ERRNO_TEXTS)
        self.code = code


def errno_text(code: int) -> str:
    """An errno in words."""
    known = _ERRNO_TEXTS.get(code) or _LOCAL_ERRNO_TEXTS.get(code)
    if known:
        return known
    text = os.strerror(code)
    return text[:1].lower() + text[1:]


def errno_failure(code: int, where: str = "") -> ProbeFailed:
    """The failure that an errno means; `where` is added to it ("while sending")."""
    return ProbeFailed(f"{errno_text(code)} {where}".rstrip(), code in _LOCAL_ERRNO_TEXTS)


def quoted(data: bytes) -> str:
    """What somebody sent, fit for one line: ASCII, nothing that a terminal obeys, not long."""
    signs = (chr(each) if 32 <= each < 127 else _ESCAPES.get(each, f"\\x{each:02x}") for each in data[:_MAX_QUOTE])
    text = "".join(signs)
    return f"'{text}…'" if len(data) > _MAX_QUOTE else f"'{text}'"

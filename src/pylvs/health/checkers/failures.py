"""What went wrong in a check, in the few words that a history and an operator get."""

from __future__ import annotations

import errno
import os

from pylvs.health.outcome import Outcome

_LONGEST_QUOTE = 60
_ESCAPES = {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t"}

_WORDS = {
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
_OWN = {
    errno.EMFILE: "this process has too many open files",
    errno.ENFILE: "this machine has too many open files",
    errno.ENOBUFS: "no buffer space on this machine",
    errno.ENOMEM: "no memory on this machine",
    errno.EAGAIN: "no resources on this machine",
}


class CheckFailed(Exception):
    """Why a check ends here; `inconclusive` as in an `Outcome`."""

    def __init__(self, reason: str, inconclusive: bool = False) -> None:
        super().__init__(reason)
        self.inconclusive = inconclusive

    def outcome(self) -> Outcome:
        """As the answer of a probe."""
        return Outcome(False, str(self), inconclusive=self.inconclusive)


class NoSocket(CheckFailed):
    """Not even a socket could be made; with the errno that says why."""

    def __init__(self, code: int) -> None:
        super().__init__(words_of(code), code in _OWN)
        self.code = code


def words_of(code: int) -> str:
    """An errno in words."""
    known = _WORDS.get(code) or _OWN.get(code)
    if known:
        return known
    text = os.strerror(code)
    return text[:1].lower() + text[1:]


def failure(code: int, where: str = "") -> CheckFailed:
    """The failure that an errno means; `where` is added to it ("while sending")."""
    return CheckFailed(f"{words_of(code)} {where}".rstrip(), code in _OWN)


def quoted(data: bytes) -> str:
    """What somebody sent, fit for one line: ASCII, nothing that a terminal obeys, not long."""
    signs = (chr(each) if 32 <= each < 127 else _ESCAPES.get(each, f"\\x{each:02x}") for each in data[:_LONGEST_QUOTE])
    text = "".join(signs)
    return f"'{text}…'" if len(data) > _LONGEST_QUOTE else f"'{text}'"

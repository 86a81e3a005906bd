"""SMTP_CHECK: a mail server greets, and answers HELO and QUIT (RFC 5321)."""

from __future__ import annotations

from pylvs.health.checkers.registry import CheckContext
from pylvs.health.checkers.sockets import Deadline, Endpoint
from pylvs.health.checkers.tcp_stream import TcpStream
from pylvs.health.outcome import Outcome, Probe, ProbeFailed, quoted
from pylvs.model.checks import SmtpCheck, Target

_LONGEST_LINE = 4096  # RFC 5321 allows 512; what greets at length may still serve well
_MOST_LINES = 100
_READY, _DONE = 220, 250


def probe(check: SmtpCheck, context: CheckContext) -> Probe:
    """Talks to each address in turn; each has the whole timeout to itself."""
    places = [(target, Endpoint(target)) for target in check.targets]
    hello = f"HELO {check.helo_name}\r\n".encode(errors="surrogateescape")

    async def ask() -> Outcome:
        greeting = ""
        for target, endpoint in places:
            try:
                greeting = await _greeted(endpoint, Deadline(check.pace.timeout_s), hello)
            except ProbeFailed as error:
                return Outcome(False, _said_of(target, str(error), len(places)), inconclusive=error.inconclusive)
        return Outcome(True, greeting)

    return ask


def _said_of(target: Target, reason: str, places: int) -> str:
    return f"{target}: {reason}" if places > 1 else reason


async def _greeted(endpoint: Endpoint, limit: Deadline, hello: bytes) -> str:
    """How it greeted. What it answers to QUIT does not matter, as long as it does."""
    with await TcpStream.open(endpoint, limit) as conversation:
        greeting = await _answer(conversation, "the greeting", _READY)
        await conversation.send(hello)
        await _answer(conversation, "the answer to HELO", _DONE)
        await conversation.send(b"QUIT\r\n")
        await _answer(conversation, "the answer to QUIT", None)
    return f"greeted: {quoted(greeting)}"


async def _answer(conversation: TcpStream, what: str, wanted: int | None) -> bytes:
    """The last line of an answer of one or more lines, which must begin with this code. Raises CheckFailed."""
    for _ in range(_MOST_LINES):
        line = await conversation.line(_LONGEST_LINE, f"waiting for {what}")
        code, mark = line[:3], line[3:4]
        if not code.isdigit() or len(code) < 3 or mark not in (b"", b" ", b"-"):
            raise ProbeFailed(f"{what} is {quoted(line)}, which is no SMTP")
        if wanted is not None and int(code) != wanted:
            raise ProbeFailed(f"{what} is {quoted(line)}, not {wanted}")
        if mark != b"-":
            return line
    raise ProbeFailed(f"{what} has more than {_MOST_LINES} lines")

"""SMTP_CHECK: a mail server sends its greeting, and answers HELO and QUIT (RFC 5321)."""

from __future__ import annotations

from pylvs.health.checkers.deadline import Deadline
from pylvs.health.checkers.sockets import Endpoint, TcpStream
from pylvs.health.probes import CheckContext, Outcome, Probe, ProbeFailed, quoted
from pylvs.model.checks import SmtpCheck

_MAX_LINE = 4096  # RFC 5321 allows 512; accept servers with longer lines, too
_MAX_LINES = 100
_READY, _DONE = 220, 250


def probe(check: SmtpCheck, context: CheckContext) -> Probe:
    """Return a probe of each host in turn; each has the whole timeout."""
    hosts = [(target, Endpoint(target)) for target in check.targets]
    helo = f"HELO {check.helo_name}\r\n".encode(errors="surrogateescape")

    async def ask() -> Outcome:
        greeting = ""
        for target, endpoint in hosts:
            try:
                greeting = await _greeted(endpoint, Deadline(check.pace.timeout_s), helo)
            except ProbeFailed as error:
                host = f"{target}: " if len(hosts) > 1 else ""
                raise ProbeFailed(f"{host}{error}", error.inconclusive) from None
        return Outcome(True, greeting)

    return ask


async def _greeted(endpoint: Endpoint, deadline: Deadline, helo: bytes) -> str:
    """Return the greeting. The server must answer QUIT, with any code. Raises ProbeFailed."""
    with await TcpStream.open(endpoint, deadline) as stream:
        greeting = await _reply(stream, "the greeting", _READY)
        await stream.send(helo)
        await _reply(stream, "the answer to HELO", _DONE)
        await stream.send(b"QUIT\r\n")
        await _reply(stream, "the answer to QUIT", None)
    return f"greeted: {quoted(greeting)}"


async def _reply(stream: TcpStream, what: str, wanted: int | None) -> bytes:
    """Return the last line of a reply, which must have this code. Raises ProbeFailed."""
    for _ in range(_MAX_LINES):
        line = await stream.line(_MAX_LINE, f"waiting for {what}")
        code, mark = line[:3], line[3:4]
        if not code.isdigit() or len(code) < 3 or mark not in (b"", b" ", b"-"):
            raise ProbeFailed(f"{what} is {quoted(line)}, which is no SMTP")
        if wanted is not None and int(code) != wanted:
            raise ProbeFailed(f"{what} is {quoted(line)}, not {wanted}")
        if mark != b"-":
            return line
    raise ProbeFailed(f"{what} has more than {_MAX_LINES} lines")

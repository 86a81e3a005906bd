"""HTTP_GET and SSL_GET: every page has the expected status, digest and text.

The request is keepalived's, byte for byte, because servers' rules may depend on it. Redirects are not followed. As in
keepalived each page has its own connection and the whole timeout.

Responses (RFC 9112) are read as tolerantly as keepalived does, with bounded memory. Reasons against a library:
keepalived computes digests over the body as sent, with chunk sizes. It accepts headers that strict parsers refuse, and
a server that is good there must be good here. The socket needs a mark, a device and a source address, and must cost
microseconds only.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from pylvs.health.checkers.deadline import SLICE_S, Deadline, in_thread
from pylvs.health.checkers.sockets import Endpoint, TcpStream
from pylvs.health.probes import CheckContext, Outcome, Probe, ProbeFailed, constant_probe, quoted
from pylvs.model.addresses import endpoint as written
from pylvs.model.checks import HttpCheck, Url
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.system.pcre2 import MatchFailed, Regex

if TYPE_CHECKING:
    import hashlib

HEAD_LIMIT = 1 << 16  # bytes of status line and header
BODY_LIMIT = 16 << 20  # bytes of the body; they are kept only if a regular expression needs them
_WORK_LIMIT = 2 * BODY_LIMIT  # bytes received, and _STEP for each piece, line and chunk: bounds the processor time
_STEP = 256
_STEPS_AT_ONCE = 64  # then other probes may continue
_MAX_CHUNK_LINE = 4096
_LONGEST_END = 3  # bytes of an empty line that may have come without its last byte
_NO_BODY = (204, 304)
_SEARCH_IN_LOOP, _STEPS_IN_LOOP = 1 << 12, 20_000  # bytes and steps of a match; other matches run in a thread
_CONNECTION = {"C": "close", "K": "keep-alive"}

Piece = tuple[bytes, bool]


def probe(check: HttpCheck, context: CheckContext) -> Probe:
    """Return a probe that gets the pages one after another, until one fails."""
    endpoint = Endpoint(check.target)
    try:
        pages = [_Page(check, url, endpoint, context.virtualhost) for url in check.urls]
    except PylvsError as error:
        return constant_probe(Outcome(False, str(error)))

    async def ask() -> Outcome:
        reasons = []
        for page in pages:
            try:
                reasons.append(await page.good())
            except ProbeFailed as error:
                path = f"{page.path}: " if len(pages) > 1 else ""
                raise ProbeFailed(f"{path}{error}", error.inconclusive) from None
        return Outcome(True, "; ".join(dict.fromkeys(reasons)))

    return ask


def request(check: HttpCheck, url: Url, virtualhost: str) -> bytes:
    """Return the request. A letter after the version sets Connection: C is close, K keep-alive; 1.1 alone means C."""
    version, letter = check.protocol[:3], check.protocol[3:].upper()
    connection = _CONNECTION.get(letter or ("C" if version == "1.1" else ""))
    lines = [f"GET {url.path} HTTP/{version}", "User-Agent: KeepAliveClient"]
    if connection:
        lines.append(f"Connection: {connection}")
    lines.append(f"Host: {virtualhost or written(check.target.address, check.target.port)}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode(errors="surrogateescape")


class _Page:
    """One page of a check. Raises PylvsError for an invalid regular expression."""

    def __init__(self, check: HttpCheck, url: Url, endpoint: Endpoint, virtualhost: str) -> None:
        self._endpoint, self._timeout_s = endpoint, check.pace.timeout_s
        self._url, self._tls = url, check.tls
        host = url.virtualhost or check.virtualhost or virtualhost
        self._request = request(check, url, host)
        self._server_name = check.sni_name or (_without_port(host) if check.sni or check.verify_server else "")
        if check.verify_server and not self._server_name:
            self._server_name = str(check.target.address)
        self._client, self._verify = check.client, check.verify_server
        self._regex = Regex(url.regex.encode(errors="surrogateescape"), url.regex_options) if url.regex else None
        self._searching = False  # in a thread
        self._digest = url.digest.lower()
        self.path = url.path

    async def good(self) -> str:
        """Get the page, and return why it is good. Raises ProbeFailed."""
        deadline = Deadline(self._timeout_s)
        with await TcpStream.open(self._endpoint, deadline) as stream:
            stream.close_notify = self._url.tls_compliant
            if self._tls:
                await stream.start_tls(self._server_name, self._client, self._verify)
            await stream.send(self._request)
            reader = ResponseReader(stream)
            response = await reader.head()
            wanted = self._url.statuses
            if not any(first <= response.status <= last for first, last in wanted):
                good = " ".join(f"{first}-{last}" if first != last else f"{first}" for first, last in wanted)
                raise ProbeFailed(f"status {response.status}, not {good}")
            try:
                await read_body(reader, response, bool(self._digest), self._regex is not None)
            except BodyTooLong as error:
                if self._digest or self._regex:
                    raise
                response.remark = f"{error}, not read on"
        remark = f" ({response.remark})" if response.remark else ""
        if self._digest and self._digest not in response.digests:
            raise ProbeFailed(f"digest {response.digests[0]}, not {self._digest}{remark}")
        await self._judge_text(response, deadline)
        return f"status {response.status}{remark}"

    async def _judge_text(self, response: HttpResponse, deadline: Deadline) -> None:
        """Search the regular expression in the body, and unless regex_no_match in header and body. Raises ProbeFailed.

        keepalived searches header and body if they arrive in one packet, else the body only.
        """
        if self._regex is None:
            return
        found = await self._found(response.body, deadline)
        if not found and not self._url.regex_no_match:
            found = await self._found(response.head + response.body, deadline)
        if found is self._url.regex_no_match:
            raise ProbeFailed(f"the text {'matches' if found else 'does not match'} '{self._url.regex}'")

    async def _found(self, text: bytes, deadline: Deadline) -> bool:
        clock = asyncio.get_running_loop().time
        if len(text) <= _SEARCH_IN_LOOP:
            end = clock() + SLICE_S
            with contextlib.suppress(MatchFailed):
                return self._search(text, lambda: clock() >= end, _STEPS_IN_LOOP)
        if self._searching:  # one server must not occupy all threads
            raise ProbeFailed(f"'{self._url.regex}': the search of an earlier page has not ended")
        try:
            return await in_thread(
                deadline, lambda over: self._search_alone(text, over), f"searching '{self._url.regex}'"
            )
        except MatchFailed as error:
            raise ProbeFailed(f"'{self._url.regex}': {error}") from None

    def _search(self, text: bytes, over: Callable[[], bool], steps: int = 0) -> bool:
        assert self._regex is not None
        return self._regex.search(text, self._url.regex_min_offset, self._url.regex_max_offset, over, steps=steps)

    def _search_alone(self, text: bytes, over: Callable[[], bool]) -> bool:
        self._searching = True
        try:
            return self._search(text, over)
        finally:
            self._searching = False


def _without_port(host: str) -> str:
    """Return the name in a Host header."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host


class BodyTooLong(ProbeFailed):
    """The body is larger than `BODY_LIMIT`, or reading it takes too much work."""

    def __init__(self, reason: str = f"a body of more than {BODY_LIMIT >> 20} MiB") -> None:
        super().__init__(reason)


@dataclass(slots=True)
class HttpResponse:
    """Status, header and body; `remark` is a protocol error that does not fail the check."""

    status: int
    head: bytes  # with the empty line at its end
    body: bytes = b""  # only if `read_body` keeps it
    digests: tuple[str, ...] = ()  # MD5 of the body; of a chunked one as sent, and as decoded
    remark: str = ""


class ResponseReader:
    """Reads a response in order; `size` counts the bytes of the body so far."""

    def __init__(self, stream: TcpStream) -> None:
        self._stream = stream
        self._buffer, self._at = bytearray(), 0  # received, and how much of it was read
        self._work = 0
        self._steps = 0
        self.size = 0

    async def head(self) -> HttpResponse:
        """Read status line and header, skipping interim responses (1xx). Raises ProbeFailed."""
        status = searched = 0
        while True:
            end = _header_end(self._buffer, searched)
            if (len(self._buffer) if end < 0 else end) > HEAD_LIMIT:
                raise ProbeFailed(f"a header of more than {HEAD_LIMIT} bytes")
            if not status and self._buffer.find(b"\n", searched) >= 0:
                status = _status(bytes(self._buffer.partition(b"\n")[0]))
            searched = max(len(self._buffer) - _LONGEST_END, 0)
            if end < 0:
                if not await self._more("waiting for the answer"):
                    after = f"after {quoted(bytes(self._buffer))}" if self._buffer else "without an answer"
                    raise ProbeFailed(f"connection closed {after}")
            elif 100 <= status < 200 and status != 101:
                del self._buffer[:end]
                status = searched = 0
                await self._step(len(self._buffer), "waiting for the answer")  # it is searched again
            else:
                self._at = end
                return HttpResponse(status, bytes(self._buffer[:end]))

    async def some(self, most: int) -> bytes:
        """Return up to `most` next bytes of the body; none at its end. Raises ProbeFailed."""
        where = f"reading the body, {self.size} bytes so far"
        if self._at >= len(self._buffer):
            self._forget()
            if not await self._more(where):
                return b""
        else:
            await self._step(0, where)
        piece = bytes(self._buffer[self._at : self._at + most])
        self._at += len(piece)
        self.size += len(piece)
        if self.size > BODY_LIMIT:
            raise BodyTooLong
        return piece

    async def line(self) -> bytes | None:
        """Return the next line with its line end; None at the end. Raises ProbeFailed."""
        where = f"reading the body, {self.size} bytes so far"
        while (end := self._buffer.find(b"\n", self._at)) < 0:
            self._forget()
            if len(self._buffer) > _MAX_CHUNK_LINE:
                raise ProbeFailed(f"not a chunk of a body: {quoted(bytes(self._buffer[:_MAX_CHUNK_LINE]))}")
            if not await self._more(where):
                return None
        await self._step(0, where)
        found, self._at = bytes(self._buffer[self._at : end + 1]), end + 1
        return found

    def has_more(self) -> bool:
        """Return whether more was received than read."""
        return self._at < len(self._buffer)

    def _forget(self) -> None:
        del self._buffer[: self._at]
        self._at = 0

    async def _more(self, where: str) -> bool:
        piece = await self._stream.receive(where)
        self._buffer += piece
        await self._step(len(piece), where)
        return bool(piece)

    async def _step(self, received: int, where: str) -> None:
        """Count one step of the work, with so many bytes. Raises ProbeFailed."""
        self._work += received + _STEP
        if self._work > _WORK_LIMIT:
            raise BodyTooLong(f"an answer in too many pieces, {self.size} bytes so far")
        self._steps += 1
        if self._steps % _STEPS_AT_ONCE == 0:
            await self._stream.share(where)


def _status(line: bytes) -> int:
    parts = line.split(None, 2)
    if len(parts) < 2 or len(parts[1]) != 3 or not parts[1].isdigit():
        raise ProbeFailed(f"not an HTTP answer: {quoted(line.rstrip())}")
    return int(parts[1])


def _header_end(data: bytearray, searched: int) -> int:
    """Return the offset of the body, -1 before the empty line has arrived; no end begins before `searched`."""
    ends = [at + len(mark) for mark in (b"\r\n\r\n", b"\n\n") if (at := data.find(mark, searched)) >= 0]
    return min(ends, default=-1)


def _fields(head: bytes) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


async def read_body(reader: ResponseReader, response: HttpResponse, digest: bool, keep: bool) -> None:
    """Read the body: set the response's digests, and with `keep` its body. Raises ProbeFailed."""
    fields = _fields(response.head)
    coding = b",".join(fields.get(b"transfer-encoding", [])).lower()
    chunked = coding.rpartition(b",")[2].strip() == b"chunked" and response.status not in _NO_BODY
    digests = _new_digests(1 + chunked) if digest else []  # of the body as sent, and of a chunked one as decoded
    body: list[bytes] = []
    pieces = _chunks(reader, response) if chunked else _plain(reader, response, fields.get(b"content-length", []))
    async for piece, framing in pieces:
        for each in digests[: 1 if framing else 2]:
            each.update(piece)
        if keep and not framing:
            body.append(piece)
    response.digests = tuple(each.hexdigest() for each in digests)
    response.body = b"".join(body)


def _new_digests(number: int) -> list[hashlib._Hash]:
    import hashlib  # late: few pages have a digest, and hashlib loads OpenSSL

    return [hashlib.md5(usedforsecurity=False) for _ in range(number)]


# Both yield pieces, and whether each is framing: chunk sizes and trailers, which only the digest as sent includes.


async def _plain(reader: ResponseReader, response: HttpResponse, lengths: list[bytes]) -> AsyncIterator[Piece]:
    """Read a body of Content-Length bytes, or else to the end of the connection."""
    if response.status in _NO_BODY:
        return
    length = BODY_LIMIT + 1
    known = bool(lengths) and lengths[0].isdigit() and len(lengths[0]) < 20 and len(set(lengths)) == 1
    if known:
        length = int(lengths[0])
        if length > BODY_LIMIT:
            raise BodyTooLong
    elif lengths:
        response.remark = f"Content-Length is {quoted(b', '.join(lengths))}"
    while reader.size < length and (piece := await reader.some(length - reader.size)):
        yield piece, False
    if known and reader.size < length:
        response.remark = f"{reader.size} bytes for a Content-Length of {length}"
    elif known and reader.has_more():
        response.remark = f"more bytes than its Content-Length of {length}"


async def _chunks(reader: ResponseReader, response: HttpResponse) -> AsyncIterator[Piece]:
    """Read a chunked body (RFC 9112, section 7.1), and skip the trailer."""
    last = False
    while (line := await reader.line()) is not None:
        yield line, True
        if last and not line.strip():
            return
        if last:
            continue  # in the trailer
        size = _chunk_size(line)
        last = size == 0
        while size and (piece := await reader.some(size)):
            yield piece, False
            size -= len(piece)
        if size or (not last and (end := await reader.line()) is None):
            break
        if not last:
            yield end or b"", True
    response.remark = f"ended within its chunks, after {reader.size} bytes"


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
        raise ProbeFailed(f"not a chunk of a body: {quoted(line.rstrip())}")
    return int(digits, 16)

"""Read an HTTP/1 response (RFC 9112) as tolerantly as keepalived, with bounded memory.

Reasons against a library: keepalived computes digests over the body as sent, with chunk sizes. It accepts headers that
strict parsers refuse, and a server that is good there must be good here. The socket needs a mark, a device and a
source address, and must cost microseconds only.
"""

from __future__ import annotations

import hashlib

from pylvs.health.checkers.tcp_stream import TcpStream
from pylvs.health.outcome import ProbeFailed, quoted
from pylvs.model.dataclass import dataclass

HEAD_LIMIT = 1 << 16  # bytes of status line and header
BODY_LIMIT = 16 << 20  # bytes of the body; they are kept only if a regular expression needs them
_RAW_LIMIT = 2 * BODY_LIMIT  # the same with chunk sizes
_MAX_CHUNK_LINE = 4096
_NO_BODY = (204, 304)


class BodyTooLong(ProbeFailed):
    """The body is larger than `BODY_LIMIT`."""

    def __init__(self) -> None:
        super().__init__(f"a body of more than {BODY_LIMIT >> 20} MiB")


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
        self._buffer, self._at = b"", 0
        self._raw = 0  # bytes received
        self.size = 0

    async def head(self) -> HttpResponse:
        """Read status line and header, skipping interim responses (1xx). Raises ProbeFailed."""
        status = 0
        while True:
            end = _header_end(self._buffer)
            if (len(self._buffer) if end < 0 else end) > HEAD_LIMIT:
                raise ProbeFailed(f"a header of more than {HEAD_LIMIT} bytes")
            if not status and b"\n" in self._buffer:
                status = _status(self._buffer.partition(b"\n")[0])
            if end < 0:
                if not await self._more("waiting for the answer"):
                    after = f"after {quoted(self._buffer)}" if self._buffer else "without an answer"
                    raise ProbeFailed(f"connection closed {after}")
            elif 100 <= status < 200 and status != 101:
                self._buffer, status = self._buffer[end:], 0
                self._count(len(self._buffer))  # it is searched again: this bounds the work of many interim responses
            else:
                self._at = end
                return HttpResponse(status, self._buffer[:end])

    async def some(self, most: int) -> bytes:
        """Return up to `most` next bytes of the body; none at its end. Raises ProbeFailed."""
        if self._at >= len(self._buffer):
            self._buffer, self._at = b"", 0
            if not await self._more(f"reading the body, {self.size} bytes so far"):
                return b""
        piece = self._buffer[self._at : self._at + most]
        self._at += len(piece)
        self.size += len(piece)
        if self.size > BODY_LIMIT:
            raise BodyTooLong
        return piece

    async def line(self) -> bytes | None:
        """Return the next line with its line end; None at the end. Raises ProbeFailed."""
        while (end := self._buffer.find(b"\n", self._at)) < 0:
            self._buffer, self._at = self._buffer[self._at :], 0
            if len(self._buffer) > _MAX_CHUNK_LINE:
                raise ProbeFailed(f"not a chunk of a body: {quoted(self._buffer)}")
            if not await self._more(f"reading the body, {self.size} bytes so far"):
                return None
        found, self._at = self._buffer[self._at : end + 1], end + 1
        return found

    def has_more(self) -> bool:
        """Return whether more was received than read."""
        return self._at < len(self._buffer)

    async def _more(self, where: str) -> bool:
        piece = await self._stream.receive(where)
        self._buffer += piece
        self._count(len(piece))
        return bool(piece)

    def _count(self, received: int) -> None:
        self._raw += received
        if self._raw > _RAW_LIMIT:
            raise BodyTooLong


def _status(line: bytes) -> int:
    parts = line.split(None, 2)
    if len(parts) < 2 or len(parts[1]) != 3 or not parts[1].isdigit():
        raise ProbeFailed(f"not an HTTP answer: {quoted(line.rstrip())}")
    return int(parts[1])


def _header_end(data: bytes) -> int:
    """Return the offset of the body, -1 before the empty line has arrived."""
    ends = [at + len(mark) for mark in (b"\r\n\r\n", b"\n\n") if (at := data.find(mark)) >= 0]
    return min(ends, default=-1)


def _fields(head: bytes) -> dict[bytes, list[bytes]]:
    found: dict[bytes, list[bytes]] = {}
    for line in head.split(b"\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found.setdefault(name.strip().lower(), []).append(value.strip())
    return found


class _BodySink:
    """Computes digests of a body, and keeps the body if `keep` is set."""

    def __init__(self, digest: bool, keep: bool, chunked: bool) -> None:
        self._sent = hashlib.md5(usedforsecurity=False) if digest else None
        self._decoded = hashlib.md5(usedforsecurity=False) if digest and chunked else None
        self._body: list[bytes] | None = [] if keep else None

    def framing(self, piece: bytes) -> None:
        """Take chunk sizes and trailers, which only the digest of the body as sent includes."""
        if self._sent is not None:
            self._sent.update(piece)

    def take(self, piece: bytes) -> None:
        """Take bytes of the body itself."""
        self.framing(piece)
        if self._decoded is not None:
            self._decoded.update(piece)
        if self._body is not None:
            self._body.append(piece)

    def finish(self, response: HttpResponse) -> None:
        response.digests = tuple(each.hexdigest() for each in (self._sent, self._decoded) if each is not None)
        response.body = b"".join(self._body or ())


async def read_body(reader: ResponseReader, response: HttpResponse, digest: bool, keep: bool) -> None:
    """Read the body: set the response's digests, and with `keep` its body. Raises ProbeFailed."""
    if response.status in _NO_BODY:
        sink = _BodySink(digest, keep, False)
    else:
        fields = _fields(response.head)
        coding = b",".join(fields.get(b"transfer-encoding", [])).lower()
        chunked = coding.rpartition(b",")[2].strip() == b"chunked"
        sink = _BodySink(digest, keep, chunked)
        if chunked:
            await _chunks(reader, sink, response)
        else:
            await _plain(reader, sink, response, fields.get(b"content-length", []))
    sink.finish(response)


async def _plain(reader: ResponseReader, sink: _BodySink, response: HttpResponse, lengths: list[bytes]) -> None:
    """Read a body of Content-Length bytes, or else to the end of the connection."""
    length = BODY_LIMIT + 1
    known = bool(lengths) and lengths[0].isdigit() and len(lengths[0]) < 20 and len(set(lengths)) == 1
    if known:
        length = int(lengths[0])
        if length > BODY_LIMIT:
            raise BodyTooLong
    elif lengths:
        response.remark = f"Content-Length is {quoted(b', '.join(lengths))}"
    while reader.size < length and (piece := await reader.some(length - reader.size)):
        sink.take(piece)
    if known and reader.size < length:
        response.remark = f"{reader.size} bytes for a Content-Length of {length}"
    elif known and reader.has_more():
        response.remark = f"more bytes than its Content-Length of {length}"


async def _chunks(reader: ResponseReader, sink: _BodySink, response: HttpResponse) -> None:
    """Read a chunked body (RFC 9112, section 7.1), and skip the trailer."""
    last = False
    while (line := await reader.line()) is not None:
        sink.framing(line)
        if last and not line.strip():
            return
        if last:
            continue  # in the trailer
        size = _chunk_size(line)
        last = size == 0
        while size and (piece := await reader.some(size)):
            sink.take(piece)
            size -= len(piece)
        if size or (not last and (end := await reader.line()) is None):
            break
        if not last:
            sink.framing(end or b"")
    response.remark = f"ended within its chunks, after {reader.size} bytes"


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
        raise ProbeFailed(f"not a chunk of a body: {quoted(line.rstrip())}")
    return int(digits, 16)

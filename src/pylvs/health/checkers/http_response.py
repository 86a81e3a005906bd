"""An HTTP/1 answer as a health check reads it: as forgiving as keepalived, and never more than it may keep.

Why not a library: keepalived's digests are taken over the body as it came, chunk sizes and all; it accepts heads that
strict parsers refuse, and a server that is well under keepalived must be well here; and the socket below must be one
with a mark, a device and a source, at a cost of microseconds. RFC 9112 says how long a body is.
"""

from __future__ import annotations

import hashlib

from pylvs.health.checkers.tcp_stream import TcpStream
from pylvs.health.outcome import ProbeFailed, quoted
from pylvs.model.dataclass import dataclass

HEAD_LIMIT = 1 << 16  # bytes of status line and header fields
BODY_LIMIT = 16 << 20  # bytes of a body that are read, and kept where an expression is to be searched in them
_RAW_LIMIT = 2 * BODY_LIMIT  # the same with the sizes of chunks
_MAX_CHUNK_LINE = 4096
_NO_BODY = (204, 304)


class BodyTooLong(ProbeFailed):
    """The body goes on beyond what is read of one."""

    def __init__(self) -> None:
        super().__init__(f"a body of more than {BODY_LIMIT >> 20} MiB")


@dataclass(slots=True)
class HttpResponse:
    """Status, and what was asked to be kept of the body; `remark` is something odd that is no failure."""

    status: int
    head: bytes  # with the empty line that ends it
    body: bytes = b""  # kept on request
    digests: tuple[str, ...] = ()  # MD5 of the body; of a chunked one as it came, and as it was meant
    remark: str = ""


class ResponseReader:
    """An answer's bytes, in order; `size` is how much of the body there was so far."""

    def __init__(self, conversation: TcpStream) -> None:
        self._conversation = conversation
        self._buffer, self._at = b"", 0
        self._raw = 0  # bytes received
        self.size = 0

    async def head(self) -> HttpResponse:
        """Status line and header fields; those of interim answers (1xx) are passed over. Raises CheckFailed."""
        while True:
            status, end = 0, -1
            while end < 0:
                if not await self._more("waiting for the answer"):
                    after = f"after {quoted(self._buffer)}" if self._buffer else "without an answer"
                    raise ProbeFailed(f"connection closed {after}")
                end = _end_of_head(self._buffer)
                if (len(self._buffer) if end < 0 else end) > HEAD_LIMIT:
                    raise ProbeFailed(f"a header of more than {HEAD_LIMIT} bytes")
                if not status and b"\n" in self._buffer:
                    status = _status(self._buffer.partition(b"\n")[0])
            head, self._at = self._buffer[:end], end
            if not 100 <= status < 200 or status == 101:
                return HttpResponse(status, head)
            self._buffer, self._at = self._buffer[end:], 0
            if self._buffer:  # the next answer may be there already
                self._conversation.put_back(self._buffer)
                self._buffer = b""

    async def some(self, most: int) -> bytes:
        """The next bytes of the body, at least one and at most so many; none at the end. Raises CheckFailed."""
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
        """The next line, with its end; None at the end. Raises CheckFailed."""
        while (end := self._buffer.find(b"\n", self._at)) < 0:
            self._buffer, self._at = self._buffer[self._at :], 0
            if len(self._buffer) > _MAX_CHUNK_LINE:
                raise ProbeFailed(f"not a chunk of a body: {quoted(self._buffer)}")
            if not await self._more(f"reading the body, {self.size} bytes so far"):
                return None
        found, self._at = self._buffer[self._at : end + 1], end + 1
        return found

    def is_more_there(self) -> bool:
        """Whether more was received than was read."""
        return self._at < len(self._buffer)

    async def _more(self, where: str) -> bool:
        piece = await self._conversation.receive(where)
        self._buffer += piece
        self._raw += len(piece)
        if self._raw > _RAW_LIMIT:
            raise BodyTooLong
        return bool(piece)


def _status(line: bytes) -> int:
    words = line.split(None, 2)
    if len(words) < 2 or len(words[1]) != 3 or not words[1].isdigit():
        raise ProbeFailed(f"not an HTTP answer: {quoted(line.rstrip())}")
    return int(words[1])


def _end_of_head(data: bytes) -> int:
    """Where the body begins; -1 if the empty line has not come."""
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
    """Takes in what is wanted of a body: `framing` as it came, `take` what it means."""

    def __init__(self, digest: bool, keep: bool, chunked: bool) -> None:
        self._came = hashlib.md5(usedforsecurity=False) if digest else None
        self._meant = hashlib.md5(usedforsecurity=False) if digest and chunked else None
        self._kept: list[bytes] | None = [] if keep else None

    def framing(self, piece: bytes) -> None:
        if self._came is not None:
            self._came.update(piece)

    def take(self, piece: bytes) -> None:
        self.framing(piece)
        if self._meant is not None:
            self._meant.update(piece)
        if self._kept is not None:
            self._kept.append(piece)

    def into(self, answer: HttpResponse) -> None:
        answer.digests = tuple(each.hexdigest() for each in (self._came, self._meant) if each is not None)
        answer.body = b"".join(self._kept or ())


async def read_body(reader: ResponseReader, answer: HttpResponse, digest: bool, keep: bool) -> None:
    """The body's digest, and with `keep` the body itself, into the answer. Raises CheckFailed."""
    if answer.status in _NO_BODY:
        keeper = _BodySink(digest, keep, False)
    else:
        fields = _fields(answer.head)
        coding = b",".join(fields.get(b"transfer-encoding", [])).lower()
        chunked = coding.rpartition(b",")[2].strip() == b"chunked"
        keeper = _BodySink(digest, keep, chunked)
        if chunked:
            await _chunks(reader, keeper, answer)
        else:
            await _plain(reader, keeper, answer, fields.get(b"content-length", []))
    keeper.into(answer)


async def _plain(reader: ResponseReader, keeper: _BodySink, answer: HttpResponse, lengths: list[bytes]) -> None:
    """A body of so many bytes, or else to the end of the connection."""
    length = BODY_LIMIT + 1
    known = bool(lengths) and lengths[0].isdigit() and len(lengths[0]) < 20 and len(set(lengths)) == 1
    if known:
        length = int(lengths[0])
        if length > BODY_LIMIT:
            raise BodyTooLong
    elif lengths:
        answer.remark = f"Content-Length is {quoted(b', '.join(lengths))}"
    while reader.size < length and (piece := await reader.some(length - reader.size)):
        keeper.take(piece)
    if known and reader.size < length:
        answer.remark = f"{reader.size} bytes for a Content-Length of {length}"
    elif known and reader.is_more_there():
        answer.remark = f"more bytes than its Content-Length of {length}"


async def _chunks(reader: ResponseReader, keeper: _BodySink, answer: HttpResponse) -> None:
    """RFC 9112, section 7.1; the trailer is passed over."""
    last = False
    while (line := await reader.line()) is not None:
        keeper.framing(line)
        if last and not line.strip():
            return
        if last:
            continue  # a field of the trailer
        size = _chunk_size(line)
        last = size == 0
        while size and (piece := await reader.some(size)):
            keeper.take(piece)
            size -= len(piece)
        if size or (not last and (end := await reader.line()) is None):
            break
        if not last:
            keeper.framing(end or b"")
    answer.remark = f"ended within its chunks, after {reader.size} bytes"


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or len(digits) > 15 or digits.strip(b"0123456789abcdefABCDEF"):
        raise ProbeFailed(f"not a chunk of a body: {quoted(line.rstrip())}")
    return int(digits, 16)

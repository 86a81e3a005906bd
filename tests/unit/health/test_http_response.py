"""A response means the same in any segmentation, and no input makes its reader fail."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.health.checkers.http import ResponseReader, read_body
from pylvs.health.checkers.sockets import TcpStream
from pylvs.health.probes import ProbeFailed


class Pieces:
    """The methods of TcpStream that a reader uses, with these pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = [piece for piece in pieces if piece]

    async def receive(self, where: str) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def share(self, where: str) -> None:
        """Nothing else runs."""


def read(pieces: list[bytes]) -> tuple[object, ...]:
    """Return status, header, body and digests, or the reason of the failure."""

    async def main() -> tuple[object, ...]:
        reader = ResponseReader(cast("TcpStream", Pieces(pieces)))
        try:
            answer = await reader.head()
            await read_body(reader, answer, digest=True, keep=True)
        except ProbeFailed as error:
            return (str(error),)
        return answer.status, answer.head, answer.body, answer.digests

    return asyncio.run(main())


LINES = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 404 No\n",
        b"HTTP/1.1 100 Go on\r\n\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: x\r\n",
        b"content-length:0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, Chunked \r\n",
        b" folded\r\n",
        b"no colon\r\n",
        b"\r\n",
        b"\n",
        b"5\r\nhello\r\n",
        b"1;extension\r\nx\r\n",
        b"0\r\n",
        b"ff\r\n",
        b"zz\r\n",
        b"hello",
        b"\0\xff",
    ]
)


@given(st.one_of(st.lists(LINES, max_size=12).map(b"".join), st.binary(max_size=200)), st.data())
@settings(deadline=None, max_examples=400)
def test_a_reply_means_the_same_at_every_split(text: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(pieces) == read([text])
    assert read([bytes([each]) for each in text]) == read([text])


def test_an_interim_reply_is_skipped_at_every_split() -> None:
    whole = b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    expected = read([whole])
    assert expected[0] == 200
    assert expected[2] == b"hi"
    for at in range(len(whole)):
        assert read([whole[:at], whole[at:]]) == expected

"""Requests, dumps and batches on a socket whose kernel is a list of replies, and on the real kernel."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from pylvs.netlink import codec
from pylvs.netlink.codec import Netlink, NetlinkError, attributes, message, text, walk

ERROR, DONE, DATA = 2, 3, 16
MULTI, INTERRUPTED, CAPPED, EXPLAINED = 0x2, 0x10, 0x100, 0x200
Answer = Callable[[int], bytes]


def reply(kind: int, flags: int, body: bytes) -> Answer:
    """Return a message of the kernel; it has the sequence number of the request."""
    padding = bytes(-len(body) % 4)
    return lambda sequence: struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body + padding


def acknowledged(code: int = 0, flags: int = CAPPED, more: bytes = b"") -> Answer:
    return reply(ERROR, flags, struct.pack("=i", -code) + bytes(16) + more)


class Kernel:
    """A socket that answers each request with the next datagrams, and is empty without them."""

    def __init__(self, *answers: list[Answer]) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[int, int, int, bytes]] = []
        self._ready: list[bytes] = []

    def send(self, data: bytes) -> None:
        requests = list(walk(data))
        self.sent += requests
        for _, _, sequence, _ in requests:
            if self.answers:
                self._ready.append(b"".join(answer(sequence) for answer in self.answers.pop(0)))

    def recv(self, _size: int, _flags: int = 0) -> bytes:
        if not self._ready:
            raise BlockingIOError
        return self._ready.pop(0)

    def close(self) -> None:
        pass


def connected(*answers: list[Answer]) -> tuple[Netlink, Kernel]:
    link, kernel = Netlink(), Kernel(*answers)
    link.close()
    link._socket = kernel  # type: ignore[assignment]
    return link, kernel


def test_a_message_is_padded_and_walked_whole() -> None:
    data = message(18, codec.ACK, 7, b"12345") + message(19, 0, 8, b"")
    assert len(data) == 24 + 16
    assert list(walk(data)) == [(18, codec.REQUEST | codec.ACK, 7, b"12345"), (19, codec.REQUEST, 8, b"")]
    assert [kind for kind, *_ in walk(data[:-1])] == [18]


def test_a_request_returns_what_precedes_its_acknowledgement() -> None:
    late = lambda sequence: reply(DATA, 0, b"late")(sequence - 1)  # noqa: E731
    link, kernel = connected([late, reply(DATA, 0, b"one"), acknowledged()])
    assert link.request(18, b"body", codec.CREATE) == [b"one"]
    assert kernel.sent == [(18, codec.REQUEST | codec.ACK | codec.CREATE, 1, b"body")]


@pytest.mark.parametrize(("flags", "echoed"), [(CAPPED | EXPLAINED, b""), (EXPLAINED, b"body")])
def test_a_refusal_has_the_kernel_s_words(flags: int, echoed: bytes) -> None:
    header = struct.pack("=IHHII", 16 + len(echoed), 18, 0, 1, 0)
    body = struct.pack("=i", -errno.EPERM) + header + echoed + text(1, "because")
    link, _ = connected([reply(ERROR, flags, body)])
    with pytest.raises(NetlinkError) as refused:
        link.request(18, echoed)
    assert (refused.value.number, refused.value.reason) == (errno.EPERM, "because")


def test_a_dump_is_repeated_until_no_change_interrupts_it() -> None:
    torn = [reply(DATA, MULTI | INTERRUPTED, b"torn"), reply(DONE, MULTI, bytes(4))]
    whole = [reply(DATA, MULTI, b"one"), reply(DATA, MULTI, b"two"), reply(DONE, MULTI, bytes(4))]
    assert connected(torn, torn, whole)[0].dump(18, b"") == [b"one", b"two"]
    assert connected(torn, torn, whole)[0].dump(18, b"", attempts=2) == [b"torn"]


def test_a_dump_may_end_with_an_error() -> None:
    body = struct.pack("=i", -errno.ENODEV) + text(1, "no such thing")
    link, _ = connected([reply(DATA, MULTI, b"one"), reply(DONE, MULTI | EXPLAINED, body)])
    with pytest.raises(NetlinkError, match="no such thing"):
        link.dump(18, b"")


def test_a_batch_has_a_reply_for_each_request_in_order() -> None:
    count = 150  # more than one batch
    answers = [[acknowledged(errno.EEXIST if at == 7 else 0)] for at in range(count - 1)]
    link, kernel = connected(*answers)
    found = link.do([(18, bytes([at]), codec.CREATE) for at in range(count)])
    assert [at for at, (number, _) in enumerate(found) if number == errno.EEXIST] == [7]
    assert found[-1] == (errno.EIO, "the kernel did not answer")
    assert [body for *_, body in kernel.sent] == [bytes([at]) for at in range(count)]


def test_the_kernel_answers_as_the_list_does() -> None:
    with Netlink() as link:
        link_message = codec.IFINFOMSG.pack(0, 0, 1, 0, 0)
        (loopback,) = link.request(codec.GETLINK, link_message)
        names = [attributes(each, codec.IFINFOMSG.size)[3] for each in link.dump(codec.GETLINK, bytes(16))]
        assert attributes(loopback, codec.IFINFOMSG.size)[3] in names
        missing = codec.IFINFOMSG.pack(0, 0, 1 << 30, 0, 0)
        assert link.do([(codec.GETLINK, missing, 0), (codec.GETLINK, missing, 0)]) == [(errno.ENODEV, "")] * 2
        with pytest.raises(NetlinkError):
            link.request(codec.GETLINK, missing)

"""Messages that a local user can send to the bus, and which shall not disturb others."""

from __future__ import annotations

import pytest
from jeepney import DBusAddress, HeaderFields, new_method_call

from pylvs.dbus.framing import MAX_DECODED, BadFraming, Framing
from pylvs.dbus.interface import PEER

PING = DBusAddress("/", "x.y", PEER)


def call(method: str, signature: str | None = None, *body: object) -> bytes:
    return bytes(new_method_call(PING, method, signature, body).serialise(1))


def with_a_descriptor_that_is_missing() -> bytes:
    """Return a call whose body is the number of a descriptor, without a descriptor."""
    return call("Ping", "u", 0).replace(b"\x01u\x00", b"\x01h\x00")


def methods(framing: Framing, *parts: bytes) -> list[str]:
    return [message.header.fields[HeaderFields.member] for part in parts for message in framing.messages(part)]


def test_messages_come_in_any_parts() -> None:
    data = call("First", "s", "text") + call("Second")
    assert methods(Framing(), *(data[at : at + 1] for at in range(len(data)))) == ["First", "Second"]
    assert methods(Framing(), data) == ["First", "Second"]


def test_a_message_that_cannot_be_read_is_skipped_alone() -> None:
    framing = Framing()
    assert methods(framing, with_a_descriptor_that_is_missing() + call("Next")) == ["Next"]
    assert framing.skipped == "a message that cannot be read (IndexError)"


def test_a_long_message_is_neither_kept_nor_decoded() -> None:
    framing = Framing()
    long = call("Long", "ai", [0] * MAX_DECODED)
    assert methods(framing, long[:20]) == []
    for at in range(20, len(long), 1000):
        assert methods(framing, long[at : at + 1000]) == []
        assert len(framing._data) < 1000
    assert methods(framing, call("Next")) == ["Next"]
    assert framing.skipped == "a message that is too long"


@pytest.mark.parametrize("data", [b"x" * 16, b"l" + b"\xff" * 15])
def test_without_the_size_of_a_message_nothing_more_can_be_read(data: bytes) -> None:
    with pytest.raises(BadFraming):
        Framing().messages(data)

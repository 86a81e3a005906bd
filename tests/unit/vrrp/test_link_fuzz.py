"""Malformed packets at the links of pylvs-vrrp: each ends its link, and nothing else happens.

PYLVS_FUZZ is the number of packets: with 1000000 it takes some minutes.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import random
import socket
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_interface
from typing import Any

import pytest

from pylvs.model.checks import Script
from pylvs.model.plain import Malformed, from_plain, to_plain
from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import Notify, Track, Tracks, VrrpConfiguration, VrrpInstance
from pylvs.model.wanted import GlobalSettings
from pylvs.system.processes import channel
from pylvs.system.processes.channel import BadMessage, Link
from pylvs.system.processes.runner import Answer, Run
from pylvs.vrrp.control.requests import REQUESTS
from pylvs.vrrp.helper.link import Configure, FromHelper, Late, LogLine, StateChanged, ToHelper, decoded, encoded
from pylvs.vrrp.tracking import TrackedObject
from tests.unit.vrrp.fake_loop import FakeTimeLoop

PACKETS = int(os.environ.get("PYLVS_FUZZ", "4000"))
WARM = 500  # packets before memory is compared: converters are made at their first use
GROWTH = 2000  # blocks of memory, some ten kilobytes: caches of the interpreter
SEED = 1

INSTANCE = VrrpInstance(
    name="VI_1",
    interface="eth0",
    vrid=51,
    addresses=(HeldAddress(interface=ip_interface("10.0.0.1/24")),),
    tracks=Tracks(scripts=(Track("web", -2),)),
    notify=Notify(master=Script(("/bin/true",))),
)
ROUTERS = VrrpConfiguration(instances=(INSTANCE,))
RUN = Run(
    arguments=("/bin/true",),
    environment={"A": "b"},
    user="root",
    uid=0,
    gid=0,
    groups=(0,),
    secure=False,
    umask=0o77,
    timeout_s=5.0,
)


def request(message: dict[str, Any]) -> None:
    verb = message.pop("verb", None)
    message.pop("id", None)
    if not isinstance(verb, str) or verb not in REQUESTS:
        raise BadMessage("no such verb")
    plain(REQUESTS[verb], message)


def plain(kind: Any, message: Any) -> None:
    try:
        from_plain(kind, message)
    except Malformed as error:
        raise BadMessage(str(error)) from None


# What takes a message, and valid ones.
LINKS: list[tuple[Callable[[dict[str, Any]], object], list[channel.Message]]] = [
    (
        lambda message: decoded(message, ToHelper),
        [
            encoded(Configure(GlobalSettings(), ROUTERS), ToHelper),
            encoded(StateChanged("INSTANCE", "VI_1", "MASTER", 100), ToHelper),
            encoded(LogLine("info", "a line", {"device": "eth0"}), ToHelper),
        ],
    ),
    (
        lambda message: decoded(message, FromHelper),
        [
            encoded(TrackedObject("file", Track("f"), number=3), FromHelper),
            encoded(Late((("script", "web"),)), FromHelper),
        ],
    ),
    (
        request,
        [
            {"id": 1, "verb": "configure", "configuration": to_plain(ROUTERS), "settings": to_plain(GlobalSettings())},
            {"id": 2, "verb": "yield", "seconds": 60.0, "names": ["VI_1"]},
            {"id": 3, "verb": "data_plane", "up": None, "reason": "unknown"},
        ],
    ),
    (lambda message: plain(Run, message.get("run")), [{"id": 1, "run": to_plain(RUN)}]),
    (lambda message: plain(Answer, message), [dict(to_plain(Answer(id=1, status=0, output="text")))]),
]
VALUES: list[Any] = [None, True, -1, 10**30, 1e308, "", "x" * 5000, [], {}, [[]], {"": {}}, "10.0.0.1", "\ud800"]


def spoiled(chance: random.Random, message: channel.Message) -> bytes:
    """Return a packet like this message, but for one change."""
    if chance.random() < 0.4:
        data = bytearray(json.dumps(message).encode())
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            data[at : at + chance.choice((0, 1, 8))] = chance.randbytes(chance.choice((0, 1, 3)))
        return bytes(data)[: channel.MAX_PACKET]
    made = json.loads(json.dumps(message))
    inner: Any = made
    while True:
        keys = list(inner) if isinstance(inner, dict) else range(len(inner))
        if not keys:
            break
        key = chance.choice(list(keys))
        if not isinstance(inner[key], dict | list) or chance.random() < 0.3:
            if isinstance(inner, dict) and chance.random() < 0.3:
                inner[chance.choice(("other", "__class__", "object"))] = inner.pop(key)
            else:
                inner[key] = chance.choice(VALUES)
            break
        inner = inner[key]
    return json.dumps(made).encode()


class Receiver:
    """One end of a link. It is made anew after each packet that ended it."""

    def __init__(self, loop: FakeTimeLoop) -> None:
        self.loop = loop
        self.reason = ""  # of the last end
        self.taken = self.lost = 0
        self.take: Callable[[dict[str, Any]], object] = request
        self._open()

    def _open(self) -> None:
        ours, self.its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link = Link(self.loop, ours, self._receive, self._lost, equal=True)

    def _receive(self, message: dict[str, Any], descriptors: list[int]) -> None:
        channel.close_all(descriptors)
        self.take(message)
        self.taken += 1

    def _lost(self, reason: str) -> None:
        assert reason.startswith("sent an invalid message ("), reason
        self.reason = reason
        self.lost += 1
        self.its.close()
        self._open()

    def get(self, data: bytes, descriptors: list[int]) -> None:
        if descriptors:
            socket.send_fds(self.its, [data], descriptors)
        else:
            self.its.send(data)
        self.loop.pass_(0)

    def close(self) -> None:
        self.link.close()
        self.its.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    loop = FakeTimeLoop()
    receiver = Receiver(loop)
    yield receiver
    receiver.close()
    loop._selector.close()


@pytest.mark.timeout(120 + PACKETS // 100)
def test_malformed_packets_end_their_link_and_leave_nothing(receiver: Receiver) -> None:
    chance = random.Random(SEED)
    null = os.open(os.devnull, os.O_RDONLY)
    blocks = open_files = 0
    for number in range(WARM + PACKETS):
        if number == WARM:
            gc.collect()
            blocks, open_files = sys.getallocatedblocks(), len(os.listdir("/proc/self/fd"))
        receiver.take, valid = chance.choice(LINKS)
        receiver.get(spoiled(chance, chance.choice(valid)) or b"x", [null] * chance.choice((0, 0, 0, 1, 3)))
    gc.collect()
    assert receiver.taken + receiver.lost == WARM + PACKETS
    assert receiver.lost > PACKETS / 4
    assert receiver.taken, "a change may be harmless"
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert sys.getallocatedblocks() < blocks + GROWTH
    os.close(null)


def test_valid_messages_are_taken(receiver: Receiver) -> None:
    for receiver.take, valid in LINKS:
        for message in valid:
            receiver.get(channel.encode(message), [])
    assert receiver.lost == 0


@pytest.mark.parametrize(
    "file", [b"", b"{", b"[]", b"x" * 200_000, b'{"id":1,"verb":"other"}'], ids=["empty", "cut", "list", "long", "verb"]
)
def test_a_sealed_file_with_other_content_ends_the_link(receiver: Receiver, file: bytes) -> None:
    descriptor = channel.sealed(file)
    receiver.get(b'{"sealed":true}', [descriptor])
    os.close(descriptor)
    assert receiver.lost == 1


def test_a_file_that_its_sender_could_change_ends_the_link(receiver: Receiver) -> None:
    message = channel.encode({"id": 1, "verb": "ping"})
    memory = os.memfd_create("pylvs", os.MFD_ALLOW_SEALING)
    with open(memory, "wb", closefd=False) as file:
        file.write(message)
    receiver.get(b'{"sealed":true}', [memory])
    assert receiver.reason == "sent an invalid message (a file that is not sealed)"
    reading, writing = os.pipe()
    receiver.get(b'{"sealed":true}', [reading])
    assert receiver.lost == 2
    for each in memory, reading, writing:
        os.close(each)
    sealed = channel.sealed(message)
    receiver.get(b'{"sealed":true}', [sealed])
    os.close(sealed)
    assert (receiver.taken, receiver.lost) == (1, 2)


def test_a_file_longer_than_any_message_ends_the_link(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = channel.sealed(b'{"id":1,"verb":"ping"}')
    monkeypatch.setattr(channel, "MAX_CONTENT", 10)
    receiver.get(b'{"sealed":true}', [descriptor])
    assert receiver.lost == 1
    with contextlib.suppress(OSError):
        os.close(descriptor)

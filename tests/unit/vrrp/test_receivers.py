"""No flood of invalid packets keeps a valid advertisement from the process; the sockets have short queues."""

from __future__ import annotations

import random
from typing import ClassVar

import pytest

from pylvs.model.vrrp import VrrpInstance
from pylvs.vrrp import receivers
from pylvs.vrrp.advert_filter import Detail, Relevant
from pylvs.vrrp.flood_guard import MOST_IN_SLICE, MOST_UNVERIFIED, SLICE_S, UNVERIFIED_S
from pylvs.vrrp.loop import Call
from pylvs.vrrp.protocol.adverts import AdvertEncoder, AdvertValidator, Datagram, InvalidAdvert
from pylvs.vrrp.receivers import AdvertReceivers
from pylvs.vrrp.sockets import Build
from tests.unit.vrrp.fake_loop import FakeTimeLoop
from tests.unit.vrrp.instances import PASS, SECOND, SIXTH, THIRD, UNICAST, UNICAST_THIRD
from tests.unit.vrrp.test_advert_filter import OWN, changed, packet_of, passes

QUEUE = 200  # packets
A_SLICE = 500  # of a flood
SECONDS = 1


class Socket:
    """Replaces AdvertReceiver: a queue behind a filter."""

    made: ClassVar[list[Socket]] = []

    def __init__(self, *_: object) -> None:
        self.queue: list[Datagram] = []
        self.read = 0
        self.made.append(self)

    def fileno(self) -> int:
        return id(self)

    def accept(self, build: Build) -> None:
        self.program = build(Detail.CHECKSUMS)

    def put(self, packet: Datagram) -> None:
        if len(self.queue) < QUEUE and passes(self.program, packet):
            self.queue.append(packet)

    def receive(self, most: int = 64) -> list[Datagram]:
        taken, self.queue = self.queue[:most], self.queue[most:]
        self.read += len(taken)
        return taken

    def drain(self) -> None:
        self.queue.clear()

    def close(self) -> None:
        pass


class SocketLoop(FakeTimeLoop):
    """A loop of such sockets; `pass_` runs its timers."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: dict[int, Call] = {}

    def watch(self, descriptor: int, read: Call | None, write: Call | None = None) -> None:
        assert read is not None
        self.reads[descriptor] = read


class Process:
    """Receivers with one virtual router, which only validates."""

    def __init__(self, instance: VrrpInstance) -> None:
        self.loop = SocketLoop()
        self.validator = AdvertValidator(instance, AdvertEncoder(instance, OWN[instance.family]))
        self.valid: list[Datagram] = []
        self.receivers = AdvertReceivers(self.loop, self._receive, lambda *_: Relevant(100))
        assert self.receivers.configure([(instance, "eth0")]) == []

    def _receive(self, device: str, vrid: int, datagram: Datagram) -> bool:
        try:
            valid = self.validator.validate(datagram) is not None
        except InvalidAdvert:
            return False
        if valid:
            self.valid.append(datagram)
        return valid

    def wake(self) -> None:
        """Read a batch of every socket that is readable, until none is."""
        while any(each.queue for each in Socket.made):
            for opened in Socket.made:
                if opened.queue:
                    self.loop.reads[opened.fileno()]()


@pytest.fixture(autouse=True)
def sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    Socket.made.clear()
    monkeypatch.setattr(receivers, "AdvertReceiver", Socket)


def invalid(generator: random.Random, instance: VrrpInstance) -> list[Datagram]:
    """Return changed advertisements in the master's name that are not valid."""
    right = packet_of(instance)
    found: list[Datagram] = []
    while len(found) < A_SLICE:
        packet = changed(generator, right)
        try:
            AdvertValidator(instance, AdvertEncoder(instance, OWN[instance.family])).validate(packet)
        except InvalidAdvert:
            found.append(packet)
    return found


@pytest.mark.parametrize("instance", [SECOND, PASS, THIRD, SIXTH, UNICAST, UNICAST_THIRD])
def test_every_valid_advertisement_is_read_in_a_flood_of_invalid_ones(instance: VrrpInstance) -> None:
    """The process stands still for a tenth of a second each time, so the queue of what is invalid overflows."""
    process, generator = Process(instance), random.Random(7)
    flood, master = invalid(generator, instance), packet_of(instance, 200)
    slices = round(SECONDS / SLICE_S)
    for number in range(slices):
        at = generator.randrange(len(flood))
        for packet in [*flood[:at], master, *flood[at:]]:
            for each in Socket.made:
                each.put(packet)
        process.loop.pass_(SLICE_S)
        process.wake()
        assert len(process.valid) == number + 1
    verified, unverified = Socket.made
    assert verified.read == slices
    assert MOST_UNVERIFIED <= unverified.read <= (SECONDS / UNVERIFIED_S + 2) * (MOST_UNVERIFIED + QUEUE)


def test_a_flood_of_valid_lower_priorities_costs_no_advertisement_that_matters() -> None:
    process, slices = Process(THIRD), round(SECONDS / SLICE_S)
    lower, master = packet_of(THIRD, 50), packet_of(THIRD, 200)
    for _ in range(slices):
        for _ in range(MOST_IN_SLICE + 10):
            Socket.made[0].put(lower)
        process.wake()
        for packet in [*[lower] * A_SLICE, master]:
            Socket.made[0].put(packet)
        process.loop.pass_(SLICE_S / 2)
        process.wake()
        process.loop.pass_(SLICE_S)
    assert process.valid.count(master) == slices
    assert process.valid.count(lower) <= slices * MOST_IN_SLICE


def test_a_reload_changes_the_filters_of_the_same_sockets() -> None:
    process = Process(PASS)
    before = [each.program for each in Socket.made]
    assert process.receivers.configure([(SECOND, "eth0")]) == []
    assert len(Socket.made) == 2
    assert all(each.program != program for each, program in zip(Socket.made, before, strict=True))

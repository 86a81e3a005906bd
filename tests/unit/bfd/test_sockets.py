"""The sockets of BFD on the loopback device: addresses, TTLs, ports and the filter of neighbors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from ipaddress import ip_address

import pytest

from pylvs.bfd.flood_guard import neighbor_filter
from pylvs.bfd.sockets import FIRST_SOURCE_PORT, LAST_SOURCE_PORT, Datagram, Receiver, Sender
from pylvs.model.bfd import BfdSession
from pylvs.system.sockets import TAKE
from tests.waiting import until


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def receiver_of(stack: ExitStack, family: int) -> tuple[Receiver, int]:
    """Return a receiver at a free port."""
    made = stack.enter_context(closing(Receiver(family, 0)))
    return made, made._socket.getsockname()[1]


def sender_of(stack: ExitStack, port: int, neighbor: str, source: str, ttl: int = 255) -> Sender:
    """Return a sender to that port."""
    made = Sender(
        BfdSession(name="b", neighbor=ip_address(neighbor), source=ip_address(source), ttl=ttl), FIRST_SOURCE_PORT
    )
    made._to = neighbor, port
    return stack.enter_context(closing(made))


def received(receiver: Receiver, count: int) -> list[Datagram]:
    found: list[Datagram] = []

    def enough() -> bool:
        found.extend(receiver.receive())
        return len(found) >= count

    until(enough, "the packets arrive")
    return found


def test_only_packets_of_neighbors_arrive(stack: ExitStack) -> None:
    receiver, port = receiver_of(stack, 4)
    receiver.accept(neighbor_filter([ip_address("127.0.0.9"), ip_address("127.0.0.3")]))
    for number in (2, 3, 4, 9):
        sender_of(stack, port, "127.0.0.1", f"127.0.0.{number}", ttl=number).send(b"x" * number)
    here = ip_address("127.0.0.1")
    assert received(receiver, 2) == [
        Datagram(ip_address("127.0.0.3"), here, 3, b"x" * 3),
        Datagram(ip_address("127.0.0.9"), here, 9, b"x" * 9),
    ]
    assert receiver.receive() == []


def test_a_packet_of_ipv6_has_its_addresses_and_hop_limit(stack: ExitStack) -> None:
    receiver, port = receiver_of(stack, 6)
    here = ip_address("::1")
    sender = sender_of(stack, port, "::1", "::1", ttl=77)
    receiver.accept(neighbor_filter([ip_address("::2"), ip_address("fd00::1")]))
    sender.send(b"dropped")
    receiver.accept(neighbor_filter([ip_address("::2"), here]))
    sender.send(b"taken")
    assert received(receiver, 1) == [Datagram(here, here, 77, b"taken")]


def test_another_ttl_counts_for_the_next_packet(stack: ExitStack) -> None:
    receiver, port = receiver_of(stack, 4)
    receiver.accept(neighbor_filter([ip_address("127.0.0.1")]))
    sender = sender_of(stack, port, "127.0.0.1", "127.0.0.1")
    sender.send(b"1")
    sender.set_ttl(3)
    sender.send(b"2")
    assert [each.ttl for each in received(receiver, 2)] == [255, 3]


def test_each_sender_has_a_source_port_of_its_own(stack: ExitStack) -> None:
    senders = [sender_of(stack, 1, "127.0.0.1", "127.0.0.1") for _ in range(3)]
    ports = {each._socket.getsockname()[1] for each in senders}
    assert len(ports) == 3
    assert all(FIRST_SOURCE_PORT <= port <= LAST_SOURCE_PORT for port in ports)


def test_a_port_that_is_taken_is_an_error(stack: ExitStack) -> None:
    _, port = receiver_of(stack, 4)
    with pytest.raises(OSError, match="in use"):
        Receiver(4, port)


def test_a_source_that_this_host_does_not_have_is_an_error() -> None:
    with pytest.raises(OSError, match="assign"):
        Sender(BfdSession(name="b", neighbor=ip_address("127.0.0.1"), source=ip_address("192.0.2.1")), LAST_SOURCE_PORT)


@pytest.mark.parametrize(("family", "many"), [(4, 1300), (6, 440)])
def test_the_filter_of_too_many_neighbors_takes_all(family: int, many: int) -> None:
    first = int(ip_address("10.0.0.0" if family == 4 else "fd00::"))
    make = ip_address
    addresses = [make(first + each) for each in range(2 * many)]
    assert len(neighbor_filter(addresses[:many])) < 4096
    assert neighbor_filter(addresses) == [TAKE]

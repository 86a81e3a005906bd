"""TC does not decide again about a packet of no service that XDP has passed, wherever the driver has metadata."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pylvs.model.service import Method, Protocol, ServiceKey
from tests.packet.frames import tcp
from tests.packet.host import VIP4, Host, ip, new_host, server4
from tests.packet.wire import wire

FOREIGN = "10.77.0.101"  # no device has it


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(mode="native", recycled=True) as made:
        yield made


def decisions(host: Host, frame: bytes) -> int:
    """Return how often the packet was found to be for an address that is not local."""
    before = host.reason("NOT_LOCAL")
    with wire() as link:
        link.send(frame)
        link.came()
    return host.reason("NOT_LOCAL") - before


def test_one_decision_for_both_hooks(host: Host) -> None:
    host.serve(ServiceKey(Protocol.TCP, ip_address(FOREIGN), 80), 1)
    assert decisions(host, tcp(target=FOREIGN)) == 1


def test_tc_decides_about_packets_without_metadata(host: Host) -> None:
    service = host.new_key()
    host.serve(service, 1)
    before = host.reason("NOT_LOCAL")
    host.serve(ServiceKey(Protocol.TCP, ip_address(FOREIGN), 80), 1)
    host.run(tcp(target=FOREIGN), "tc")
    assert host.reason("NOT_LOCAL") == before + 1


def test_the_stack_receives_what_xdp_has_decided(host: Host) -> None:
    """A packet of a NAT server without a connection is forwarded, as by a router."""
    service = host.new_key()
    host.serve(service, 1, Method.MASQ)
    ip("route", "add", "203.0.113.0/24", "via", server4(2))
    frame = tcp("A", source=server4(1), target="203.0.113.9")
    with wire() as link:
        link.send(frame)
        assert any(b"\xcb\x00\x71\x09" in each for each in link.came())
    assert VIP4 not in {str(each.client) for each in host.director.connections()}

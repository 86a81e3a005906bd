"""What a reader of connections gives to another data plane in its first pass, and in those that follow."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pylvs.dataplane import load
from pylvs.dataplane.exchange import handover
from pylvs.dataplane.exchange.handover import HandoverReader
from pylvs.model.service import Destination, DestinationKey, Method, ServiceFlag, VirtualService
from tests.packet.frames import CLIENT4, CLIENT6, tcp
from tests.packet.host import SENT, VIP4, VIP6, Host, new_host, server4


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host(recycled=True, expires=False) as made:
        yield made


@pytest.fixture
def reader(host: Host) -> HandoverReader:
    return HandoverReader(host.director.tables)


def ports(reader: HandoverReader, hurries: bool = False) -> list[int]:
    return sorted(each.client_port for each in reader.changed(hurries))


def send(host: Host, flags: str, port: int, service_port: int, family: int = 4) -> None:
    ends = (CLIENT4, VIP4) if family == 4 else (CLIENT6, VIP6)
    for each in flags:
        assert host.run(tcp(each, port, service_port, *ends), "tc").verdict in SENT["tc"]


@pytest.mark.parametrize("family", [4, 6])
def test_a_later_pass_has_what_is_new_or_in_another_state(host: Host, reader: HandoverReader, family: int) -> None:
    service = host.new_key(vip=VIP4 if family == 4 else VIP6)
    host.serve(service, 1)
    for port in range(6000, 6010):
        send(host, "SA", port, service.port, family)
    assert ports(reader) == list(range(6000, 6010))
    assert ports(reader) == []
    send(host, "A", 6001, service.port, family)  # refreshed, and far from its end
    send(host, "F", 6003, service.port, family)
    send(host, "S", 6020, service.port, family)
    assert ports(reader) == [6003, 6020]
    assert ports(reader) == []
    assert reader.count == 11


@pytest.mark.parametrize(
    ("later_s", "hurries", "is_given"),
    [
        (900 - handover.LASTING_S / 2, False, True),
        (900 - handover.LASTING_S / 2, True, True),
        (200, False, True),
        (200, True, False),
        (50, False, False),
    ],
)
def test_a_refreshed_connection_is_given_again_if_it_would_end_too_soon(
    host: Host,
    reader: HandoverReader,
    monkeypatch: pytest.MonkeyPatch,
    later_s: float,
    hurries: bool,
    is_given: bool,
) -> None:
    """While new connections wait, only if it would end in a moment."""
    service = host.new_key()
    host.serve(service, 1)
    for port in 6000, 6001:
        send(host, "SA", port, service.port)
    assert ports(reader) == [6000, 6001]
    clock = load.clock
    later = round(later_s * load.ticks_per_second())
    monkeypatch.setattr(load, "clock", lambda state: clock(state) + later & 0xFFFFFFFF)
    assert ports(reader) == [], "none was refreshed here, either"
    table = host.director.tables
    (slot,) = (entry[0] for entry in HandoverReader(table)._entries() if entry[8].to_bytes(2, "little") == b"\x17\x71")
    (word,) = (entry[1] for entry in HandoverReader(table)._entries() if entry[0] == slot)
    table.connections.store(slot // 2, slot % 2 * 32, word + later)
    assert ports(reader, hurries) == [6001] * is_given


def test_a_template_is_given_again_when_its_connection_is_established(host: Host, reader: HandoverReader) -> None:
    service = host.new_key()
    host.director.add_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 300))
    server = Destination(DestinationKey(ip_address(server4(1)), service.port), Method.ROUTE)
    host.director.add_destination(service, server)
    send(host, "S", 6000, service.port)
    assert ports(reader) == [0, 6000]
    assert ports(reader) == []
    send(host, "A", 6000, service.port)
    assert ports(reader) == [0, 6000]
    assert ports(reader) == []


def test_connections_of_a_deleted_server_are_not_given(host: Host, reader: HandoverReader) -> None:
    service = host.new_key()
    host.serve(service, 1)
    send(host, "SA", 6000, service.port)
    host.director.delete_destination(service, DestinationKey(ip_address(server4(1)), service.port))
    for _ in range(2):
        assert ports(reader) == []
        assert reader.count == 0

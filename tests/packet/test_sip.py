"""Persistence by the Call-ID of SIP messages: which text is one, as recorded of IPVS; templates; servers that begin."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pylvs.dataplane.connections import ConnectionReader
from pylvs.dataplane.upgrade import upgrade
from pylvs.model.director import Connection
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    VirtualService,
)
from tests.oracle_support.replays import ORACLE
from tests.packet.frames import CLIENT4, CLIENT6, parsed, tcp, udp
from tests.packet.host import SENT, TC_DROP, VIP4, VIP6, Host, new_host, server4, server6, server_mac
from tests.waiting import until

FIRST, TEXTS = (runpy.run_path(str(ORACLE / "families" / "sip_texts.py"))[name] for name in ("FIRST", "TEXTS"))
RECORDED = {
    row["step"]: row
    for name in ("sip", "sip_characters")
    for row in json.loads((ORACLE.parent / "golden" / f"{name}.json").read_text())
}
OPS = ServiceFlag.PERSISTENT | ServiceFlag.ONE_PACKET


def message(call: str) -> bytes:
    """Return a request of a call."""
    return bytes(FIRST) + f"Call-ID: {call}\r\n\r\n".encode("latin-1")


def serve(
    host: Host,
    flags: ServiceFlag = ServiceFlag.PERSISTENT,
    method: Method = Method.ROUTE,
    version: int = 4,
    protocol: Protocol = Protocol.UDP,
    timeout_s: int = 300,
) -> ServiceKey:
    """Add a service with persistence engine `sip` and three real servers."""
    service = host.new_key(protocol, VIP4 if version == 4 else VIP6)
    host.director.add_service(VirtualService(service, "rr", flags, timeout_s, engine="sip"))
    for number in 1, 2, 3:
        address = ip_address(server4(number) if version == 4 else server6(number))
        host.director.add_destination(service, Destination(DestinationKey(address, service.port), method))
    return service


def ends(version: int) -> tuple[str, str]:
    """Return a client and the virtual address."""
    return (CLIENT4, VIP4) if version == 4 else (CLIENT6, VIP6)


def receiver(host: Host, frame: bytes) -> str:
    """Return who gets a frame, as recordings name it: r1 to r3, or ? if it is dropped."""
    if host.run(frame, "tc").verdict == TC_DROP:
        return "?"
    macs = {server_mac(number): f"r{number}" for number in (1, 2, 3)}
    return macs[parsed(host.forwarded(frame, "tc")).dst]


def templates(host: Host, service: ServiceKey) -> list[Connection]:
    """Return the templates of a service."""
    found = ConnectionReader(host.director.tables).connections()
    return [each for each in found if each.virtual_port == service.port and not each.client_port]


def test_every_recorded_message_is_sent_as_by_ipvs(director_host: Host) -> None:
    service = serve(director_host)
    got, wanted = {}, {}
    for number, (name, text) in enumerate(TEXTS):
        frame = udp(sport=7000 + number, dport=service.port, payload=text)
        got[name] = [receiver(director_host, frame)]
        wanted[name] = RECORDED[f"headers v4 dr: {name}"]["choices"]
    assert got == wanted
    known = {each.engine_data for each in templates(director_host, service)}
    recorded = {row["more"][1] for row in RECORDED["headers v4 dr: templates"]["connections"]}
    assert known == recorded - {"length@here"}
    assert director_host.reason("NO_CALL_ID") >= sum(choice == ["?"] for choice in wanted.values())


@pytest.mark.parametrize(("part", "line"), [("value", b"i: a%b@h"), ("name", b"i%b:x@h")])
def test_every_character_is_taken_as_by_ipvs(director_host: Host, part: str, line: bytes) -> None:
    service = serve(director_host, OPS)
    taken = bytearray()
    for octet in range(256):
        frame = udp(sport=7000 + octet, dport=service.port, payload=FIRST + line % bytes((octet,)) + b"\r\n\r\n")
        if director_host.run(frame, "tc").verdict != TC_DROP:
            taken.append(octet)
    assert taken.decode("latin-1") == RECORDED[f"characters v4: in the {part}"]["text"]


@pytest.mark.parametrize("version", [4, 6])
def test_a_template_is_for_a_call_of_a_client(director_host: Host, version: int) -> None:
    client, vip = ends(version)
    service = serve(director_host, OPS, version=version)

    def send(call: str, source: str = client, sport: int = 5060) -> str:
        return receiver(director_host, udp(sport, service.port, source, vip, message(call)))

    assert [send("one@x"), send("two@x"), send("one@x", sport=5061)] == ["r3", "r2", "r3"]
    other = str(ip_address(client) + 1)
    assert send("one@x", other) == "r1"
    listed = {(str(each.client), each.engine, each.engine_data) for each in templates(director_host, service)}
    assert listed == {(client, "sip", "one@x"), (client, "sip", "two@x"), (other, "sip", "one@x")}
    assert {str(each.virtual) for each in templates(director_host, service)} == {vip}


def test_xdp_forwards_known_connections_alone(director_host: Host) -> None:
    service = serve(director_host)
    frame = udp(dport=service.port, payload=message("xdp@x"))
    assert director_host.receive(frame)[0] == "tc", "TC reads the text of the first message"
    assert parsed(director_host.forwarded(frame, "xdp")).dst == server_mac(3)
    assert len(templates(director_host, service)) == 1


def test_other_protocols_are_dropped(director_host: Host) -> None:
    service = serve(director_host, protocol=Protocol.TCP)
    assert director_host.run(tcp("S", dport=service.port), "tc").verdict == TC_DROP


@pytest.mark.parametrize("version", [4, 6])
def test_replies_of_one_packet_scheduling_get_the_virtual_address(director_host: Host, version: int) -> None:
    client, vip = ends(version)
    service = serve(director_host, OPS, Method.MASQ, version)
    home = receiver(director_host, udp(5070, service.port, client, vip, message("reply@x")))
    for number in int(home[1:]), 1, 2, 3:
        server = server4(number) if version == 4 else server6(number)
        reply = udp(service.port, 5070, server, client, message("reply@x"))
        out = parsed(director_host.forwarded(reply, "tc"))
        assert (out.payload.src, out.payload.dst, out.payload.payload.sport) == (vip, client, service.port)
        again = receiver(director_host, udp(5070, service.port, client, vip, message("reply@x")))
        assert again == f"r{number}", "the last server that sent gets the client's next message"
    assert "ASSURED" in {each.state for each in templates(director_host, service)}
    silent = udp(service.port, 5070, server, client, b"no Call-ID")
    assert director_host.run(silent, "tc").verdict not in (TC_DROP, *SENT["tc"])


def test_a_server_begins_a_connection(director_host: Host) -> None:
    service = serve(director_host, ServiceFlag.PERSISTENT, Method.MASQ)
    begun = udp(service.port, 5071, server4(2), CLIENT4, message("begun@x"))
    for _ in range(2):
        assert parsed(director_host.forwarded(begun, "tc"))[1].src == VIP4
    assert receiver(director_host, udp(5071, service.port, payload=message("other@x"))) == "r2"
    assert director_host.counts(service)[server4(2)] == (0, 1)
    counters = director_host.director.service(service).destinations
    assert [row.counters.connections for row in counters if str(row.destination.key.address) == server4(2)] == [1]


@pytest.fixture
def expiring() -> Iterator[Host]:
    with new_host(expires=False, mode="tc") as host:
        yield host


def test_an_ended_template_leaves_nothing_behind(expiring: Host) -> None:
    service = serve(expiring, OPS, timeout_s=1)
    for call in range(20):
        receiver(expiring, udp(5060, service.port, payload=message(f"{call}@x")))
    calls = expiring.director.tables.calls
    assert len(list(calls.keys())) == len(templates(expiring, service)) == 20

    def is_empty() -> bool:
        expiring.expiry.run(expiring.director)
        return not list(calls.keys())

    until(is_empty, "the end of the templates")
    assert templates(expiring, service) == []


def test_calls_go_on_after_an_upgrade_and_in_a_larger_table() -> None:
    with new_host(expires=False, mode="tc") as host:
        service = serve(host, OPS)
        frame = udp(5060, service.port, payload=message("one@x"))
        server = receiver(host, frame)
        with host.director.batch():
            upgrade.swap_programs(host.director.tables)
        host.close_programs()
        assert receiver(host, frame) == server
        host.director.change_setting("conn_max", 8192)
        host.close_programs()
        assert receiver(host, frame) == server
        assert host.reason("MISSED_TAIL_CALL") == 0


def test_calls_beyond_the_limit_are_dropped_and_the_table_is_not_full() -> None:
    limit = 1024  # of so small a table
    with new_host(connections=4 * limit, expires=False, mode="tc") as host:
        service = serve(host, OPS)
        for call in range(limit):
            host.run(udp(5060, service.port, payload=message(f"{call}@x")), "tc")
        assert len(templates(host, service)) == limit
        assert receiver(host, udp(5060, service.port, payload=message("another@x"))) == "?"
        assert (host.reason("REFUSED_CALLS_FULL"), host.reason("TABLE_FULL_STATELESS")) == (1, 0)
        assert receiver(host, udp(5060, service.port, payload=message("0@x"))) != "?"

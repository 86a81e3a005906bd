"""Checks through a virtual address: a packet of this host with a probe's mark is sent to one server."""

from __future__ import annotations

import socket
import struct
import subprocess
from contextlib import closing
from ipaddress import ip_address

import pytest

from pylvs.bpf import abi
from pylvs.model.service import (
    FIRST_PROBE_MARK,
    PROBE_MARK_MASK,
    PROBE_MARKS,
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    VirtualService,
    is_probe_mark,
)
from tests.packet import frames
from tests.packet.host import HOOKS, OWN4, OWN6, PASSED, VIP4, VIP6, Host, ip, server4, server6, server_mac
from tests.packet.wire import Wire, wire

OWN, VIP = {4: OWN4, 6: OWN6}, {4: VIP4, 6: VIP6}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def probe_service(
    host: Host, number: int, server: int, family: int = 4, method: Method = Method.ROUTE
) -> tuple[ServiceKey, int]:
    """Add the service of a probe's mark with this one server; return the mark."""
    mark = FIRST_PROBE_MARK + number
    key = ServiceKey.of_mark(mark, FAMILY[family])
    host.director.add_service(VirtualService(key, "rr", ServiceFlag.ONE_PACKET))
    address = ip_address(server4(server) if family == 4 else server6(server))
    host.director.add_destination(key, Destination(DestinationKey(address, 0), method))
    return key, mark


def ask(family: int, port: int, mark: int, kind: int = socket.SOCK_STREAM, source_port: int = 0) -> socket.socket:
    """Send a request of this host."""
    made = socket.socket(FAMILY[family], kind)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
    made.bind((OWN[family], source_port))
    made.connect_ex((VIP[family], port))
    if kind == socket.SOCK_DGRAM:
        made.send(b"?")
    return made


def next_hop_of(link: Wire, port: int) -> str:
    """Return the destination link address of the first packet to this port; "" without one."""
    for frame in link.came():
        if struct.pack(">H", port) in (frame[36:38], frame[56:58], frame[96:98]):
            return frame[:6].hex(":")
    return ""


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("method", [Method.ROUTE, Method.TUNNEL])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_each_mark_has_its_server(director_host: Host, family: int, method: Method, kind: int) -> None:
    protocol = Protocol.TCP if kind == socket.SOCK_STREAM else Protocol.UDP
    service = director_host.new_key(protocol, VIP[family])
    director_host.serve(service, 4, method)
    marks = {server: probe_service(director_host, server, server, family, method)[1] for server in (3, 1, 4)}
    for server, mark in [*marks.items(), *marks.items()]:
        with wire() as link, closing(ask(family, service.port, mark, kind)):
            assert next_hop_of(link, service.port) == server_mac(server)
    assert set(director_host.counts(service).values()) == {(0, 0)}, "clients' counts know nothing of it"


@pytest.mark.parametrize("family", [4, 6])
def test_a_reused_port_reaches_the_server_of_the_new_mark(director_host: Host, family: int) -> None:
    service = director_host.new_key(vip=VIP[family])
    director_host.serve(service, 1)
    _, first = probe_service(director_host, 1, 1, family)
    _, second = probe_service(director_host, 2, 2, family)
    for mark, server in ((first, 1), (second, 2), (first, 1)):
        with wire() as link, closing(ask(family, service.port, mark, source_port=33333)):
            assert next_hop_of(link, service.port) == server_mac(server)


@pytest.mark.parametrize("family", [4, 6])
def test_an_address_of_another_host_is_checked_if_the_mark_is_routed_to_it(director_host: Host, family: int) -> None:
    service = director_host.new_key(vip=VIP[family])
    director_host.serve(service, 1)
    _, mark = probe_service(director_host, 7, 5, family)
    six = ["-6"] if family == 6 else []
    bits = 32 if family == 4 else 128
    ip("addr", "del", f"{VIP[family]}/{bits}", "dev", "d0")
    try:
        with wire() as link, closing(ask(family, service.port, mark)):
            assert next_hop_of(link, service.port) != server_mac(5)
        ip(*six, "route", "add", "local", "default", "dev", "lo", "table", "4711")
        ip(*six, "rule", "add", "fwmark", f"{FIRST_PROBE_MARK}/{PROBE_MARK_MASK}", "lookup", "4711")
        with wire() as link, closing(ask(family, service.port, mark)):
            assert next_hop_of(link, service.port) == server_mac(5)
    finally:
        for undo in (["rule", "del", "lookup", "4711"], ["route", "flush", "table", "4711"]):
            subprocess.run(["ip", *six, *undo], capture_output=True)
        more = ["nodad", "preferred_lft", "0"] if family == 6 else []
        ip("addr", "add", f"{VIP[family]}/{bits}", "dev", "d0", *more)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_mark_without_its_service_reaches_no_server(director_host: Host, kind: int) -> None:
    """Nor does the server get it that the virtual service would choose."""
    service = director_host.new_key(Protocol.TCP if kind == socket.SOCK_STREAM else Protocol.UDP)
    director_host.serve(service, 2)
    before = director_host.reason("PROBE_REFUSED")
    with wire() as link, closing(ask(4, service.port, FIRST_PROBE_MARK + 99, kind)):
        assert next_hop_of(link, service.port) == ""
    assert director_host.reason("PROBE_REFUSED") > before


def test_on_a_packet_from_outside_the_mark_means_nothing(director_host: Host) -> None:
    service = director_host.new_key()
    director_host.serve(service, 1)
    key, mark = probe_service(director_host, 1, 5)
    director_host.forwarded(frames.tcp(dport=service.port), "tc")
    done = director_host.run(frames.tcp(sport=4001, dport=service.port), "tc", mark)
    assert done.data[:6].hex(":") == server_mac(1)
    assert director_host.counts(key) == {server4(5): (0, 0)}


def test_other_packets_are_not_slowed_down(director_host: Host) -> None:
    """Packets look up no addresses of other services.

    XDP schedules new connections, as without services of marks.
    """
    service = director_host.new_key()
    director_host.serve(service, 2)
    probe_service(director_host, 1, 1)
    assert director_host.director.reader.versions.facts().get("marks") == (0,)
    for hook in HOOKS:
        assert director_host.forwarded(frames.tcp(sport=4001, dport=service.port), hook)
        elsewhere = frames.tcp(dport=service.port, target="10.77.0.99")
        assert director_host.run(elsewhere, hook).verdict == PASSED[hook]


def test_python_and_the_packet_path_agree_on_the_marks() -> None:
    assert abi.constant("PROBE_MARKS") == FIRST_PROBE_MARK
    shift = abi.constant("PROBE_MARKS_SHIFT")
    assert (0xFFFFFFFF >> shift << shift, 1 << shift) == (PROBE_MARK_MASK, PROBE_MARKS)
    assert is_probe_mark(FIRST_PROBE_MARK + PROBE_MARKS - 1)
    assert not is_probe_mark(FIRST_PROBE_MARK + PROBE_MARKS)
    assert not is_probe_mark(0)

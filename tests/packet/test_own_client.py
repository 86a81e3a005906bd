"""A client on the director reaches a NAT service: real sockets, and a real server behind its own veth."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from unittest import mock

import pytest
from scapy.layers.inet import IP, UDP

from pylvs.dataplane.destinations import DestinationSlots
from pylvs.dataplane.devices import attachments, lo
from pylvs.dataplane.devices.modes import Mode
from pylvs.model.rows import warnings
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, VirtualService
from pylvs.system.namespaces import inside_network
from tests.packet.host import OWN4, OWN6, VIP4, VIP6, Host, ip, server4
from tests.packet.test_bare import CLIENT as BEHIND_TUN
from tests.packet.test_bare import arriving, tun
from tests.waiting import PATIENCE_S, until_up

NEAR, SERVER = {4: "10.78.0.1", 6: "fd78::1"}, {4: "10.78.0.2", 6: "fd78::2"}
VIP, OWN = {4: VIP4, 6: VIP6}, {4: OWN4, 6: OWN6}
ON_LO = "10.79.0.100"  # a virtual address that lo holds
KIND = {4: socket.AF_INET, 6: socket.AF_INET6}
REAL_PORT = 8080
BULK = bytes(range(256)) * 8192  # 2 MB, so that segments are merged
CONF = "/proc/sys/net/ipv4/conf"
ACCEPT_LOCAL = f"{CONF}/lo/accept_local"


def write(path: str, value: str) -> None:
    Path(path).write_text(value, encoding="ascii")


def accepts_local() -> str:
    return Path(ACCEPT_LOCAL).read_text(encoding="ascii").strip()


@contextmanager
def served(kind: socket.SocketKind, family: int) -> Iterator[None]:
    """Serve as a real server: TCP echoes, UDP returns the requested number of bytes."""
    with socket.socket(KIND[family], kind) as server:
        server.bind((SERVER[family], REAL_PORT))
        if kind == socket.SOCK_STREAM:
            server.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while kind == socket.SOCK_DGRAM:
                    data, client = server.recvfrom(100)
                    if not data:  # shut down
                        return
                    server.sendto(BULK[: int(data)], client)
                while True:
                    peer, _ = server.accept()
                    with peer:
                        while data := peer.recv(1 << 16):
                            peer.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
    thread.join(PATIENCE_S)


@pytest.fixture(scope="module")
def behind(shared: Host) -> Iterator[str]:
    """Make the network namespace of a real server, which routes through the director and serves TCP and UDP."""
    name = f"{shared.name}-s"
    ip("netns", "add", name)
    try:
        ip("link", "add", "s0", "type", "veth", "peer", "name", "s1", "netns", name)
        ip("link", "set", "s0", "up")
        ip("addr", "add", f"{NEAR[4]}/24", "dev", "s0")
        ip("addr", "add", f"{NEAR[6]}/64", "dev", "s0", "nodad")
        ip("addr", "add", f"{ON_LO}/32", "dev", "lo")
        with inside_network(f"/run/netns/{name}"), contextlib.ExitStack() as servers:
            for device in "lo", "s1":
                ip("link", "set", device, "up")
            until_up("s0", namespace=shared.name)
            for family in 4, 6:
                prefix = "24" if family == 4 else "64"
                more = ("nodad",) if family == 6 else ()
                ip("addr", "add", f"{SERVER[family]}/{prefix}", "dev", "s1", *more)
                ip(f"-{family}", "route", "add", "default", "via", NEAR[family])
                for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
                    servers.enter_context(served(kind, family))
            with inside_network(f"/run/netns/{shared.name}"):
                yield name
    finally:
        ip("netns", "del", name)


@pytest.fixture
def host(director_host: Host, behind: str) -> Iterator[Host]:
    yield director_host
    for device in "all", "default", "lo", "d0", "s0":
        write(f"{CONF}/{device}/rp_filter", "0")


def nat(host: Host, protocol: Protocol, vip: str, port: int = REAL_PORT) -> ServiceKey:
    """Add a service whose one real server is behind s0."""
    service = host.new_key(protocol, vip)
    host.director.add_service(VirtualService(service, "rr"))
    server = ip_address(SERVER[service.address.version])
    host.director.add_destination(service, Destination(DestinationKey(server, port), Method.MASQ))
    return service


def counted(host: Host, service: ServiceKey) -> tuple[int, int]:
    """Return packets of the real server: requests and replies."""
    key = host.director.service(service).destinations[0].destination.key
    slot = DestinationSlots(host.director.tables).listed(service, key)
    assert slot is not None
    _, came_in, went_out, *_ = host.director.reader.statistics.counted(slot)
    return came_in, went_out


def exchange_tcp(service: ServiceKey, source: str) -> None:
    with socket.socket(KIND[service.address.version]) as client:
        client.settimeout(PATIENCE_S)
        client.bind((source, 0))
        client.connect((str(service.address), service.port))
        writer = threading.Thread(target=client.sendall, args=(BULK,))
        writer.start()
        got = bytearray()
        while len(got) < len(BULK):
            data = client.recv(1 << 16)
            assert data, "closed early"
            got += data
        writer.join()
        assert got == BULK


def exchange_udp(service: ServiceKey, source: str, length: int) -> None:
    with socket.socket(KIND[service.address.version], socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.bind((source, 0))
        client.sendto(b"%d" % length, (str(service.address), service.port))
        data, peer = client.recvfrom(65535)
        assert (data, peer[:2]) == (BULK[:length], (str(service.address), service.port))


@pytest.mark.parametrize("rp_filter", ["0", "1", "2"])
@pytest.mark.parametrize(
    ("vip", "source"),
    [
        *((VIP4, source) for source in (OWN4, VIP4, NEAR[4])),
        *((ON_LO, source) for source in (OWN4, ON_LO)),
        (VIP6, OWN6),
        (VIP6, VIP6),
    ],
)
def test_a_client_on_the_director_reaches_a_nat_service(host: Host, vip: str, source: str, rp_filter: str) -> None:
    for device in "all", "default", "lo", "d0", "s0":
        write(f"{CONF}/{device}/rp_filter", rp_filter)
    tcp, udp = nat(host, Protocol.TCP, vip), nat(host, Protocol.UDP, vip)
    exchange_tcp(tcp, source)
    for length in 5, 4000:  # the second in fragments
        exchange_udp(udp, source, length)
    assert counted(host, udp) == (2, 2), "an answer that comes in twice is counted once"
    row = host.director.service(tcp).destinations[0]
    assert (row.active, row.inactive) in ((0, 1), (1, 0))


@pytest.mark.parametrize("mode", ["tc", "generic"])
@pytest.mark.parametrize("checksums", ["off", "on"])
def test_every_hook_and_checksum_offload_works(host: Host, behind: str, mode: Mode, checksums: str) -> None:
    with inside_network(f"/run/netns/{behind}"):
        subprocess.run(["ethtool", "-K", "s1", "tx", checksums], check=True, capture_output=True)
    with host.director.batch():
        attachments.request(host.director.tables, "s0", mode)
    exchange_tcp(nat(host, Protocol.TCP, VIP4), OWN4)
    exchange_udp(nat(host, Protocol.UDP, VIP4), OWN4, 4000)


@pytest.mark.parametrize("family", [4, 6])
def test_the_first_packet_waits_for_the_real_servers_link_address(host: Host, family: int) -> None:
    service = nat(host, Protocol.UDP, VIP[family])
    ip("neigh", "flush", "dev", "s0")
    exchange_udp(service, OWN[family], 5)


def test_a_real_server_behind_a_device_without_link_addresses(host: Host) -> None:
    with tun("t0") as far, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        service = host.new_key(Protocol.UDP)
        host.director.add_service(VirtualService(service, "rr"))
        host.director.add_destination(
            service, Destination(DestinationKey(ip_address(BEHIND_TUN), REAL_PORT), Method.MASQ)
        )
        client.settimeout(PATIENCE_S)
        client.bind((OWN4, 0))
        client.sendto(b"question", (VIP4, service.port))
        request = IP(arriving(far, UDP))
        assert (request.src, request.dst, request[UDP].dport) == (OWN4, BEHIND_TUN, REAL_PORT)
        answer = IP(src=BEHIND_TUN, dst=OWN4) / UDP(sport=REAL_PORT, dport=request[UDP].sport) / b"answer"
        os.write(far, bytes(answer))
        assert client.recvfrom(100) == (b"answer", (VIP4, service.port))


@pytest.mark.parametrize("source", [OWN4, VIP4])
def test_a_client_on_the_director_gets_an_error_if_the_servers_port_is_closed(host: Host, source: str) -> None:
    service = nat(host, Protocol.UDP, VIP4, REAL_PORT + 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.bind((source, 0))
        client.connect((VIP4, service.port))
        client.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(10)


def test_a_reply_is_no_request_to_a_service_of_all_ports(host: Host) -> None:
    """The client's source is the virtual address, whose other ports have a service, too."""
    service = nat(host, Protocol.UDP, VIP4)
    every = ServiceKey(Protocol.UDP, ip_address(VIP4), 0)
    host.director.add_service(VirtualService(every, "rr", timeout_s=60))
    host.director.add_destination(every, Destination(DestinationKey(ip_address(server4(1)), 0), Method.ROUTE))
    exchange_udp(service, VIP4, 5)
    assert counted(host, every) == (0, 0)


def test_only_lo_accepts_source_addresses_of_this_host_and_only_for_nat_of_ipv4(host: Host) -> None:
    assert accepts_local() == "0"
    host.serve(host.new_key(), 1, Method.ROUTE)
    six = nat(host, Protocol.TCP, VIP6)
    assert accepts_local() == "0"
    four = nat(host, Protocol.TCP, VIP4)
    assert accepts_local() == "1"
    for device in "all", "default", "d0", "s0":
        assert Path(f"{CONF}/{device}/accept_local").read_text(encoding="ascii").strip() == "0"
    host.director.edit_service(VirtualService(six, "wlc"))
    assert accepts_local() == "1"
    host.director.delete_service(four)
    assert accepts_local() == "0"


def test_the_setting_is_restored_when_lo_is_detached(host: Host) -> None:
    nat(host, Protocol.TCP, VIP4)
    with host.director.batch():
        attachments.release(host.director.tables, "lo")
        assert accepts_local() == "0"
    assert accepts_local() == "0"
    with host.director.batch():
        attachments.request(host.director.tables, "lo", "auto")
    host.director.follow_host()
    assert accepts_local() == "1"


def test_a_setting_of_the_operator_stays(host: Host) -> None:
    write(ACCEPT_LOCAL, "1")
    try:
        service = nat(host, Protocol.TCP, VIP4)
        host.director.delete_service(service)
        assert accepts_local() == "1"
    finally:
        write(ACCEPT_LOCAL, "0")


def test_a_setting_that_cannot_be_written_is_reported_in_one_line(host: Host) -> None:
    with mock.patch.object(lo, "_set_sysctl", side_effect=OSError(30, os.strerror(30))):
        nat(host, Protocol.TCP, VIP4)
        (line,) = warnings(host.director)
    assert line.startswith("lo: net.ipv4.conf.lo.accept_local cannot be set to 1: Read-only file system; ")
    host.director.follow_host()
    assert warnings(host.director) == []
    assert accepts_local() == "1"

"""Two virtual machines on taps of the director, as qemu joins them: a client and a real server, through `auto`.

Each is a network namespace whose own device is a tap, too. A thread passes frames between both taps with their virtio
headers, as qemu does. So the kernel's TCP sends unfinished checksums and packets of 64 KiB at both ends.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address

from pylvs.dataplane.devices import attach
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, VirtualService
from pylvs.system.namespaces import inside_network
from tests.iproute import ip_batch
from tests.packet.host import Host, ip, key, new_host
from tests.packet.unfinished import GUESTS, IFF_TAP, IFF_VNET_HDR, open_tun
from tests.waiting import PATIENCE_S, until_up

REQUESTS, ANSWER = 1000, bytes(range(256)) * 100
VIP, SERVER, CLIENT = "10.91.0.1", "10.92.0.2", "10.91.0.2"
SERVICES = {80: Method.ROUTE, 81: Method.MASQ}
MACS = {name: f"02:00:00:00:03:{number:02x}" for number, name in enumerate(("t0", "g0", "t1", "g1", "a0", "a1"))}


def tap(name: str) -> int:
    return open_tun(name, IFF_TAP | IFF_VNET_HDR, GUESTS)


@contextmanager
def joined(*pairs: tuple[int, int]) -> Iterator[None]:
    """Pass frames between the taps of each pair until the block ends."""
    other = dict(pairs) | {b: a for a, b in pairs}
    wake, end = os.pipe()

    def run() -> None:
        while True:
            ready = select.select([*other, wake], [], [])[0]
            if wake in ready:
                return
            for descriptor in ready:
                os.write(other[descriptor], os.read(descriptor, 1 << 17))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        os.close(end)
        thread.join()
        os.close(wake)


def populate(host: Host, closing: ExitStack) -> dict[str, str]:
    """Make the guests and their links; return the files of their namespaces."""
    guests = {name: f"{host.name}-{name}" for name in ("client", "server")}
    for namespace in guests.values():
        ip("netns", "add", namespace)
        closing.callback(ip, "netns", "del", namespace)
    files = {name: f"/run/netns/{each}" for name, each in guests.items()}
    taps = {"t0": tap("t0"), "t1": tap("t1")}
    for name, guest in ("g0", "client"), ("g1", "server"):
        with inside_network(files[guest]):
            taps[name] = tap(name)
    for descriptor in taps.values():
        closing.callback(os.close, descriptor)
    # Replies of direct routing go straight to the client.
    ip("link", "add", "a0", "netns", guests["client"], "type", "veth", "peer", "name", "a1", "netns", guests["server"])
    ip_batch([*end("t0", f"{VIP}/24", {CLIENT: "g0"}), *end("t1", "10.92.0.1/24", {SERVER: "g1"})])
    with inside_network(files["client"]):
        ip_batch([*end("g0", f"{CLIENT}/24", {VIP: "t0"}), *end("a0", "10.93.0.1/24", {}), "link set lo up"])
    with inside_network(files["server"]):
        server = [*end("g1", f"{SERVER}/24", {"10.92.0.1": "t1"}), *end("a1", "10.93.0.2/24", {"10.93.0.1": "a0"})]
        server += ["link set lo up", f"addr add {VIP}/32 dev lo", "route add default via 10.92.0.1"]
        server += ["rule add from " + VIP + " table 100", "route add default via 10.93.0.1 dev a1 table 100"]
        ip_batch(server)
    until_up("a0", namespace=guests["client"])
    closing.enter_context(joined((taps["t0"], taps["g0"]), (taps["t1"], taps["g1"])))
    return files


def end(device: str, address: str, neighbours: dict[str, str]) -> Iterator[str]:
    yield f"link set {device} address {MACS[device]} up"
    yield f"addr add {address} dev {device}"
    for other, name in neighbours.items():
        yield f"neigh add {other} lladdr {MACS[name]} nud permanent dev {device}"


@contextmanager
def serving(file: str, ports: list[int]) -> Iterator[None]:
    """Answer each connection to these ports of a namespace."""
    with ExitStack() as closing:
        with inside_network(file):
            listeners = [closing.enter_context(socket.create_server(("0.0.0.0", port), backlog=64)) for port in ports]
        wake, close = os.pipe()

        def run() -> None:
            while True:
                ready = set(select.select([*(each.fileno() for each in listeners), wake], [], [])[0])
                if wake in ready:
                    return
                for listener in (each for each in listeners if each.fileno() in ready):
                    with listener.accept()[0] as connection:
                        connection.settimeout(PATIENCE_S)
                        connection.recv(100)
                        connection.sendall(ANSWER)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            os.close(close)
            thread.join()
            os.close(wake)


def answer(file: str, port: int) -> bytes:
    """Return what a client in a namespace receives."""
    with inside_network(file):
        connection = socket.socket()
    with connection:
        connection.settimeout(PATIENCE_S)
        connection.connect((VIP, port))
        connection.sendall(b"?")
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_guests_get_every_answer_by_direct_routing_and_nat() -> None:
    with new_host(mode=None, recycled=True) as host, ExitStack() as closing:
        files = populate(host, closing)
        with serving(files["server"], list(SERVICES)):
            for port, method in SERVICES.items():
                service = key(port, Protocol.TCP, VIP)
                host.director.add_service(VirtualService(service, "rr"))
                host.director.add_destination(service, Destination(DestinationKey(ip_address(SERVER), port), method))
            modes = {each.device: each.mode for each in attach.attached(host.director.state)}
            assert {name: modes[name] for name in ("t0", "t1")} == {"t0": "tc", "t1": "tc"}
            for port in SERVICES:
                wrong = sum(answer(files["client"], port) != ANSWER for _ in range(REQUESTS // 2))
                assert wrong == 0, host.reasons()

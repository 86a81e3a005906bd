"""Two directors, each a real server of the same virtual address and in the other's table, on a real link."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.dataplane.vip_roles import Standby
from pylvs.model.addresses import Address
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, VirtualService
from pylvs.system.namespaces import inside_network
from tests.packet.host import ip
from tests.waiting import PATIENCE_S, until_up

VIP: Address = ip_address("10.55.0.100")
SERVICE = ServiceKey(Protocol.TCP, VIP, 80)
NONE = frozenset[Address]()


class Node:
    """A namespace with one device on the common link."""

    def __init__(self, bridge: str, number: int) -> None:
        self.name = f"pylvs-td{os.getpid()}-{number}"
        self.address = ip_address(f"10.55.0.{number}")
        self.mac = f"02:55:00:00:00:{number:02x}"
        ip("netns", "add", self.name)
        ip("-n", bridge, "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", self.name)
        ip("-n", bridge, "link", "set", f"p{number}", "master", "br0", "up")
        ip("-n", self.name, "link", "set", "eth0", "address", self.mac, "up")
        until_up(f"p{number}", namespace=bridge)
        ip("-n", self.name, "link", "set", "lo", "up")
        ip("-n", self.name, "addr", "add", f"{self.address}/24", "dev", "eth0")

    def received(self) -> int:
        """Return frames that came in by its device so far."""
        with inside_network(f"/run/netns/{self.name}"):
            lines = Path("/proc/thread-self/net/dev").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if "eth0:" in line).split(":")[1].split()[1])


class Director(Node):
    """One of the two: a real server that returns its own number, and a table with only the other."""

    def __init__(self, bridge: str, number: int, other: str, closing: ExitStack) -> None:
        super().__init__(bridge, number)
        with inside_network(f"/run/netns/{self.name}"):
            for setting, value in (("arp_ignore", 1), ("arp_announce", 2)):
                Path(f"/proc/sys/net/ipv4/conf/all/{setting}").write_text(str(value), encoding="ascii")
            ip("addr", "add", f"{VIP}/32", "dev", "lo")
            self.listener = closing.enter_context(socket.create_server((str(VIP), 80), backlog=8))
            self.listener.settimeout(PATIENCE_S)
            self.director = BpfDirector(State.open())
            closing.callback(self.take_down)
            self.roles = Standby()
            closing.callback(self.roles.close)
            self.roles.set_standby(frozenset({VIP}))
            self.director.add_service(VirtualService(SERVICE, "rr"))
            self.director.add_destination(SERVICE, Destination(DestinationKey(ip_address(other), 80), Method.ROUTE))

    def take_down(self) -> None:
        with inside_network(f"/run/netns/{self.name}"):
            load.take_down(self.director.state)

    def become(self, master: bool) -> None:
        """Set roles and address in the order of a take-over."""
        with inside_network(f"/run/netns/{self.name}"):
            if master:
                self.roles.set_standby(NONE, frozenset({VIP}))
                ip("addr", "add", f"{VIP}/24", "dev", "eth0")
            else:
                ip("addr", "del", f"{VIP}/24", "dev", "eth0")
                self.roles.set_standby(frozenset({VIP}))

    def connections(self) -> int:
        with inside_network(f"/run/netns/{self.name}"):
            return len(list(self.director.connections()))


def remove(name: str) -> None:
    if os.path.exists(f"/run/netns/{name}"):
        ip("netns", "del", name)


@pytest.fixture
def nodes() -> Iterator[tuple[Director, Director, Node]]:
    bridge = f"pylvs-td{os.getpid()}-br"
    made = [bridge, *(f"pylvs-td{os.getpid()}-{number}" for number in (1, 2, 3))]
    with ExitStack() as closing:
        for name in made:
            closing.callback(remove, name)
        ip("netns", "add", bridge)
        ip("-n", bridge, "link", "add", "br0", "type", "bridge")
        ip("-n", bridge, "link", "set", "br0", "up")
        client = Node(bridge, 3)
        one = Director(bridge, 1, "10.55.0.2", closing)
        other = Director(bridge, 2, "10.55.0.1", closing)
        yield one, other, client


def check_connection(client: Node, master: Director, server: Director) -> None:
    """Assert that the other director's socket serves a connection through the master."""
    ip("-n", client.name, "neigh", "replace", str(VIP), "lladdr", master.mac, "dev", "eth0")
    with inside_network(f"/run/netns/{client.name}"):
        asking = socket.create_connection((str(VIP), 80), timeout=PATIENCE_S)
    with asking:
        peer, name = server.listener.accept()
        with peer:
            assert name[0] == str(client.address)
            peer.sendall(b"served")
        assert asking.makefile().read() == "served"


def test_directors_in_each_others_tables_do_not_loop(nodes: tuple[Director, Director, Node]) -> None:
    one, other, client = nodes
    for master, standby in ((one, other), (other, one)):
        before = master.connections(), standby.connections(), standby.received()
        master.become(master=True)
        for _ in range(3):
            check_connection(client, master, standby)
        assert master.connections() == before[0] + 3
        assert standby.connections() == before[1]
        assert standby.received() - before[2] < 100
        master.become(master=False)

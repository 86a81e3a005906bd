"""Compare every scheduler with its reference in a guest: a part of `kernel_in_guest`.

A kernel's verifier may remove code that it considers unreachable, which would change choices. Frames are made without
scapy, because its import on an emulated processor takes longer than all connections here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))

import frames

from pylvs.dataplane.destinations import DestinationSlots
from pylvs.model.service import Destination, DestinationKey, Method, ServiceFlag, ServiceKey, VirtualService
from pylvs.reference import schedulers as reference
from pylvs.reference.server import Server
from tests.packet.host import MAC, PREDICTABLE, ROUTER_MAC, VIP4, Host, server4, server_mac

WEIGHTS = (2, 1, 3, 0, 3)  # the first added is the last listed: neither end has the greatest
CONNECTIONS = 16
BY_MAC = {frames.mac_bytes(server_mac(number)): number for number in range(1, len(WEIGHTS) + 1)}


class Wrong(Exception):
    """A choice differs from the reference's; the text names it."""


class Service:
    """A service in the tables, and its scheduler in the reference; each edit is made in both."""

    def __init__(self, host: Host, scheduler: str) -> None:
        self.host = host
        self.key: ServiceKey = host.new_key()
        self.servers: list[Server] = []
        self.model = reference.SCHEDULERS[scheduler](self.servers, ServiceFlag(0))
        self.model.address_bytes = 4
        self.model.advance(0)
        host.director.add_service(VirtualService(self.key, scheduler))
        for number, weight in enumerate(WEIGHTS, 1):
            self._add(number, weight)

    def _add(self, number: int, weight: int) -> None:
        key = DestinationKey(ip_address(server4(number)), self.key.port)
        given = Destination(key, Method.ROUTE, weight)
        self.host.director.add_destination(self.key, given)
        server = Server(given)
        server.available, server.weight, server.last_weight = True, weight, weight
        self.servers.insert(0, server)
        self.model.changed()

    def segment(self, client: int, flags: str) -> bytes:
        """Return a segment of the client's connection."""
        source, port = str(ip_address(0xC6120000 + client)), 1024 + client
        packet = frames.tcp(source, VIP4, port, self.key.port, flags, seq=1000)
        return bytes(frames.ethernet(MAC, ROUTER_MAC, frames.ip(source, VIP4, frames.TCP, packet)))

    def connect(self, client: int) -> tuple[int | None, int | None]:
        """Return the server that gets a new connection, and the choice of the reference."""
        for server in self.servers:
            slot = DestinationSlots(self.host.director.tables).find(self.key, server.key)
            assert slot is not None
            row = self.host.director.tables.conn_counts.read(slot)
            server.active, server.inactive = row["active"], row["inactive"]
        source = ip_address(0xC6120000 + client).packed
        wanted = self.model.choose(reference.Flow(source, 1024 + client, ip_address(VIP4).packed), 0)
        number = None if wanted is None else wanted.key.address.packed[-1] - ip_address(server4(0)).packed[-1]
        return self._receiver(self.segment(client, "S")), number

    def _receiver(self, frame: bytes) -> int | None:
        _, done = self.host.receive(frame)
        if done.data[:6] in BY_MAC:
            return BY_MAC[done.data[:6]]
        if len(done.data) > len(frame):
            return None  # port unreachable
        return BY_MAC[self.host.forwarded(frame)[:6]]

    def finish(self, client: int) -> None:
        """End the connection from the client, so that it becomes inactive."""
        self.host.run(self.segment(client, "FA"), "tc")


def play(host: Host) -> Iterator[str]:
    """Return a line for each scheduler. Raises Wrong."""
    for scheduler in PREDICTABLE:
        service = Service(host, scheduler)
        made = []
        for client in range(CONNECTIONS):
            made.append(service.connect(client))
            if client % 3 == 2:
                service.finish(client // 2)
        if any(got != wanted for got, wanted in made):
            raise Wrong(f"{scheduler}: not as the reference: {made}")
        yield f"{scheduler}: as the reference"

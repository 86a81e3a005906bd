"""`python -m bench.directors`: copy the connections of one director to another one, and compare both tables.

Two network namespaces are joined by a cable. Each has a director with the same services, and the process that
`pylvs run` starts for `peer_director`. The connections of the first are made by records; no packet is sent.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from itertools import count, islice
from pathlib import Path
from typing import Any

from bench import site
from bench.processes import ip_batch, run
from bench.program import need_root, progress, status_of
from pylvs.bpf import abi
from pylvs.dataplane.director import BpfDirector, open_director
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError
from pylvs.model.plain import to_plain
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey, VirtualService
from pylvs.model.wanted import PeerSettings
from pylvs.peer import MAKE
from pylvs.peer.records import ConnectionTransfer, Part, limits
from pylvs.peer.summary import Summary
from pylvs.system.namespaces import inside_network
from pylvs.system.processes import channel

ADDRESSES = ("10.67.0.1", "10.67.0.2")
VIP, PORT, SERVERS = "10.66.0.100", 80, 8
_PATIENCE_S = 600.0
_LIFE_S = 800


class NotCopied(PylvsError):
    """The other director does not have all connections."""


@dataclass(frozen=True, slots=True)
class Result:
    """One copy: connections, those that the other director holds, seconds, and bytes a second by the records."""

    connections: int
    held: int
    seconds: float
    processor_s: float  # of all processes of both directors

    def __str__(self) -> str:
        rate = self.connections / self.seconds if self.seconds else 0
        return (
            f"{self.connections:,} connections copied in {self.seconds:.2f} s ({rate:,.0f} a second),"
            f" {self.held:,} held, {self.processor_s:.2f} s of processor time at both directors"
        )


def serve(director: BpfDirector, connections: int) -> None:
    """Serve one service of several servers, in a table for so many connections."""
    service = ServiceKey(Protocol.TCP, ip_address(VIP), PORT)
    with director.batch():
        director.add_service(VirtualService(service, "rr"))
        for number in range(1, SERVERS + 1):
            director.add_destination(service, Destination(DestinationKey(ip_address(site.server(number)), PORT)))
    director.change_setting("conn_max", connections)


def records(number: int, destinations: list[int], expiry: int) -> Iterator[bytes]:
    """Yield records of so many established connections, by batches."""
    record, tuple4 = abi.struct("conn_record"), abi.struct("tuple4")
    protocol, port = 6, socket.htons(PORT)
    virtual = int.from_bytes(socket.inet_aton(VIP), "little")
    established, method = abi.constant("STATE_ESTABLISHED"), abi.constant("METHOD_ROUTE")
    numbers = count()
    left = number
    while left > 0:
        batch = list(islice(numbers, min(left, limits().batch)))
        left -= len(batch)
        yield b"".join(
            record.pack(
                tuple=tuple4.pack(
                    saddr=socket.htonl(0x0A800000 + each // 60000),
                    daddr=virtual,
                    sport=socket.htons(1024 + each % 60000),
                    dport=port,
                    protocol=protocol,
                ).ljust(40, b"\0"),
                destination=destinations[each % len(destinations)],
                expiry=expiry,
                port=port,
                method=method,
                state=established,
                family=4,
            )
            for each in batch
        )


def fill(director: BpfDirector, number: int) -> int:
    """Make connections; return how many there are."""
    held = 0
    with ConnectionTransfer(director.state) as transfer, transfer.lock():
        clock = transfer.clock()
        slots = [slot for slot, _ in transfer.names()]
        expiry = clock.ticks + round(_LIFE_S * clock.per_second) & 0xFFFFFFFF
        for batch in records(number, slots, expiry):
            held += transfer.take(Part.CONNECTIONS, batch, dict(zip(slots, slots, strict=True)), {}, clock, clock).held
    return held


class Peer:
    """The process of one director that copies."""

    def __init__(self, namespace: str, settings: PeerSettings) -> None:
        self.end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, inside_network(namespace):
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "pylvs.peer.copier", str(theirs.fileno())),
                    *(json.dumps(to_plain(settings)), Path(namespace).name),
                ],
                pass_fds=[theirs.fileno()],
            )
        self.status: dict[str, Any] = {}
        self.summary: Any = None

    def send(self, **message: Any) -> None:
        """Send a message."""
        self.end.send(channel.encode(message))

    def receive(self) -> None:
        """Take the next message. Raises NotCopied at the end of the process."""
        if not select.select([self.end], [], [], _PATIENCE_S)[0]:
            raise NotCopied("the process of the copy is silent")
        try:
            message, _ = channel.receive(self.end)
        except (EOFError, OSError):
            raise NotCopied("the process of the copy has ended") from None
        self.status = message.get("status", self.status)
        self.summary = message.get("summary", self.summary)
        if "hello" in message:
            self.send(summary=to_plain(Summary()))

    def close(self) -> None:
        """Kill the process."""
        self.end.close()
        self.process.kill()
        self.process.wait()


@contextmanager
def directors(connections: int, rate: int) -> Iterator[tuple[list[str], list[BpfDirector], list[PeerSettings]]]:
    """Make two namespaces, each with a director; yield their files, the directors, and the settings of both."""
    names = [f"{site.PREFIX}{os.getpid()}-director{number}" for number in (1, 2)]
    paths = [f"/run/netns/{name}" for name in names]
    with ExitStack() as opened:
        folder = opened.enter_context(tempfile.TemporaryDirectory())
        key = str(Path(folder, "key"))
        run(*MAKE.format(path=key).split())
        Path(key).chmod(0o600)
        found = []
        for name, path in zip(names, paths, strict=True):
            run("ip", "netns", "add", name)
            opened.callback(site.remove_namespace, name)
            with inside_network(path):
                ip_batch("link set lo up", f"addr add {VIP}/32 dev lo")
        run("ip", "link", "add", "c0", "netns", names[0], "type", "veth", "peer", "name", "c0", "netns", names[1])
        for path, own in zip(paths, ADDRESSES, strict=True):
            with inside_network(path):
                ip_batch("link set c0 up", f"addr add {own}/24 dev c0")
                director = open_director()
                serve(director, connections)
                found.append(director)
        settings = [PeerSettings(ip_address(each), key_file=key, rate=rate) for each in ADDRESSES[::-1]]
        yield paths, found, settings


def measure(connections: int, rate: int) -> Result:
    """Copy so many connections, and measure from the request to the last one. Raises NotCopied."""
    with directors(connections * 5 // 4, rate) as (paths, found, given), ExitStack() as opened:
        with inside_network(paths[0]):
            progress(f"making {connections:,} connections", "bench.directors")
            made = fill(found[0], connections)
        peers = []
        for path, settings in zip(paths, given, strict=True):
            peers.append(Peer(path, settings))
            opened.callback(peers[-1].close)
        taker = peers[1]
        while not (taker.status.get("taken") or {}).get("complete"):
            for peer in peers:
                peer.receive()
        taken = taker.status["taken"]
        processor = sum(_processor_s(each.process.pid) for each in peers)
        with inside_network(paths[1]), ConnectionTransfer(found[1].state) as transfer:
            there = transfer.live()
        if there < made:
            raise NotCopied(f"{there:,} connections of {made:,} are there: {taken}")
        return Result(taken["records"], taken["held"], taken["seconds"], processor)


def _processor_s(pid: int) -> float:
    """Return the processor time of a process and of the carrier that it forked."""
    total = 0.0
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        pids = [pid, *map(int, file.read().split())]
    for process in pids:
        with open(f"/proc/{process}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def main() -> int:
    """Measure, and print a line for each copy."""
    parser = argparse.ArgumentParser(prog="bench.directors", description="Measure a copy between two directors.")
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=PeerSettings().rate, help="connections a second, at most")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    need_root("run it as root")
    result = measure(given.connections, given.rate)
    if given.json:
        shown = {name: getattr(result, name) for name in ("connections", "held", "seconds", "processor_s")}
        print(json.dumps(shown))
    else:
        print(result)
    return 0


if __name__ == "__main__":
    sys.exit(status_of("bench.directors", main))

"""A table of very many connections, which packets through the program make, and its measurements."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from bench import site
from bench.cases import Served
from bench.commands import CommandFailed, Size, program
from bench.frames import ACK, FIN, IN_ORDER, PORT_BITS, SCATTERED, SYN, Flows, Frame
from bench.harness import FLOWS, FLOWS6, WrongPath
from bench.path import PacketPath, new_path
from bench.processes import memory_kib
from bench.program import Progress
from bench.rows import Measured
from pylvs.dataplane.load import CONNECTION_MAPS, half_opens
from pylvs.model.dataclass import dataclass
from pylvs.model.service import Method, Protocol, ServiceKey, Timeouts, VirtualService

PORT, CLIENT_PORT = 80, 40000
CLIENTS, CLIENTS6 = "10.128.0.0", "fd77::a80:0"
_WALK = 1 << 24  # flows, of which the first are made
_CHUNK = 1 << 16  # connections between two looks: none is half open for long
_TRIALS = 50  # of a chunk
_PROGRESS_STEP = 1 << 20
_TITLES = 2  # lines of a listing
_MB = 1 << 20


@dataclass(frozen=True, slots=True)
class Kind:
    """What the connections are."""

    name: str
    method: Method = Method.ROUTE
    version: int = 4


DR, NAT, IPV6 = Kind("DR"), Kind("NAT", Method.MASQ), Kind("IPv6", version=6)


class LargeTable:
    """A Director with one service, a capacity of so many connections, and the harness."""

    def __init__(self, kind: Kind, connections: int, path: PacketPath) -> None:
        self.kind = kind
        self.connections = connections
        self.path = path
        self.key = ServiceKey(Protocol.TCP, ip_address(site.VIP6 if kind.version == 6 else site.VIP), PORT)
        self._wrapper = FLOWS6 if kind.version == 6 else FLOWS

    def serve(self) -> None:
        """Add the service with equal servers."""
        Served(VirtualService(self.key, "rr"), self.kind.method, site.SERVERS).add_to(self.path.director)

    # --- packets ---

    def _frame(self, flags: int, beyond: int = 0) -> Frame:
        """Return a frame of the first client, or of one so many addresses higher."""
        if self.kind.version == 6:
            return Frame(CLIENTS6, site.VIP6, CLIENT_PORT, PORT, flags)
        return Frame(str(ip_address(CLIENTS) + beyond), site.VIP, CLIENT_PORT, PORT, flags)

    def send(self, flags: int, first: int, count: int) -> float:
        """Send a packet of each of these flows. Return the ns of one, the harness included. Raises WrongPath.

        Once a second XDP asks for the next hop of each server and passes one packet to the kernel. Then all packets
        are sent again, until none was passed.
        """
        frame, flows, took = self._frame(flags), Flows(_WALK, first, IN_ORDER), 0.0
        for _ in range(_TRIALS):
            before = self._packets()
            spent = self._run(frame, flows, count)
            took = took or spent
            if self._packets() - before >= count:
                return took
        raise WrongPath(f"{self.kind.name}: packets go astray: {self.path.reasons()}")

    def _packets(self) -> int:
        return self.path.counters(self.key).in_packets

    def _run(self, frame: Frame, flows: Flows, count: int) -> float:
        harness, wrapper = self.path.harness, self._wrapper
        harness.plan(frame, flows)
        return harness.run(wrapper, self.path.entry(wrapper), count)[0]

    def make(self, new: Measured, progress: Progress, made: int = 0, wanted: int = 0) -> float:
        """Make all connections by a SYN and an ACK each, or those from `made` to `wanted`.

        Return the seconds of this thread's processor time.
        """
        spent = 0.0
        wanted = wanted or self.connections
        chunk = min(_CHUNK, half_opens(wanted) // 64)  # also in the last ninth of the table
        for first in range(made, wanted, chunk):
            if not first % _PROGRESS_STEP:
                progress(f"{self.kind.name}: making {self.connections:,} connections, {first:,} are there")
            count = min(chunk, wanted - first)
            self.path.forget_half_open()
            half_open = self.path.half_open_in_table()
            opened, confirmed = self.send(SYN, first, count), self.send(ACK, first, count)
            new.samples.append(opened)
            spent += count * (opened + confirmed)
            # XDP left ACKs to the kernel, or this process was stopped for so long that some connections were given up.
            if self.counts()[0] < first + count or self.path.half_open_in_table() > half_open:
                self.send(SYN, first, count)
                self.send(ACK, first, count)
        return spent / 1e9

    def visit(self, repeat: int) -> float:
        """Return the ns of a packet of a random connection, the harness included.

        Each walk covers a power of two of connections: first the largest that fits, then the rest.
        """
        first, total = 0, 0.0
        per_address = 1 << PORT_BITS
        while self.connections - first >= per_address or not first:
            number = 1 << ((self.connections - first).bit_length() - 1)
            share = max(1, repeat * number // self.connections)
            total += number * self._run(self._frame(ACK, first // per_address), Flows(number, 0, SCATTERED), share)
            first += number
        return total / first

    def counts(self) -> tuple[int, int]:
        """Return the active and inactive connections of all servers."""
        rows = self.path.director.service(self.key).destinations
        return sum(row.active for row in rows), sum(row.inactive for row in rows)

    def grow(self, capacity: int) -> float:
        """Change the capacity of the table; return the seconds."""
        begin = time.monotonic()
        self.path.director.change_setting("conn_max", capacity)
        took = time.monotonic() - begin
        self.path.open_programs()
        return took

    # --- the end ---

    def shorten(self, life_s: int) -> tuple[float, float]:
        """Set a short timeout of each connection by a packet, which is a FIN for the second half.

        Return the monotonic times of the first packet and the last.
        """
        self.path.director.set_timeouts(Timeouts(life_s, life_s, life_s))
        half = self.connections // 2
        begin = time.monotonic()
        for first in range(0, self.connections, _CHUNK):
            end = min(first + _CHUNK, self.connections)
            middle = min(max(half, first), end)
            for flags, start, stop in ((ACK, first, middle), (FIN | ACK, middle, end)):
                if start < stop:
                    self.send(flags, start, stop - start)
        return begin, time.monotonic()

    def await_empty(self, until: float, pause: Callable[[], None]) -> float:
        """Return the monotonic time at which the counts became 0. Raises WrongPath if that is not before `until`.

        Return after the expiry timer has recorded its last run.
        """
        while sum(self.counts()):
            if time.monotonic() > until:
                active, inactive = self.counts()
                raise WrongPath(f"{active} active and {inactive} inactive connections do not end")
            pause()
        now, timers = time.monotonic(), self.path.director.tables.timer_runs
        runs = timers.get(0, "count")  # at the end of a run: that of the last connection may still continue
        while timers.get(0, "count") == runs:
            if time.monotonic() > until:
                raise WrongPath("the expiry timer does not run")
            pause()
        return now

    # --- listing and memory ---

    def list(self) -> tuple[int, float, float, float]:
        """Return how many connections `ipvsadm -Lnc` shows, its seconds, processor seconds and most MB."""
        begin, lines, megabytes = time.monotonic(), 0, 0.0
        running = subprocess.Popen([*program(), "-Lnc"], stdout=subprocess.PIPE)
        assert running.stdout is not None
        try:
            while part := os.read(running.stdout.fileno(), _MB):
                lines += part.count(b"\n")
                # What wait(2) reports includes the memory of this process, which started it.
                megabytes = max(megabytes, memory_kib(running.pid).get("VmHWM", 0) / 1024)
        except BaseException:
            running.kill()
            raise
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
        running.stdout.close()
        took = time.monotonic() - begin
        return max(lines - _TITLES, 0), took, used.ru_utime + used.ru_stime, megabytes or used.ru_maxrss / 1024

    def bytes_each(self) -> float:
        """Return the kernel memory for each connection, of every map whose size depends on the table's."""
        return self.path.memory(CONNECTION_MAPS) / capacity_for(self.connections)


def capacity_for(connections: int) -> int:
    """Return the capacity of a table for so many connections: if it were nearly full, half-open ones would end."""
    return connections + connections // 8


@contextmanager
def ready(kind: Kind, connections: int, at_first: int = 0) -> Iterator[LargeTable]:
    """Make a namespace with an empty table, at first for fewer; remove both afterwards. Raises what loading raises."""
    with new_path(f"scale-{kind.name.lower()}", capacity_for(at_first or connections)) as path:
        table = LargeTable(kind, connections, path)
        table.serve()
        yield table


def measure_listing(size: Size, progress: Progress) -> dict[str, Measured]:
    """Measure `ipvsadm -Lnc` of a large table: seconds, and the megabytes that it takes."""
    listing, memory = Measured(), Measured()
    with ready(DR, size.connections) as table:
        table.make(Measured(), progress)
        for number in range(size.whole):
            progress(f"commands: listing {size.connections:,} connections, {number + 1} of {size.whole}")
            lines, seconds, processor, megabytes = table.list()
            if lines != sum(table.counts()):
                raise CommandFailed(f"connections in ipvsadm -Lnc: {lines}, expected: {sum(table.counts())}")
            listing.samples.append(seconds)
            listing.processor.append(processor)
            memory.samples.append(megabytes)
    return {"list_connections": listing, "list_connections_memory": memory}

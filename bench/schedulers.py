"""What a choice costs: new connections of a service with few and with many real servers, by each scheduler."""

from __future__ import annotations

from ipaddress import ip_address

from bench import site
from bench.cases import NEW_CLIENTS, NEW_WALK, key, request
from bench.frames import IN_ORDER, SYN, Flows
from bench.harness import FLOWS, SAME, WrongPath
from bench.path import Overheads, PacketPath, new_path
from bench.program import Progress
from bench.rows import SCHEDULED, SCHEDULED_SERVERS, SCHEDULER_FLOOR, Measured, scheduler_row
from pylvs.model.dataclass import dataclass
from pylvs.model.service import Destination, DestinationKey, VirtualService

_PORTS = dict(zip(SCHEDULED_SERVERS, range(80, 90), strict=False))
_WEIGHTS = 4  # of the servers in turn: 1, 2, 3, 4, 1, ...


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int = 5
    new: int = 8_000  # connections in a round of each scheduler
    repeat: int = 500_000  # of the floor

    @property
    def capacity(self) -> int:
        """Return a capacity of the connection table that the bench does not exhaust."""
        a_round = sum(self.new + servers for servers in SCHEDULED_SERVERS) * len(SCHEDULED)
        return a_round * (self.rounds + 1) + 32768


QUICK = Size(rounds=1, new=500, repeat=20_000)


def _serve(path: PacketPath, servers: int) -> None:
    service = key(_PORTS[servers])
    with path.director.batch():
        path.director.add_service(VirtualService(service))
        for number in range(servers, 0, -1):
            at = DestinationKey(ip_address(site.server(number)), service.port)
            path.director.add_destination(service, Destination(at, weight=1 + number % _WEIGHTS))


def _measure_new(path: PacketPath, scheduler: str, servers: int, first: int, number: int) -> float:
    """Return the ns of a new connection, the harness included. Raises WrongPath."""
    service = key(_PORTS[servers])
    path.director.edit_service(VirtualService(service, scheduler))
    path.forget_half_open()
    path.harness.plan(request(service.port, SYN, NEW_CLIENTS), Flows(NEW_WALK, first, IN_ORDER))
    path.harness.run(FLOWS, path.entry(FLOWS), servers)  # asks for the next hops
    _, ever = path.connections(service)
    spent, _ = path.harness.run(FLOWS, path.entry(FLOWS), number)
    made = path.connections(service)[1] - ever
    if made < number - servers:  # XDP may pass one packet for each server to the kernel
        raise WrongPath(f"{scheduler}: connections made: {made} of {number}: {path.reasons()}")
    return spent


def measure(size: Size, progress: Progress) -> dict[str, Measured]:
    """Return the results by row, with a floor of the same rounds. Raises WrongPath, and what loading raises."""
    progress("schedulers: making the tables")
    with new_path("schedulers", size.capacity, max(SCHEDULED_SERVERS)) as path:
        for servers in SCHEDULED_SERVERS:
            _serve(path, servers)
        overheads, floor, made = Overheads(path.harness), Measured(), 0
        results = {scheduler_row(name, servers): Measured() for name in SCHEDULED for servers in SCHEDULED_SERVERS}
        for number in range(size.rounds + 1):
            progress(f"schedulers: round {number} of {size.rounds}" if number else "schedulers: warming up")
            overheads.measure(size.repeat, NEW_WALK)
            floor.samples.append(overheads.measure_floor(SAME, size.repeat))
            for name in SCHEDULED:
                for servers in SCHEDULED_SERVERS:
                    spent = _measure_new(path, name, servers, made, size.new)
                    results[scheduler_row(name, servers)].samples.append(spent)
                    made += servers + size.new
    overheads.forget_first()
    for measured in results.values():
        del measured.samples[0]
        measured.overhead_ns = overheads.of(FLOWS)
    del floor.samples[0]
    floor.overhead_ns = overheads.of(SAME)
    return results | {SCHEDULER_FLOOR: floor}

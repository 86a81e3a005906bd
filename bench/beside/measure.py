"""Measure every way of forwarding with every kind of traffic; report the reason if this kernel lacks one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

from bench.beside import traffic, ways
from bench.beside.frames import Frames
from bench.beside.traffic import Taken, Traffic
from bench.beside.ways import NAT, WAYS, Way
from bench.beside.wire import Wire, new_wire
from bench.program import Progress
from pylvs.bpf.libbpf import BpfObject
from pylvs.cli.meter import on_one_cpu
from pylvs.model.errors import PylvsError
from pylvs.model.service import Protocol

PROTOCOLS = {"udp": Protocol.UDP, "tcp": Protocol.TCP}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    passes: int = 3  # through all ways, so that a busy minute touches them alike
    part: float = 0.5  # of the traffic's rounds
    rounds: int = 5
    frames: int = 32_768  # in a round


QUICK = Size(passes=1, part=0.02, rounds=1, frames=256)
COUNTED = Size(passes=1, part=0.2, rounds=3, frames=2_048)  # where the clock counts instructions: there is no noise


@dataclass
class Found:
    """Figures of one kernel by way, method and measurement; and the ways that it lacks, with the reason."""

    kernel: str
    unit: str
    taken: dict[str, dict[str, dict[str, Taken]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def cost(self, way: str, method: str, measurement: str) -> float | None:
        """Return the cost of a packet, an exchange, a connection, a request or a segment."""
        found = self.taken.get(way, {}).get(method, {}).get(measurement)
        return found.median_ns if found else None

    def plain(self) -> dict[str, object]:
        """Return the figures as JSON types."""
        return asdict(self)


def read(plain: dict[str, object]) -> Found:
    """Read what `plain` returned."""
    raw = plain["taken"]
    assert isinstance(raw, dict)
    taken = {
        way: {method: {name: Taken(**each) for name, each in names.items()} for method, names in methods.items()}
        for way, methods in raw.items()
    }
    missing = plain["missing"]
    assert isinstance(missing, dict)
    return Found(str(plain["kernel"]), str(plain["unit"]), taken, missing)


@contextmanager
def _site(program: Path, size: Size) -> Iterator[tuple[Wire, Traffic, BpfObject]]:
    with on_one_cpu(), new_wire() as wire, traffic.running(wire, program, size.part) as sending:
        sending.wait(ways.ROUTED.aims[ways.DR])
        with ways.loaded() as opened:
            yield wire, sending, opened


def _through(way: Way, wire: Wire, sending: Traffic, opened: BpfObject, size: Size) -> dict[str, dict[str, Taken]]:
    """Every kind of traffic through a way that is set up. Raises Lost."""
    taken: dict[str, dict[str, Taken]] = {method: {} for method in way.aims}
    with ways.far_end(wire, opened, way.native, ending=False):
        for method, aim in way.aims.items():
            for kind in traffic.KINDS:
                taken[method][kind.name] = sending.send(kind, aim)
    with ways.far_end(wire, opened, way.native, ending=True):
        single = Frames(wire, opened, size.rounds, size.frames)
        for method, aim in way.aims.items():
            for name, protocol in PROTOCOLS.items():
                through = method == NAT
                taken[method][f"frame_{name}"] = single.measure(protocol, aim, False, through)
                if through:
                    taken[method][f"answer_{name}"] = single.measure(protocol, aim, True, through)
    return taken


def _together(passes: list[dict[str, dict[str, Taken]]]) -> dict[str, dict[str, Taken]]:
    """The median of all passes; what was sent and arrived is added."""
    return {
        method: {
            name: Taken(
                sum(each[method][name].sent for each in passes),
                sum(each[method][name].arrived for each in passes),
                median(each[method][name].median_ns for each in passes),
                median(each[method][name].mean_ns for each in passes),
            )
            for name in names
        }
        for method, names in passes[0].items()
    }


def measure(
    kernel: str,
    unit: str,
    program: Path,
    size: Size,
    progress: Progress,
    chosen: Sequence[str] | None = None,
) -> Found:
    """All of it, or only the chosen ways, on this kernel. Raises Lost, and what making the wire raises."""
    found = Found(kernel, unit)
    passes: dict[str, list[dict[str, dict[str, Taken]]]] = {}
    with _site(program, size) as (wire, sending, opened):
        for number in range(1, size.passes + 1):
            for way in WAYS:
                if way.name in found.missing or (chosen and way.name not in chosen):
                    continue
                progress(f"{kernel}: {way.label}, pass {number} of {size.passes}")
                try:
                    with way.ready(wire):
                        passes.setdefault(way.name, []).append(_through(way, wire, sending, opened, size))
                except traffic.Lost as error:
                    raise traffic.Lost(f"{way.label}: {error}") from None
                except PylvsError as error:
                    if passes.get(way.name):
                        raise
                    found.missing[way.name] = str(error)
    found.taken = {name: _together(each) for name, each in passes.items()}
    return found

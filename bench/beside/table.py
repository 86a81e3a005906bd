"""Print what was measured as one table, or write it as JSON."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from bench.beside import traffic
from bench.beside.measure import PROTOCOLS, Found
from bench.beside.ways import DR, FLOOR_XDP, IPVS, NAT, NFTABLES, ROUTED, WAYS, Way
from bench.report import aligned, drawn

GOALS = {DR: 6.0, NAT: 5.0}  # so many times what pylvs at native XDP takes above the floor, IPVS takes
INSTRUCTIONS, NANOSECONDS = "instructions", "ns"
_A_SECOND = 1e9  # of either
_SEGMENT_BITS = 1448 * 8
HEADINGS = (
    "way",
    "a packet",
    "above floor",
    "answer",
    "routing",
    "nftables",
    "IPVS",
    "packets/s",
    "exchanges/s",
    "connections/s",
    "requests/s",
    "bulk Mbit/s",
)
_WHAT = ("frame", "answer")
_RATES = (traffic.UDP, traffic.ECHO, traffic.CONNECT, traffic.HTTP)
NOTES = (
    "a packet: {unit} for a shortest frame of UDP, of a known connection, from the driver's hands to the far end's",
    "above floor, of UDP / TCP: without what the least program at XDP takes; answer: likewise, of what NAT brings back",
    "routing, nftables, IPVS: so many times as much they take above the floor, there and (NAT) back; the lesser one",
    "rates: sockets at both ends too, on one processor; a veth copies what it takes natively: compare with that floor",
)


def above(found: Found, way: str, method: str, measurement: str) -> float | None:
    """Return the cost of a frame above the floor."""
    cost, floor = found.cost(way, method, measurement), found.cost(FLOOR_XDP.name, method, measurement)
    return None if cost is None or floor is None else cost - floor


def whole(found: Found, way: str, method: str, protocol: str) -> float | None:
    """Return the cost above the floor of a frame; with NAT the mean of both directions."""
    there = above(found, way, method, f"frame_{protocol}")
    back = above(found, way, method, f"answer_{protocol}") if method == NAT else there
    return None if there is None or back is None else (there + back) / 2


def times(found: Found, way: str, method: str, other: Way) -> float | None:
    """So many times as much as this way the other one takes above the floor: of UDP and TCP where it is less."""
    ratios = []
    for protocol in PROTOCOLS:
        own = whole(found, way, method, protocol)
        others = whole(found, other.name, method if method in other.aims else NAT, protocol)
        if own and others and own > 0:
            ratios.append(others / own)
    return min(ratios, default=None)


def reached(found: Found, way: str, method: str) -> bool | None:
    """Return whether pylvs at XDP reaches its goal against IPVS; None for other ways."""
    value = times(found, way, method, IPVS)
    return value >= GOALS[method] if value is not None and way == "pylvs_xdp" else None


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _both(values: list[float | None]) -> str:
    return " / ".join(map(_count, values)) if any(value is not None for value in values) else "–"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}x"


def _rate(cost: float | None, worth: float = 1) -> str:
    return "–" if not cost else f"{_A_SECOND / cost * worth:,.0f}"


def lines(found: Found) -> Iterator[tuple[tuple[str, ...], bool | None]]:
    """Yield a kernel's rows, each with the result of `reached`."""
    for way in WAYS:
        for method in way.aims if way.name in found.taken else ():
            floor = way.name.startswith("floor")
            label = f"{way.label}, {method}" if way.aims is not ROUTED.aims else f"{way.label}, answers {_PASS[method]}"
            cells = [
                label,
                _count(found.cost(way.name, method, "frame_udp")),
                *(_both([above(found, way.name, method, f"{what}_{each}") for each in PROTOCOLS]) for what in _WHAT),
                *(_times(None if floor else times(found, way.name, method, each)) for each in (ROUTED, NFTABLES, IPVS)),
                *(_rate(found.cost(way.name, method, each.name)) for each in _RATES),
                _rate(found.cost(way.name, method, traffic.BULK.name), _SEGMENT_BITS / 1e6),
            ]
            yield tuple(cells), reached(found, way.name, method)


_PASS = {DR: "past it", NAT: "by it"}


def title(found: Found) -> str:
    """Return the title above a kernel's rows."""
    clock = f"a second is 10^9 {found.unit}" if found.unit == INSTRUCTIONS else found.unit
    return f"Linux {found.kernel} ({clock})"


def _print_plain(kernels: list[Found], out: TextIO) -> None:
    cells = [[cells for cells, _ in lines(found)] for found in kernels]
    headings, *rest = aligned([HEADINGS, *itertools.chain(*cells)])
    remaining = iter(rest)
    for found, own in zip(kernels, cells, strict=True):
        print(title(found), headings, *itertools.islice(remaining, len(own)), sep="\n", file=out)


def _print_drawn(kernels: list[Found], out: TextIO) -> None:
    from rich.console import Console

    table = drawn("pylvs bench: beside IPVS", HEADINGS)
    for found in kernels:
        table.add_section()
        table.add_row(f"[bold]{title(found)}[/]")
        for cells, good in lines(found):
            shown = list(cells)
            if good is not None:
                shown[6] = f"[{'green' if good else 'red'}]{shown[6]}[/]"
            table.add_row(*shown)
    Console(file=out).print(table)


def show(kernels: list[Found], out: TextIO = sys.stdout) -> None:
    """Print the table: drawn on a terminal, plain otherwise."""
    (_print_drawn if out.isatty() else _print_plain)(kernels, out)
    units = " or ".join(dict.fromkeys(found.unit for found in kernels))
    for note in (*(each.format(unit=units) for each in NOTES), *_missing(kernels)):
        print(note, file=out)


def _missing(kernels: Iterable[Found]) -> Iterator[str]:
    for found in kernels:
        for way in WAYS:
            if way.name in found.missing:
                yield f"Linux {found.kernel} without {way.label}: {found.missing[way.name]}"


def write(path: Path, kernels: list[Found]) -> None:
    """Write the results as JSON, with every count. Raises OSError."""
    path.write_text(json.dumps({"goals": GOALS, "kernels": [found.plain() for found in kernels]}, indent=1) + "\n")

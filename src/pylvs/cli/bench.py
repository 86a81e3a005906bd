"""`pylvs bench --live DEV`: measure what packets cost while they flow."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any

import click

from pylvs.cli.main import EXIT_INTERRUPTED
from pylvs.cli.meter import Meter, Reading, Sample, cores_at_line_rate, joined, metered

_PAUSE_S = 1.0
_HEADINGS = ("packets/s", "Mbit/s in", "ns a packet", "CPU %", "cores at 10 Gbit/s")
_WIDTHS = (12, 11, 12, 8, 19)


def _cells(*cells: str) -> str:
    return "".join(cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=True))


def _costs(ns_a_packet: float | None) -> tuple[str, str]:
    if ns_a_packet is None:
        return "–", "–"
    return f"{ns_a_packet:.1f}", f"{cores_at_line_rate(ns_a_packet):.2f}"


def _line(sample: Sample, label: str = "") -> str:
    """Return one line: the numbers, and the counts of packets that were not merely forwarded."""
    cost, cores = _costs(sample.ns_a_packet)
    shown = _cells(
        f"{sample.packets_a_second:,.0f}", f"{sample.in_megabits:,.1f}", cost, f"{sample.processor:.1f}", cores
    )
    beyond = ", ".join(f"{count:,} {name}" for name, count in sorted(sample.reasons.items()))
    return "  ".join(filter(None, (shown, label, beyond)))


def _limit(sample: Sample, ns: float, label: str) -> str:
    """Return the line of a program that takes `ns` for each of the same packets."""
    cost, cores = _costs(ns)
    return _cells("", "", cost, f"{sample.packets_a_second * ns / 1e7:.1f}", cores) + f"  {label}"


def _introduce(meter: Meter) -> None:
    attachment, machine = meter.attachment, meter.machine
    programs = ", ".join(f"{hook} {number}" for hook, number in meter.programs.items())
    click.echo(f"{attachment.device}: {attachment.mode} [{programs}]")
    if meter.shared:
        click.echo(f"the same programs run on {', '.join(meter.shared)}: what they do there is in the figures")
    click.echo(
        f"counting costs every eBPF program of this machine {machine.burden:.0f} ns a run until this ends;"
        f" {machine.counting:.0f} of them are seen by the count, and taken off below"
    )
    click.echo(_cells(*_HEADINGS))


def _conclude(meter: Meter, total: Sample) -> None:
    machine = meter.machine
    click.echo(_line(total, f"all {total.seconds:.0f} s"))
    click.echo(_limit(total, machine.floor, "the floor: swap the MAC addresses"))
    click.echo(_limit(total, machine.floor + machine.far, "and one read from a random place in memory"))
    for hook, used in total.programs.items():
        mean = f", {used.ns_a_run:.1f} ns each" if used.ns_a_run is not None else ""
        click.echo(f"{hook}: {used.runs:,} runs{mean}")
    lost = total.traffic.in_lost + total.traffic.out_lost
    if lost:
        click.echo(f"{meter.device}: the device lost {lost:,} of the packets; see: ip -s link show {meter.device}")


def _described(sample: Sample) -> dict[str, Any]:
    cost = sample.ns_a_packet
    return {
        "seconds": sample.seconds,
        "packets": sample.packets,
        "packets_a_second": sample.packets_a_second,
        "ns_a_packet": cost,
        "processor_percent": sample.processor,
        "cores_at_10_gbit": None if cost is None else cores_at_line_rate(cost),
        "device": asdict(sample.traffic),
        "programs": {hook: {"runs": used.runs, "ns_a_run": used.ns_a_run} for hook, used in sample.programs.items()},
        "reasons": dict(sample.reasons),
    }


def _report(meter: Meter, samples: list[Sample], total: Sample) -> dict[str, Any]:
    machine = meter.machine
    return {
        "device": meter.device,
        "mode": meter.attachment.mode,
        "programs": dict(meter.programs),
        "shared_with": meter.shared,
        "machine": {
            "counting_ns": machine.counting,
            "burden_ns": machine.burden,
            "floor_ns": machine.floor,
            "random_read_ns": machine.far,
        },
        "samples": [_described(sample) for sample in samples],
        "total": _described(total),
    }


def _watch(meter: Meter, seconds: int, quiet: bool) -> tuple[list[Sample], Sample, bool]:
    """Return a sample for each second, their sum, and whether ctrl-C ended the measurement."""
    first = last = meter.read()
    samples: list[Sample] = []
    interrupted = False
    try:
        for number in range(1, seconds + 1):
            time.sleep(max(first.moment + number * _PAUSE_S - time.monotonic(), 0))
            last = _next(meter, last, samples)
            if not quiet:
                click.echo(_line(samples[-1]))
    except KeyboardInterrupt:
        interrupted = True
        last = _next(meter, last, samples)
    return samples, joined(samples), interrupted


def _next(meter: Meter, last: Reading, samples: list[Sample]) -> Reading:
    reading = meter.read()
    samples.append(meter.sample(last, reading))
    return reading


@click.command()
@click.option("--live", "device", metavar="DEV", required=True, help="the device whose packets are measured")
@click.option("--seconds", type=click.IntRange(1), default=10, show_default=True, help="how long")
@click.option("--json", "as_json", is_flag=True, help="for programs: everything at the end")
def bench(device: str, seconds: int, as_json: bool) -> int:
    """Measure what the packets that flow through DEV cost this machine, compared to the minimum on this machine.

    While this runs, the kernel times every run of every eBPF program of the machine. That costs each some 30 ns.
    """
    with metered(device) as meter:
        if not as_json:
            _introduce(meter)
        samples, total, interrupted = _watch(meter, seconds, as_json)
        if as_json:
            click.echo(json.dumps(_report(meter, samples, total), indent=2))
        else:
            _conclude(meter, total)
    return EXIT_INTERRUPTED if interrupted else 0

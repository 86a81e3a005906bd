"""The model of many processors follows from its latencies where the result is known."""

from __future__ import annotations

import pytest

from bench.cpu_model import Access, Latencies, Machine, Workload, workloads

LATENCIES = Latencies(own=5, node=100, remote=250)
ONE_LINE = Workload("one line", 400, (Access("cursor", 1),))


def gain(workload: Workload, processors: int, nodes: int = 1) -> float:
    return Machine(processors, nodes, LATENCIES).rate(workload) / Machine(1, 1, LATENCIES).rate(workload)


@pytest.mark.parametrize("processors", [2, 8, 64])
def test_processors_that_share_nothing_do_not_slow_each_other(processors: int) -> None:
    assert gain(Workload("private", 50), processors, 2) == pytest.approx(processors, rel=0.02)


def test_one_processor_keeps_its_lines() -> None:
    assert Machine(1, 1, LATENCIES).rate(ONE_LINE) == pytest.approx(1e9 / 405, rel=0.01)


def test_one_written_line_limits_a_node_to_its_moves() -> None:
    assert Machine(32, 1, LATENCIES).rate(ONE_LINE) == pytest.approx(1e9 / 100, rel=0.05)


def test_two_nodes_are_slower_on_one_line_than_one_node() -> None:
    assert Machine(32, 2, LATENCIES).rate(ONE_LINE) < 0.8 * Machine(32, 1, LATENCIES).rate(ONE_LINE)


def test_more_lines_raise_the_limit() -> None:
    rates = [Machine(32, 1, LATENCIES).rate(Workload("", 400, (Access("counts", each),))) for each in (1, 4, 64)]
    assert rates == sorted(rates)
    assert rates[2] > 5 * rates[0]


def test_reads_of_lines_that_others_write_cost_moves() -> None:
    read = Workload("wlc", 400, (Access("counts", 4, all_lines=True), Access("counts", 4)))
    write = Workload("rr", 400, (Access("counts", 4),))
    assert gain(read, 8) < gain(write, 8)


def test_the_same_seed_gives_the_same_figures() -> None:
    one, other = (Machine(8, 2, LATENCIES).rate(ONE_LINE) for _ in range(2))
    assert one == other


def test_every_packet_of_an_established_connection_is_private() -> None:
    (established,) = (each for each in workloads(50, 400) if each.name == "established")
    assert established.accesses == ()

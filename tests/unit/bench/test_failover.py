"""The bench of a failover: gaps, and configurations that pylvs and keepalived accept."""

from __future__ import annotations

import itertools

import pytest

from bench.failover import failbacks
from bench.failover.__main__ import cells
from bench.failover.failbacks import PORTS, Failback
from bench.failover.network import BFD, DIRECTORS, DR, KEEPALIVED, NAT, PYLVS, VRRP, Setup, network, pair_of_methods
from bench.failover.trial import KILLED, STOPPED, Found, longest_gap
from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read_text

SETUPS = [Setup(*each) for each in itertools.product((PYLVS, KEEPALIVED), (VRRP, BFD), (DR, NAT))]


def test_a_gap_reaches_to_the_next_served_connection_or_to_the_end() -> None:
    served = [1.0, 1.1, 1.2, 1.7, 1.8]
    assert longest_gap(served, 1.3, 2.0) == pytest.approx(0.5)
    assert longest_gap(served, 1.75, 2.9) == pytest.approx(1.1)
    assert longest_gap(served, 1.0, 1.21) == pytest.approx(0.1)
    assert longest_gap([1.0], 2.0, 3.0) == pytest.approx(2.0)
    assert longest_gap([], 2.0, 3.0) == pytest.approx(1.0)


NETWORKS = {**{str(each): network(each) for each in SETUPS}, "failbacks": pair_of_methods(failbacks.SETUP, PORTS)}


@pytest.mark.parametrize("name", NETWORKS)
def test_each_configuration_is_understood_as_a_whole(name: str) -> None:
    for host in DIRECTORS:
        for text in NETWORKS[name].host(host).files.values():
            document, unread = read_text(text, "keepalived.conf")
            findings = compile_document(document, devices=()).findings
            assert not [*unread, *(each for each in findings if not each.absent_device)]


def test_the_table_has_gaps_in_milliseconds_and_lost_connections() -> None:
    found = Found(Setup(PYLVS, BFD, NAT), KILLED, 0.0364, 0.002, 9000, 1000, 10_000)
    assert cells(found) == ("killed", "NAT", "pylvs", "BFD, 10 ms", "36 ms", "2 ms", "10,000 of 10,000")


def test_all_failbacks_have_sums_and_medians() -> None:
    found = [Failback(KILLED, 3, 0, 0.3, 0.2, 6.0, 2.0), Failback(STOPPED, 0, 1, 0.5, 0.4, 4.0, 3.0)]
    lines = list(failbacks.lines(found, 1000))
    assert lines[0] == "2 failbacks, 1,000 connections of DR and as many of NAT: 3 reset, 1 silent, of 4,000"
    assert lines[1].endswith("median 0.40 s, longest 0.50 s")
    assert len(lines) == 5

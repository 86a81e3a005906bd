"""The estimator's snapshots and rates (IPVS-SEMANTICS 9.2, 9.3). Its rounds run here one by one, at fixed steps."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec
from unittest import mock

import pytest

from pylvs.bpf import abi, kernel, libbpf, maps
from pylvs.dataplane import transaction
from pylvs.model.rows import Counters, Rates, in_order
from pylvs.model.service import Destination, Protocol, ServiceKey, VirtualService
from tests.packet.frames import udp
from tests.packet.host import Host, new_host, stop_timer
from tests.waiting import Void, until, until_valid

Round = Callable[[], None]
Arguments = ParamSpec("Arguments")
BYTES = len(udp()) - 14  # of one packet
_sports = itertools.count(2000)


def repeated(test: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Repeat a test from its begin, with other services, while the machine pauses it for a whole round."""

    @functools.wraps(test)
    def run(*words: Arguments.args, **fixtures: Arguments.kwargs) -> None:
        until_valid(test.__name__, lambda: test(*words, **fixtures))

    return run


@pytest.fixture
def current_counters() -> None:
    """Leave the counters to the estimator."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    with new_host(expires=False, recycled=True) as made:
        stop_timer(made.director, "estimators")
        yield made


@pytest.fixture
def estimate(director_host: Host) -> Iterator[Round]:
    """Return a function for one round of the estimator. It raises Void if there were two."""
    director = director_host.director
    start = libbpf.open_pin(director.state.loaded_path("start_estimator"))
    assert start is not None
    codec, number = abi.struct("estimator"), abi.constant("TIMER_ESTIMATOR")

    def estimate() -> None:
        runs = director.tables.timer_runs.get(number, "count")
        with maps.ArrayMap.open(director.tables.path("estimators")) as estimators:

            def has_ended() -> bool:
                fields = codec.unpack_from(estimators.get(0) or b"")
                return director.tables.timer_runs.get(number, "count") >= runs + 2 and not (
                    fields["next"] or fields["services"]
                )

            until(lambda: not kernel.run_program(start, bytes(64)).verdict, "memory for a timer")
            until(has_ended, "a round over destinations and services")
        stop_timer(director, "estimators")
        if director.tables.timer_runs.get(number, "count") != runs + 2:
            raise Void("another round began before the timer was stopped")

    yield estimate
    os.close(start)


def send(host: Host, service: ServiceKey, count: int) -> None:
    """Let this many clients send a packet each."""
    for sport in itertools.islice(_sports, count):
        host.run(udp(sport, service.port), "tc")


def packets(count: int) -> Counters:
    """Return the counters after one packet of each of so many clients."""
    return Counters(count, count, 0, count * BYTES, 0)


class Average:
    """The kernel's average of the counters of one service or destination."""

    def __init__(self) -> None:
        self._averages = [0] * 5

    def step(self, counted: Sequence[int]) -> Rates:
        """Return the rates after a round that found these events more than the round before."""
        for i, count in enumerate(counted):
            rate = count << (9 if i < 3 else 4)
            self._averages[i] += (rate - self._averages[i]) >> 2
        return self.rates

    @property
    def rates(self) -> Rates:
        events, sizes = self._averages[:3], self._averages[3:]
        return Rates(*[each + 511 >> 10 for each in events], *[each + 15 >> 5 for each in sizes])


def shown(host: Host, service: ServiceKey) -> list[Counters]:
    """Return the counters of the service, and those of its servers."""
    row = host.director.service(service)
    return [row.counters, *(each.counters for each in row.destinations)]


def rates(host: Host, service: ServiceKey) -> list[Rates]:
    row = host.director.service(service)
    return [row.rates, *(each.rates for each in row.destinations)]


@repeated
def test_listings_and_zero_use_the_latest_snapshot(director_host: Host, estimate: Round) -> None:
    director, service = director_host.director, director_host.new_key(Protocol.UDP)
    director_host.serve(service, 1)
    director.zero()
    send(director_host, service, 1)
    assert shown(director_host, service) == [Counters(), Counters()]
    estimate()
    send(director_host, service, 5)
    assert shown(director_host, service) == [packets(1), packets(1)]
    assert director.packet_counts().totals == packets(1)
    director.zero()
    assert shown(director_host, service) == [Counters(), Counters()]
    assert rates(director_host, service) == [Rates(), Rates()]
    estimate()
    assert shown(director_host, service) == [packets(5), packets(5)]
    assert director.packet_counts().totals == packets(5)
    assert rates(director_host, service) == [Average().step(in_order(packets(5)))] * 2


@repeated
def test_without_estimation_counters_stand_still(director_host: Host, estimate: Round) -> None:
    director, service = director_host.director, director_host.new_key(Protocol.UDP)
    director_host.serve(service, 1)
    send(director_host, service, 3)
    estimate()
    director.change_setting("run_estimation", 0)
    try:
        send(director_host, service, 4)
        assert shown(director_host, service) == [packets(3), packets(3)]
    finally:
        director.change_setting("run_estimation", 1)
    estimate()
    assert shown(director_host, service) == [packets(7), packets(7)]


@repeated
def test_a_service_has_averages_of_its_own(director_host: Host, estimate: Round) -> None:
    """The sum of its servers' averages, which are rounded one by one, is another number."""
    service, servers = director_host.new_key(Protocol.UDP), 5
    director_host.serve(service, servers)
    of_service, before, differed = Average(), packets(0), False
    for count in 17, 18, 19, 0:
        send(director_host, service, count)
        estimate()
        row = director_host.director.service(service)
        assert row.rates == of_service.step(in_order(row.counters - before))
        summed = [sum(in_order(each.rates)) for each in row.destinations]
        differed |= sum(in_order(row.rates)) != sum(summed)
        before = row.counters
    assert before == packets(17 + 18 + 19)
    assert differed


@repeated
def test_rates_and_counters_of_a_deleted_server_stand_still(director_host: Host, estimate: Round) -> None:
    director, service = director_host.director, director_host.new_key(Protocol.UDP)
    (server,) = director_host.serve(service, 1)
    send(director_host, service, 40)
    estimate()
    frozen = Average().step(in_order(packets(40)))
    director.delete_destination(service, server)
    director.zero(service)
    assert rates(director_host, service) == [Rates()]
    estimate()
    assert rates(director_host, service) == [Rates()]
    director.add_destination(service, Destination(server))
    assert rates(director_host, service) == [Rates(), frozen]
    assert shown(director_host, service) == [Counters(), packets(40)]


@repeated
def test_what_a_server_counted_just_before_its_deletion_counts_for_its_service(
    director_host: Host, estimate: Round
) -> None:
    director, service = director_host.director, director_host.new_key(Protocol.UDP)
    (server,) = director_host.serve(service, 1)
    average = Average()
    send(director_host, service, 8)
    director.delete_destination(service, server)
    estimate()
    assert shown(director_host, service) == [packets(8)]
    assert rates(director_host, service) == [average.step(in_order(packets(8)))]
    director.add_destination(service, Destination(server))
    assert shown(director_host, service) == [packets(8), Counters()]
    assert rates(director_host, service) == [average.rates, Rates()]
    estimate()
    assert shown(director_host, service) == [packets(8), packets(8)]
    of_server = Average().step(in_order(packets(8)))
    assert rates(director_host, service) == [average.step(in_order(packets(0))), of_server]


@repeated
def test_what_a_deleted_service_counted_is_not_that_of_the_next_one_in_its_slot(
    director_host: Host, estimate: Round
) -> None:
    director, first = director_host.director, director_host.new_key(Protocol.UDP)
    director_host.serve(first, 1)
    slot = director.slot(first)
    send(director_host, first, 8)
    second = director_host.new_key(Protocol.UDP)
    with mock.patch.object(transaction, "MANY_RELEASED", 1):  # so the slot is the first free one
        director.delete_service(first)
        director.add_service(VirtualService(second, "rr"))
    assert director.slot(second) == slot
    estimate()
    assert shown(director_host, second) == [Counters()]
    assert rates(director_host, second) == [Rates()]

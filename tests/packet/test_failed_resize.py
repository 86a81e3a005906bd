"""An error in the middle of a change of conn_max leaves packets a whole table, and the next edit completes the change.

The host and its traffic are those of the kills in `test_killed_load`.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from unittest import mock

import pytest

from pylvs.dataplane import load
from pylvs.dataplane.devices import attachments
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.dataplane.upgrade import upgrade
from pylvs.dataplane.upgrade.restore import ConnectionCopy
from pylvs.model.dataclass import replace
from pylvs.model.errors import NoSpace
from pylvs.model.service import Destination, DestinationKey, Method
from pylvs.system import syscalls
from tests.packet.host import Host, server4
from tests.packet.test_killed_load import (
    BY_DR,
    BY_NAT,
    LARGE,
    SMALL,
    Nothing,
    Traffic,
    edit,
    open_traffic,
    resizes,
    serving_host,
)

OTHER_PORTS = itertools.count(40_000)  # which no test uses twice


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with serving_host() as made:
        yield made


@pytest.fixture
def traffic(host: Host) -> Iterator[Traffic]:
    with open_traffic() as made:
        yield made


def test_an_error_in_the_middle_of_a_resize(host: Host, traffic: Traffic) -> None:
    nothing = Nothing(host)
    (resize,) = itertools.islice(resizes(), 1)
    refused = mock.patch.object(syscalls, "exchange", side_effect=OSError(errno.ENOMEM, "no memory"))
    with refused, pytest.raises(NoSpace, match="exchanging"):
        resize()
    traffic.check()
    nothing.check()


AFTER_THE_EXCHANGE = {
    "the timers": (load, "start_timers", 1),
    "the switch": (upgrade, "_turn_switch", 1),
    "the connections": (ConnectionCopy, "run", 3),
    "the half-open ones": (ConnectionCopy, "run", 4),
    "all that changed": (ConnectionCopy, "run", 5),
    "the devices": (attachments, "reconcile", 1),
}


@contextmanager
def failing(owner: object, name: str, at: int, before: Callable[[], object]) -> Iterator[None]:
    """Let the n-th call of a function fail within the block; `before` is called when the tables were exchanged."""
    calls, call, finish = itertools.count(1), getattr(owner, name), upgrade.finish

    def counted(*arguments: Any, **more: Any) -> Any:
        if next(calls) == at:
            raise NoSpace("no memory")
        return call(*arguments, **more)

    def prepare_and_finish(*arguments: Any) -> None:
        before()
        finish(*arguments)

    with mock.patch.object(owner, name, counted), mock.patch.object(upgrade, "finish", prepare_and_finish):
        yield


def states_of(*sports: int) -> dict[tuple[int, int], str]:
    """Return the states of the connections from these ports of clients, by port and service port."""
    found = BpfDirector(State.open()).connections()
    return {(each.client_port, each.virtual_port): each.state for each in found if each.client_port in sports}


@pytest.mark.parametrize("step", AFTER_THE_EXCHANGE)
def test_an_error_after_the_tables_were_exchanged(host: Host, traffic: Traffic, step: str) -> None:
    """Packets use the former table or the new one, as before the error, and the next edit completes the change."""
    host.director.change_setting("conn_max", SMALL)
    nothing, half_open = Nothing(host), list(itertools.islice(OTHER_PORTS, 2))
    (resize,) = itertools.islice(resizes(), 1)

    def begin() -> None:
        traffic.crossed("S", half_open[0])
        traffic.open(half_open[1])

    with failing(*AFTER_THE_EXCHANGE[step], begin), pytest.raises(NoSpace, match="no memory"):
        resize()
    if step in ("the timers", "the switch"):  # packets use the former table, and none waits
        traffic.check(half_open[1])
    edit()
    traffic.check()
    traffic.check(half_open[1])
    wanted = dict.fromkeys(itertools.product(half_open[:1], (BY_DR.port, BY_NAT.port)), "SYN_RECV")
    wanted |= {(half_open[1], BY_DR.port): "ESTABLISHED", (half_open[1], BY_NAT.port): "ESTABLISHED"}
    assert states_of(*half_open) == wanted
    assert traffic.answered("SA", half_open[0])
    nothing.check()


def test_a_change_that_failed_is_completed_before_other_edits_of_the_batch(host: Host, traffic: Traffic) -> None:
    host.director.change_setting("conn_max", SMALL)
    director, nothing = BpfDirector(State.open()), Nothing(host)
    server = Destination(DestinationKey(ip_address(server4(1)), BY_DR.port), Method.ROUTE)
    late = next(OTHER_PORTS)
    with director.batch():
        with failing(*AFTER_THE_EXCHANGE["the connections"], lambda: traffic.open(late)), pytest.raises(NoSpace):
            director.change_setting("conn_max", LARGE)
        director.edit_destination(BY_DR, replace(server, upper=50))
        director.change_setting("conn_max", SMALL, drop=True)
        (row,) = director.service(BY_DR).destinations
        assert row.destination.upper == 50
    traffic.check(late)
    director.edit_destination(BY_DR, server)
    nothing.check()


def test_a_copy_continues_with_what_packets_changed_since_the_error(host: Host, traffic: Traffic) -> None:
    """They may use the former table for long, as no edit need come."""
    host.director.change_setting("conn_max", SMALL)
    sport, other, nothing = next(OTHER_PORTS), next(OTHER_PORTS), Nothing(host)
    traffic.crossed("S", sport)
    traffic.open(other)
    (resize,) = itertools.islice(resizes(), 1)
    with failing(*AFTER_THE_EXCHANGE["the switch"], int), pytest.raises(NoSpace, match="no memory"):
        resize()
    assert traffic.answered("SA", sport)
    assert traffic.crossed("A", sport) == (True, True)
    assert traffic.crossed("R", other) == (True, True)
    edit()
    assert states_of(sport, other) == {
        (sport, BY_DR.port): "ESTABLISHED",
        (sport, BY_NAT.port): "ESTABLISHED",
        (other, BY_DR.port): "CLOSE",
        (other, BY_NAT.port): "CLOSE",
    }
    nothing.check()

"""The tables of the real IPVS at the end of a scenario, while connections end by themselves."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceKey, Timeouts, VirtualService
from tests.conformance.live import Wired, difference
from tests.conformance.routes import OneRouteDirector
from tests.packet.frames import tcp, udp
from tests.packet.fuzz.steps import AddServer, AddService, DeleteService, Edit, Set, SetTimeouts
from tests.packet.fuzz.twin import the_network
from tests.packet.host import VIP4, server4

SERVICE = ServiceKey(Protocol.UDP, ip_address(VIP4), 80)
TABLE: list[Edit] = [
    SetTimeouts(Timeouts(0, 0, 2)),
    AddService(VirtualService(SERVICE, "rr")),
    AddServer(SERVICE, Destination(DestinationKey(ip_address(server4(1)), 80), Method.ROUTE)),
]
FRAMES = {0.1: udp(sport=2000, dport=80), 1.0: udp(sport=2001, dport=80)}  # the connections end at 2.1 s and 3.0 s


def compared(read_s: float, counts: str) -> str:
    """Compare tables that a guest listed from 1.1 s on: weight, active and inactive connections of the server."""
    director = OneRouteDirector(the_network())
    for edit in TABLE:
        edit.apply(director)
    sent = [[at, [out.hex() for _, out in director.receive(frame).sent]] for at, frame in FRAMES.items()]
    made = {
        "steps": [*([0.0, []] for _ in TABLE), *sent],
        "at": 1.1,
        "read": read_s,
        "rows": [f"UDP {VIP4}:80 rr", f"  -> {server4(1)}:80 Route {counts}"],
        "connections": [],
    }
    steps: list[Wired] = [*TABLE, *FRAMES.values()]
    found = difference(steps, made)
    return found[1] if found else ""


@pytest.mark.parametrize(("read_s", "counts"), [(1.5, "1 0 2"), (2.05, "1 0 2"), (2.05, "1 0 1"), (2.2, "1 0 1")])
def test_a_connection_may_end_while_the_guest_lists_its_table(read_s: float, counts: str) -> None:
    assert compared(read_s, counts) == ""


@pytest.mark.parametrize(
    ("read_s", "counts"), [(1.5, "1 0 1"), (2.2, "1 0 0"), (2.2, "1 0 3"), (2.2, "2 0 2"), (2.2, "1 1 1")]
)
def test_other_counts_differ(read_s: float, counts: str) -> None:
    theirs = tuple(map(int, counts.split()))
    words = compared(read_s, counts)
    assert f"IPVS lists {{('UDP {VIP4}:80', '{server4(1)}:80'): {theirs}}}, the reference " in words
    assert words.endswith(f": {(1, 0, 2)}}}")


def test_a_server_that_ipvs_does_not_list_differs() -> None:
    director = OneRouteDirector(the_network())
    for edit in TABLE:
        edit.apply(director)
    made = {"steps": [[0.0, []]] * 3, "at": 0.1, "read": 0.2, "rows": [f"UDP {VIP4}:80 rr"], "connections": []}
    found = difference([*TABLE], made)
    assert found
    assert "IPVS lists {}, the reference" in found[1]


@pytest.mark.parametrize(("deleted", "state"), [(True, "TIME_WAIT"), (True, "ESTABLISHED"), (False, "TIME_WAIT")])
def test_the_stacks_reset_may_prolong_a_closed_connection_of_a_deleted_service(deleted: bool, state: str) -> None:
    """A SYN ends it in the reference. In IPVS, its timer starts again before it fires."""
    key = ServiceKey(Protocol.TCP, ip_address(VIP4), 80)
    server = Destination(DestinationKey(ip_address(server4(1)), 80), Method.ROUTE)
    ends = {"client": "198.18.0.7:4000", "virtual": f"{VIP4}:80", "dest": f"{server4(1)}:80"}
    added: list[Edit] = [AddService(VirtualService(key, "rr")), AddServer(key, server)]
    steps: list[Wired] = [AddService(VirtualService(SERVICE, "rr")), Set("conn_reuse_mode", 1), *added]
    steps += [tcp(), tcp("FA"), DeleteService(key), tcp()]
    if not deleted:
        steps += added
    director = OneRouteDirector(the_network())
    sent: list[list[Any]] = []
    for number, step in enumerate(steps):
        director.advance(0.1 * number - director.now)
        sent.append([0.1 * number, []])
        if isinstance(step, bytes):
            sent[-1][1] = [out.hex() for _, out in director.receive(step).sent]
        elif not isinstance(step, tuple):
            step.apply(director)
    made = {
        "steps": sent,
        "at": 2.0,
        "read": 2.1,
        "rows": [] if deleted else [f"TCP {VIP4}:80 rr", f"-> {server4(1)}:80 Route 1 0 0"],
        "connections": [{"proto": "TCP", "state": state, "expire_s": 118, **ends}],
    }
    found = difference(steps, made)
    alone = f"1 connections differ: {(state, ends['client'], ends['virtual'], ends['dest'])} in IPVS alone"
    assert found == (None if (deleted, state) == (True, "TIME_WAIT") else (len(steps), alone))

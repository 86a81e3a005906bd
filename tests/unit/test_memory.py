"""The in-memory Director keeps IPVS's promises about its tables (IPVS-SEMANTICS 1); MemoryRoles records calls."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from pylvs.model.director import Connection, Director
from pylvs.model.errors import (
    Busy,
    DestinationExists,
    InvalidOperation,
    NoSuchDestination,
    NoSuchScheduler,
    NoSuchService,
    NoSuchSetting,
    OutOfRange,
    ServiceExists,
)
from pylvs.model.rows import Counters, DestinationRow
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    Tunnel,
    TunnelKind,
    VirtualService,
)
from pylvs.model.vrrp import Roles
from tests.memory import MemoryDirector, MemoryRoles

ONE, OTHER = ip_address("192.0.2.1"), ip_address("2001:db8::1")
KEY = ServiceKey(Protocol.TCP, IPv4Address("192.0.2.1"), 80)
KEY_V6 = ServiceKey(Protocol.TCP, IPv6Address("2001:db8::1"), 80)
SERVICE = VirtualService(KEY, "rr")
A, B, C = (DestinationKey(IPv4Address(f"198.51.100.{number}"), 80) for number in (11, 12, 13))
BROADCAST = IPv4Address("198.51.100.255")
LINK_LOCAL = IPv6Address("fe80::1")
SEEN = Counters(connections=2, in_packets=9)


class Clock:
    """A clock that a test moves."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """The Director's clock."""
    return Clock()


@pytest.fixture
def director(clock: Clock) -> MemoryDirector:
    """A table with one service, whose servers were added as A, B, C."""
    made = MemoryDirector(broadcasts=[BROADCAST], local=[LINK_LOCAL], clock=clock)
    made.add_service(SERVICE)
    for each in (A, B, C):
        made.add_destination(KEY, Destination(each))
    return made


def order(director: Director) -> list[DestinationKey]:
    """The destinations as the table has them."""
    return [row.destination.key for row in director.service(KEY).destinations]


def row_of(director: Director, key: DestinationKey) -> DestinationRow:
    """One destination with its counts."""
    return next(row for row in director.service(KEY).destinations if row.destination.key == key)


def test_it_is_a_director(director: MemoryDirector) -> None:
    as_protocol: Director = director
    assert as_protocol.table_size() == 4096


def test_the_newest_destination_comes_first(director: MemoryDirector) -> None:
    assert order(director) == [C, B, A]


def test_an_edit_keeps_the_position_and_a_second_addition_does_not(director: MemoryDirector) -> None:
    director.edit_destination(KEY, Destination(A, weight=5))
    assert order(director) == [C, B, A]
    director.delete_destination(KEY, A)
    director.add_destination(KEY, Destination(A))
    assert order(director) == [A, C, B]


def test_services_differ_by_protocol_address_port_mark_and_family(director: MemoryDirector) -> None:
    keys = [
        KEY,
        replace(KEY, protocol=Protocol.UDP),
        replace(KEY, port=81),
        KEY_V6,
        ServiceKey.of_mark(1),
        ServiceKey.of_mark(1, KEY_V6.family),
        ServiceKey.of_mark(2),
    ]
    for key in keys[1:]:
        director.add_service(VirtualService(key))
    assert {row.service.key for row in director.services()} == set(keys)
    for key in keys:
        with pytest.raises(ServiceExists):
            director.add_service(VirtualService(key))


def test_an_edited_service_is_new_but_for_its_destinations(director: MemoryDirector) -> None:
    persistent = VirtualService(KEY, "wlc", ServiceFlag.PERSISTENT, 60)
    director.edit_service(persistent)
    assert director.service(KEY).service == persistent
    assert order(director) == [C, B, A]


def test_what_is_not_there_is_named(director: MemoryDirector) -> None:
    absent_service, absent_destination = replace(KEY, port=81), DestinationKey(A.address, 81)
    for act in (
        lambda: director.edit_service(VirtualService(absent_service)),
        lambda: director.delete_service(absent_service),
        lambda: director.zero(absent_service),
        lambda: director.service(absent_service),
        lambda: director.add_destination(absent_service, Destination(A)),
        lambda: director.delete_destination(absent_service, A),
    ):
        with pytest.raises(NoSuchService, match=r"192\.0\.2\.1:81"):
            act()
    with pytest.raises(NoSuchDestination, match=r"198\.51\.100\.11:81"):
        director.edit_destination(KEY, Destination(absent_destination))
    with pytest.raises(NoSuchDestination, match=r"198\.51\.100\.11:81"):
        director.delete_destination(KEY, absent_destination)
    with pytest.raises(DestinationExists):
        director.add_destination(KEY, Destination(A, Method.MASQ))


def test_only_known_schedulers_and_engines() -> None:
    director = MemoryDirector(schedulers=("rr",), engines=())
    director.add_service(VirtualService(KEY, "rr"))
    director.edit_service(VirtualService(KEY, "none"))
    with pytest.raises(NoSuchScheduler):
        director.edit_service(VirtualService(KEY, "sh"))
    with pytest.raises(NoSuchScheduler):
        director.edit_service(VirtualService(KEY, "rr", engine="sip"))
    assert director.service(KEY).service.scheduler == "none"


@pytest.mark.parametrize("prefix", [0, 129])
def test_a_prefix_length_has_its_bounds(director: MemoryDirector, prefix: int) -> None:
    with pytest.raises(InvalidOperation):
        director.add_service(VirtualService(KEY_V6, netmask=prefix))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"weight": -1}, OutOfRange),
        ({"weight": 2**31}, OutOfRange),
        ({"lower": 1}, OutOfRange),
        ({"upper": 5, "lower": 6}, OutOfRange),
        ({"upper": 2**31}, InvalidOperation),
        ({"method": Method.TUNNEL, "tunnel": Tunnel(TunnelKind.GUE)}, InvalidOperation),
    ],
)
def test_values_out_of_bounds_change_nothing(
    director: MemoryDirector, wrong: dict[str, object], error: type[Exception]
) -> None:
    before = director.services()
    for destination in (Destination(A), Destination(DestinationKey(A.address, 81))):
        bad = replace(destination, **wrong)  # type: ignore[arg-type]  # a table of fields has no one type
        with pytest.raises(error):
            director.add_destination(KEY, bad)
        with pytest.raises(error):
            director.edit_destination(KEY, bad)
    assert director.services() == before


@pytest.mark.parametrize(
    ("address", "taken"),
    [
        ("0.0.0.0", False),
        ("0.1.2.3", False),
        ("224.0.0.1", False),
        ("239.255.255.255", False),
        ("255.255.255.255", False),
        (str(BROADCAST), False),
        ("127.0.0.1", True),
        ("240.0.0.1", True),
        ("198.51.100.0", True),
        ("::", False),
        ("ff02::1", False),
        ("fe80::2", False),
        (str(LINK_LOCAL), True),
        ("::ffff:198.51.100.11", False),
        ("::1", True),
        ("::198.51.100.11", True),
        ("fc00::1", True),
        ("2001:db8::7", True),
    ],
)
def test_a_real_server_is_a_single_host(director: MemoryDirector, address: str, taken: bool) -> None:
    server = IPv6Address(address) if ":" in address else IPv4Address(address)
    key = KEY if server.version == 4 else KEY_V6
    if key is KEY_V6:
        director.add_service(VirtualService(KEY_V6))
    destination = Destination(DestinationKey(server, 80))
    if taken:
        director.add_destination(key, destination)
    else:
        with pytest.raises(InvalidOperation):
            director.add_destination(key, destination)


def test_the_other_family_is_reached_by_tunnels_only(director: MemoryDirector) -> None:
    server = DestinationKey(IPv6Address("2001:db8::11"), 80)
    for method in (Method.ROUTE, Method.MASQ):
        with pytest.raises(InvalidOperation):
            director.add_destination(KEY, Destination(server, method))
    director.add_destination(KEY, Destination(server, Method.TUNNEL))
    with pytest.raises(InvalidOperation):
        director.edit_destination(KEY, Destination(server, Method.ROUTE))


def test_a_deleted_destination_comes_back_with_its_counts(director: MemoryDirector) -> None:
    director.count(KEY, A, active=1, inactive=2, counters=SEEN)
    director.delete_destination(KEY, A)
    director.add_destination(KEY, Destination(A, Method.MASQ, weight=7))
    assert row_of(director, A) == DestinationRow(Destination(A, Method.MASQ, weight=7), 1, 2, 0, SEEN)


def test_under_a_service_made_anew_its_statistics_start_again(director: MemoryDirector) -> None:
    director.count(KEY, A, inactive=2, counters=SEEN)
    director.flush()
    director.add_service(SERVICE)
    director.add_destination(KEY, Destination(A))
    assert row_of(director, A) == DestinationRow(Destination(A), inactive=2)


@pytest.mark.parametrize(("after_s", "remembered"), [(90, True), (172, True), (188, False)])
def test_without_references_it_is_forgotten_in_time(
    director: MemoryDirector, clock: Clock, after_s: float, remembered: bool
) -> None:
    director.count(KEY, A, counters=SEEN)
    director.delete_destination(KEY, A)
    clock.now_s += after_s
    director.add_destination(KEY, Destination(A))
    assert row_of(director, A).counters == (SEEN if remembered else Counters())


def test_with_references_it_is_never_forgotten(director: MemoryDirector, clock: Clock) -> None:
    director.count(KEY, A, inactive=1, counters=SEEN)
    director.delete_destination(KEY, A)
    clock.now_s += 100_000
    director.add_destination(KEY, Destination(A))
    assert row_of(director, A).inactive == 1


def test_zero_is_for_one_service_or_for_all(director: MemoryDirector) -> None:
    other = replace(KEY, port=81)
    director.add_service(VirtualService(other))
    for key in (KEY, other):
        director.count_service(key, SEEN)
    director.count(KEY, A, active=3, counters=SEEN)
    director.zero(KEY)
    assert director.service(KEY).counters == Counters()
    assert row_of(director, A) == DestinationRow(Destination(A), active=3)
    assert director.service(other).counters == SEEN
    director.zero()
    assert director.service(other).counters == Counters()


def test_timeouts_settings_and_connections_are_kept(director: MemoryDirector) -> None:
    director.set_timeouts(Timeouts(1, 2, 3))
    assert director.timeouts() == Timeouts(1, 2, 3)
    director.set_timeouts(Timeouts(0, 0, 15))
    assert director.timeouts() == Timeouts(1, 2, 15)
    director.change_setting("net.ipv4.vs.sloppy_tcp", 1)
    assert director.settings()["sloppy_tcp"] == 1
    with pytest.raises(NoSuchSetting):
        director.change_setting("sloppy", 1)
    one = Connection(6, "ESTABLISHED", 899, A.address, 1024, KEY.address, 80, B.address, 80)
    director.put_connections([one])
    with director.batch():
        assert list(director.connections()) == [one]


def test_the_latest_call_counts_and_every_call_is_recorded() -> None:
    memory = MemoryRoles()
    roles: Roles = memory
    assert not memory.standby | memory.held
    roles.set_standby(frozenset({ONE, OTHER}))
    roles.set_standby(frozenset({ONE}), frozenset({ONE, OTHER}))
    assert memory.standby == {ONE}
    assert memory.held == {OTHER}
    assert [standby for standby, _ in memory.calls] == [{ONE, OTHER}, {ONE}]


def test_an_error_changes_nothing() -> None:
    roles = MemoryRoles()
    roles.error = Busy("not now")
    with pytest.raises(Busy, match="not now"):
        roles.set_standby(frozenset({ONE}))
    assert roles.calls == []

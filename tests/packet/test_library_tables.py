"""Any table of any services is applied as a whole."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

import pylvs
from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.dataplane.transaction import recover
from tests.packet.host import VIP4, VIP6, Host, server4, server6

MOST = 6  # real servers that a service may have


def servers(key: pylvs.ServiceKey) -> st.SearchStrategy[list[pylvs.Server]]:
    """Return lists of servers that a service can have."""
    address = server4 if key.address.version == 4 else server6
    limits = st.sampled_from([(0, 0), (5, 0), (9, 3)])

    def server(
        number: int, weight: int, forwarding: pylvs.Forwarding, limit: tuple[int, int], gue: bool
    ) -> pylvs.Server:
        tunnel = pylvs.Tunnel("gue", 6080, checksum=True) if gue and forwarding == "tun" else None
        upper, lower = limit
        made = address(number), key.port if number % 2 or forwarding != "nat" else 8080
        return pylvs.Server(*made, weight=weight, forwarding=forwarding, upper=upper, lower=lower, tunnel=tunnel)

    numbers, weights = st.integers(1, MOST), st.sampled_from([0, 1, 1, 5, 10])
    methods = st.sampled_from([pylvs.Forwarding(each) for each in ("dr", "dr", "nat", "tun", "local")])
    built = st.builds(server, numbers, weights, methods, limits, st.booleans())
    return st.lists(built, max_size=MOST, unique_by=lambda each: each.key)


KEYS = [
    *(pylvs.ServiceKey("tcp", VIP4, port) for port in (80, 81, 82)),
    pylvs.ServiceKey("udp", VIP4, 53),
    pylvs.ServiceKey("sctp", VIP6, 80),
    pylvs.ServiceKey("tcp", VIP6, 80),
    pylvs.ServiceKey.of_mark(7),
    pylvs.ServiceKey.of_mark(7, version=6),
]


@st.composite
def a_service(draw: st.DrawFn, key: pylvs.ServiceKey) -> pylvs.Service:
    """Return any service with this key."""
    masks = [None, 24, "255.0.255.0"] if key.address.version == 4 else [None, 64]
    persistence = draw(st.none() | st.builds(pylvs.Persistence, st.integers(1, 600), st.sampled_from(masks)))
    flags = pylvs.Flag.FALLBACK | pylvs.Flag.PORT
    return pylvs.Service(
        key.protocol,
        key.address,
        key.port,
        draw(servers(key)),
        scheduler=draw(st.sampled_from([*SCHEDULERS, "none"])),
        persistence=persistence,
        flags=draw(st.sampled_from([pylvs.Flag(0), flags])),
        mark=key.mark,
    )


tables = st.sets(st.sampled_from(KEYS)).flatmap(lambda keys: st.tuples(*map(a_service, sorted(keys, key=str))))


def books(host: Host) -> tuple[object, ...]:
    """Return what an edit must leave as it was, if it fails."""
    director = host.director
    found = director.versions.facts()
    lists = [[each.destination for each in row.destinations] for row in director.services()]
    counts = [each.counters for row in director.services() for each in row.destinations]
    return director.versions.live, list(found.get("services")), found.get("marks"), lists, counts


@settings(max_examples=12)
@given(st.lists(tables, min_size=1, max_size=4))
def test_any_table_is_applied_as_a_whole(shared: Host, states: list[tuple[pylvs.Service, ...]]) -> None:
    """The table is as desired, the difference exact, a second apply empty, and the bookkeeping that of single edits."""
    with pylvs.Director() as director:
        director.clear()
        for desired in states:
            before = director.services()
            expected = pylvs.difference(before, desired)
            assert director.apply(desired, dry_run=True) == expected
            assert director.services() == before, "a dry run changes nothing"
            live = shared.director.versions.live
            assert director.apply(desired) == expected
            assert shared.director.versions.live == live + bool(expected), "one store puts it in force"
            assert set(director.services()) == set(desired)
            assert not director.apply(desired)
            follows(expected, before, desired)
            read = books(shared)
            recover(shared.director.tables)
            assert books(shared) == read, "what a recovery derives from the tables is there already"


def follows(found: pylvs.Difference, before: tuple[pylvs.Service, ...], after: tuple[pylvs.Service, ...]) -> None:
    """Assert that a difference leads from one table to the other."""
    table = {each.key: each for each in before}
    for each in found.removed:
        assert table.pop(each.key) == each
    table |= {each.key: each for each in found.added}
    for edited in found.edited:
        assert edited.before is not None
        assert edited.after is not None
        held = {each.key: each for each in table[edited.key].servers}
        for server in edited.removed:
            assert held.pop(server.key) == server
        for former, latter in edited.edited:
            assert held[latter.key] == former
            held[latter.key] = latter
        assert not held.keys() & {each.key for each in edited.added}
        held |= {each.key: each for each in edited.added}
        assert set(held.values()) == set(edited.after.servers)
        table[edited.key] = edited.after
    assert set(table.values()) == set(after)
    assert bool(found) == (set(before) != set(after))
    assert bool(str(found)) == bool(found)

"""A long-lived Director sees what peers do to the tables, and what changes around them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from ipaddress import ip_address
from unittest import mock

import pytest

from pylvs.dataplane import load
from pylvs.dataplane.devices import attach
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import State
from pylvs.dataplane.upgrade import upgrade
from pylvs.model.errors import Busy, NoSuchService, ServiceExists
from pylvs.model.service import Destination, DestinationKey, ServiceChange, VirtualService
from tests.packet.frames import tcp
from tests.packet.host import HOOKS, PASSED, SENT, Host, ip, key, new_host, server4
from tests.waiting import until


def peer() -> BpfDirector:
    return BpfDirector(State.open())


def test_the_edition_changes_with_every_edit_of_any_process(director_host: Host) -> None:
    mine, service = director_host.director, director_host.new_key()
    seen = [mine.edition()]
    assert mine.edition() == seen[0] != 0
    peer().add_service(VirtualService(service))
    seen.append(mine.edition())
    peer().edit_service(VirtualService(service, "rr"))
    seen.append(mine.edition())
    mine.add_destination(service, Destination(DestinationKey(ip_address(server4(1)), 80)))
    seen.append(mine.edition())
    with mine.batch():
        mine.delete_service(service)
        seen.append(mine.edition())
    with pytest.raises(NoSuchService):
        mine.delete_service(service)
    with mine.batch():
        pass
    list(mine.connections()), mine.services()
    assert mine.edition() == seen[-1] == peer().edition()
    assert len(set(seen)) == len(seen)


def test_the_next_edit_makes_removed_tables_again() -> None:
    with new_host() as host:
        mine, service = host.director, key(80)
        host.serve(service)
        before = mine.edition()
        load.take_down(State.open())
        assert mine.edition() == 0
        assert mine.services() == []
        host.serve(service)
        assert mine.edition() not in (0, before)
        assert len(peer().service(service).destinations) == 1
        load.take_down(State.open())
        peer().add_service(VirtualService(key(81)))  # the peer makes tables while this director still has the old ones
        assert [row.service.key for row in mine.services()] == [key(81)]
        mine.delete_service(key(81))
        assert peer().services() == []


def test_a_director_that_found_no_tables_finds_them_later() -> None:
    with new_host() as host:
        load.take_down(host.director.state)
        early = peer()
        assert (early.edition(), early.services()) == (0, [])
        peer().add_service(VirtualService(key(80)))
        assert early.edition()
        assert [row.service.key for row in early.services()] == [key(80)]


def edit_before_lock(director: BpfDirector, edit: Callable[[], object]) -> AbstractContextManager[object]:
    """Let another process edit after the next edit's first check, and before it has the lock."""
    editor = director._editor
    batch = editor.batch

    @contextmanager
    def late() -> Iterator[None]:
        patched.stop()
        edit()
        with batch():
            yield

    patched = mock.patch.object(editor, "batch", late)
    return patched


def destination(number: int) -> Destination:
    return Destination(DestinationKey(ip_address(server4(number)), 80))


def test_a_service_that_another_process_adds_before_the_lock_is_not_replaced(director_host: Host) -> None:
    mine, service = director_host.director, VirtualService(director_host.new_key())

    def edit() -> None:
        other = peer()
        other.add_service(service)
        other.add_destination(service.key, destination(2))

    change = ServiceChange(service.key, service, is_new=True, added=(destination(1),))
    with edit_before_lock(mine, edit), pytest.raises(ServiceExists):
        mine.apply([change])
    (row,) = mine.services()
    assert [each.destination for each in row.destinations] == [destination(2)]


def test_counters_of_what_another_process_changes_before_the_lock_are_zeroed(director_host: Host) -> None:
    mine, service = director_host.director, director_host.new_key()
    director_host.serve(service, 1)
    with edit_before_lock(mine, lambda: peer().delete_service(service)), pytest.raises(NoSuchService):
        mine.zero(service)


def test_down_removes_the_tables_while_it_has_their_lock() -> None:
    with new_host() as host:
        state = host.director.state
        remove = State.remove

        def removed(self: State) -> None:
            with pytest.raises(Busy), State.open().lock(0):
                pass
            remove(self)

        with mock.patch.object(State, "remove", removed):
            load.take_down(state)
        assert not state.exists


def test_an_edit_that_waits_while_the_tables_are_removed_is_refused() -> None:
    with new_host() as host:
        mine = host.director
        host.serve(key(80))
        with (
            mock.patch.object(mine._editor, "make", side_effect=lambda: load.take_down(State.open())),
            pytest.raises(Busy, match="removed the tables"),
        ):
            mine.flush()
        host.serve(key(81))
        assert [row.service.key for row in peer().services()] == [key(81)]


def test_an_address_that_comes_after_the_service_is_served() -> None:
    vip = "10.77.0.200"
    with new_host() as host:
        mine, service = host.director, key(80, vip=vip)
        host.serve(service)
        frame = tcp(target=vip, dport=80)
        assert host.run(frame, "xdp").verdict == PASSED["xdp"]
        ip("link", "add", "e0", "type", "veth", "peer", "name", "e1")
        ip("link", "set", "e0", "up")
        ip("addr", "add", f"{vip}/32", "dev", "e0")
        assert "e0" not in {each.device for each in attach.attached(mine.state)}
        edition = mine.edition()
        mine.follow_host()
        assert mine.edition() == edition, "the table is the same"
        assert "e0" in {each.device for each in attach.attached(mine.state)}
        # packets may use addresses of this host as they were a tick before
        until(lambda: any(host.run(frame, hook).verdict in SENT[hook] for hook in HOOKS), "a new address")
        ip("link", "del", "e0")
        mine.follow_host()
        ports = itertools.count(5000)
        until(
            lambda: host.run(tcp(target=vip, dport=80, sport=next(ports)), "xdp").verdict == PASSED["xdp"],
            "an address that is gone",
        )


@pytest.mark.parametrize("grows", [False, True])
def test_edits_after_a_change_of_the_capacity_under_the_same_lock_use_the_new_tables(grows: bool) -> None:
    """Thresholds are in the maps that are made again."""
    with new_host(connections=1024) as host:
        mine, service = host.director, key(80)
        (server,) = host.serve(service)
        with mine.batch():
            before = mine.services()
            if grows:
                with mock.patch.object(upgrade, "larger_capacity", return_value=2048):
                    assert mine.grow() == (1024, 2048)
            else:
                mine.change_setting("conn_max", 2048)
            after = mine.services()
            mine.edit_destination(service, Destination(server, upper=5))
            capacity = mine.settings()["conn_max"]
        host.close_programs()
        assert peer().tables.conn_counts.get(0, "upper") == 5
        assert (after, capacity) == (before, 2048)


def test_edits_after_a_refused_change_of_the_capacity_use_the_tables_in_force() -> None:
    with new_host(connections=2048, expires=False) as host:
        mine, service = host.director, key(80)
        (server,) = host.serve(service)
        for sport in range(1024, 1024 + 1100):
            host.run(tcp(sport=sport, dport=80), "tc")
            host.run(tcp("A", sport=sport, dport=80), "tc")
        with mine.batch():
            mine.services()
            with pytest.raises(Busy):
                mine.change_setting("conn_max", 1024)
            mine.edit_destination(service, Destination(server, upper=5))
        assert peer().settings()["conn_max"] == 2048
        assert peer().tables.conn_counts.get(0, "upper") == 5

"""The stored roles of several instances of pylvs-vrrp in one network namespace."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.dataplane import state, vip_roles
from pylvs.dataplane.vip_roles import Keeper, VipRoles, forget, stored
from pylvs.model.errors import Busy

COOKIE = 7
ONE, TWO, THREE = (ip_address(f"192.0.2.{number}") for number in (1, 2, 3))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep the roles in a directory of the test."""
    for module in (state, vip_roles):
        monkeypatch.setattr(module, "ROLES", str(tmp_path / "roles"))
    yield tmp_path / "roles"
    forget(COOKIE)
    assert not (tmp_path / "roles").exists()


def roles(standby: set[object], held: set[object]) -> VipRoles:
    return VipRoles(frozenset(standby), frozenset(held))  # type: ignore[arg-type]


def kill(keeper: Keeper) -> None:
    """Release the lock as the kernel does when a process ends."""
    keeper.keep(roles({TWO}, set()))
    os.close(keeper._alive)


def test_the_roles_of_all_instances_count() -> None:
    blue, plain = Keeper(COOKIE, "blue"), Keeper(COOKIE)
    blue.keep(roles({ONE}, {TWO}))
    plain.keep(roles({THREE}, set()))
    assert stored(COOKIE) == roles({ONE, THREE}, {TWO})
    assert plain.with_others(roles(set(), {THREE})) == roles({ONE}, {TWO, THREE})
    blue.close()
    assert stored(COOKIE) == roles({THREE}, set())
    plain.close()
    assert stored(COOKIE) is None


def test_an_address_that_one_instance_has_in_standby_is_standby() -> None:
    blue, red = Keeper(COOKIE, "blue"), Keeper(COOKIE, "red")
    blue.keep(roles({ONE}, set()))
    red.keep(roles(set(), {ONE}))
    assert stored(COOKIE) == roles({ONE}, set())
    blue.close()
    red.close()


def test_one_process_writes_for_an_instance() -> None:
    first = Keeper(COOKIE, "blue")
    with pytest.raises(Busy, match="another process runs the virtual routers of this network namespace"):
        Keeper(COOKIE, "blue")
    first.close()
    Keeper(COOKIE, "blue").close()


def test_the_files_of_a_killed_writer_are_removed() -> None:
    kill(Keeper(COOKIE))
    assert stored(COOKIE) is None
    forget(COOKIE)
    assert not os.path.exists(state.roles_directory(COOKIE))


def test_the_files_of_a_writer_that_starts_at_this_moment_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes remove a killed writer's files, and a new writer starts before the second one has the lock."""
    kill(Keeper(COOKIE))
    started = list[Keeper]()
    locked = fcntl.fcntl

    def lock_late(*arguments: Any) -> Any:
        if not started:
            monkeypatch.setattr(fcntl, "fcntl", locked)
            forget(COOKIE)
            started.append(Keeper(COOKIE))
            started[0].keep(roles({ONE}, set()))
        return locked(*arguments)

    monkeypatch.setattr(fcntl, "fcntl", lock_late)
    forget(COOKIE)
    assert stored(COOKIE) == roles({ONE}, set())
    started[0].close()

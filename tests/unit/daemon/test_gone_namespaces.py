"""The state directory of a daemon is removed with its network namespace, unless something there is still needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pylvs.daemon import gone_namespaces, units
from pylvs.daemon.leftovers import Namespaces
from pylvs.daemon.state import directory
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.saved import save_owned
from pylvs.dataplane.state import NAMESPACE_GONE
from pylvs.system import lock
from pylvs.vrrp import PID_FILE
from tests.unit.daemon.daemons import WEB

GONE, ANOTHER = 7, 8  # cookies


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateDirectory:
    """Return the directory of a killed daemon, whose namespace is gone."""
    root = tmp_path / "daemon"
    monkeypatch.setattr(directory, "STATE_ROOT", root)
    monkeypatch.setattr(gone_namespaces, "STATE_ROOT", root)
    monkeypatch.setattr(gone_namespaces, "collect_dead_states", list)
    monkeypatch.setattr(units, "UNITS", tmp_path / "units")
    made = StateDirectory(root / f"net{GONE}-blue")
    made.acquire()
    made.abandon()
    (made.path / NAMESPACE_GONE).touch()
    save_owned(made, {WEB: frozenset()})
    Namespaces(("", GONE), ("", GONE)).save(made)
    return made


def test_it_is_removed(state: StateDirectory) -> None:
    another = StateDirectory(state.path.with_name(f"net{ANOTHER}"))
    another.acquire()
    another.abandon()
    gone_namespaces.collect()
    assert not state.path.exists()
    assert another.path.exists()


def _damage(state: StateDirectory) -> None:
    state.file(directory.NAMESPACES_FILE).write_text("{")


def _note_for_unit(state: StateDirectory) -> None:
    folder = state.path.parents[1] / "units"
    folder.mkdir()
    (folder / "pylvs.service").symlink_to(state.path)


NEEDED: dict[str, Callable[[StateDirectory], object]] = {
    "the daemon lives": StateDirectory.acquire,
    "pylvs-vrrp lives": lambda state: lock.claim(state.path / PID_FILE),
    "its services are elsewhere": Namespaces(("", GONE), ("/run/netns/blue", ANOTHER)).save,
    "where its services are is unknown": _damage,
    "its unit continues with the overrides": _note_for_unit,
}


@pytest.mark.parametrize("why", NEEDED)
def test_it_stays_if(why: str, state: StateDirectory) -> None:
    held = NEEDED[why](state)
    gone_namespaces.collect()
    assert (state.path / "services.json").exists()
    state.abandon()
    if isinstance(held, int):
        os.close(held)


def test_it_is_removed_once_nothing_is_left_elsewhere(state: StateDirectory) -> None:
    Namespaces(("", GONE), ("/run/netns/blue", ANOTHER)).save(state)
    state.write(directory.SERVICES_FILE, None)
    gone_namespaces.collect()
    assert not state.path.exists()

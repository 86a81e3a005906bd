"""What a daemon left is ended in its own network namespace, and in no other one."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from pylvs.daemon import leftovers
from pylvs.daemon.leftovers import Namespaces, delete_services, entered
from pylvs.daemon.state import directory
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.saved import load_owned, save_owned
from pylvs.model.errors import PylvsError
from pylvs.model.service import ServiceKey
from tests.unit.daemon.daemons import WEB

HERE, OURS, ANOTHER = 1, 2, 3  # cookies


class Host:
    """Stands in for the kernel: the namespace of this thread, and the cookie of the one that is named."""

    def __init__(self) -> None:
        self.present, self.named = HERE, OURS

    @contextlib.contextmanager
    def inside(self, _: str) -> Iterator[None]:
        self.present = self.named
        yield
        self.present = HERE


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Host:
    made = Host()
    monkeypatch.setattr(leftovers, "network_cookie", lambda: made.present)
    monkeypatch.setattr(leftovers, "inside_network", made.inside)
    monkeypatch.setattr(directory, "STATE_ROOT", tmp_path)
    return made


@pytest.mark.parametrize(("named", "there"), [(OURS, True), (ANOTHER, False)])
def test_a_namespace_is_known_by_its_cookie(named: int, there: bool, kernel: Host, tmp_path: Path) -> None:
    state = StateDirectory(tmp_path)
    kernel.named = named
    Namespaces(("/run/netns/blue", OURS), ("/run/netns/blue", OURS)).save(state)
    with entered(state, "daemon") as found:
        assert (found, kernel.present) == (there, named)


@pytest.mark.parametrize(
    ("name", "refused"),
    [(f"net{OURS}", True), (f"net{OURS}-blue", True), (f"net{HERE}-blue", False), ("elsewhere", False)],
)
def test_without_a_note_a_default_directory_names_its_namespace(
    name: str, refused: bool, kernel: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = StateDirectory(tmp_path / name)
    state.acquire()
    save_owned(state, {WEB: frozenset()})
    deleted = list[int]()

    def delete_owned(owned: Collection[ServiceKey]) -> int:
        deleted.append(kernel.present)
        return len(owned)

    monkeypatch.setattr(leftovers, "_delete_owned", delete_owned)
    expected = pytest.raises(PylvsError, match="is not this one: run this command there") if refused else None
    with expected or contextlib.nullcontext():
        delete_services(state, lambda _: None)
    assert deleted == ([] if refused else [HERE])
    assert bool(load_owned(state)) is refused
    state.abandon()

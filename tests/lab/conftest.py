"""Labs for tests, which remove them in any case."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pylvs.lab.lab import Lab, build, take_down
from pylvs.lab.plan import read_overrides
from pylvs.lab.topologies import design
from tests.lab.recycled_labs import labs
from tests.lab.support import remains, unique
from tests.waiting import PATIENCE_S

MakeLab = Callable[..., Lab]
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the timeout of clients in this process: a daemon on a busy machine may reply late."""
    monkeypatch.setattr("pylvs.daemon.api.client.READ_TIMEOUT_S", PATIENCE_S)


@pytest.fixture(scope="session", autouse=True)
def _recycled_loads() -> Iterator[None]:
    with labs.recycling():
        yield


def new_name() -> str:
    """Return a name for a lab of these tests."""
    return unique(next(_numbers))


@pytest.fixture
def lab_name() -> Iterator[str]:
    """Return a name. Remove a lab with this name, and assert that nothing remains."""
    name = new_name()
    yield name
    take_down(name)
    assert remains(name) == []


@pytest.fixture
def make_lab(lab_name: str) -> MakeLab:
    """Return a function that makes a lab from topology, servers, version, and fields of a plan."""

    def make(
        topology: str,
        servers: int | list[str] = 3,
        version: int = 4,
        bare: bool = False,
        blank: bool = False,
        **plan: Any,
    ) -> Lab:
        if isinstance(servers, list):
            plan["servers"], servers = servers, len(servers)
        network = design(topology, servers, version, read_overrides(plan))
        return build(lab_name, network, bare=bare, blank=blank)

    return make

"""Hosts for tests of the packet path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.packet import host
from tests.packet.host import Host, new_host


@pytest.fixture(autouse=True)
def current_counters() -> Iterator[None]:
    """Let listings count all packets. A file whose tests need the estimator's snapshots overrides this."""
    with host.current_counters():
        yield


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    """Return one host for all tests of a file. Connections stay between tests."""
    with new_host(expires=False, recycled=True) as made:
        yield made


@pytest.fixture
def director_host(shared: Host) -> Iterator[Host]:
    """Return the file's host with an empty table; connections of earlier tests may remain.

    Those of the services that a test leaves end: devices would stay attached as they need them.
    """
    yield shared
    director = shared.director
    before = director.settings()["expire_nodest_conn"]
    director.change_setting("expire_nodest_conn", 1)
    director.flush()
    director.change_setting("expire_nodest_conn", before)

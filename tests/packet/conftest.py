"""Hosts for tests of the packet path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.packet.host import Host, new_host


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    """One host for all tests of a file. Its connections stay: no test there is about their end."""
    with new_host(expires=False) as made:
        yield made


@pytest.fixture
def director_host(shared: Host) -> Iterator[Host]:
    """The file's host with an empty table; connections of former tests may still be there."""
    yield shared
    shared.director.flush()

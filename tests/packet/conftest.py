"""Hosts for tests of the packet path."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest

from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.reader import Reader
from tests.packet.host import Host, count_packets, new_host


@pytest.fixture(autouse=True)
def current_counters() -> Iterator[None]:
    """Let listings count all packets until now. The estimator counts them every two seconds.

    A file whose tests need the estimator's snapshots overrides it.
    """
    reader = vars(BpfDirector)["reader"].fget

    def current(director: BpfDirector) -> Reader:
        found: Reader = reader(director)
        count_packets(found.tables)
        return found

    with mock.patch.object(BpfDirector, "reader", property(current)):
        yield


@pytest.fixture(scope="module")
def shared() -> Iterator[Host]:
    """Return one host for all tests of a file. Connections stay between tests."""
    with new_host(expires=False) as made:
        yield made


@pytest.fixture
def director_host(shared: Host) -> Iterator[Host]:
    """Return the file's host with an empty table; connections of earlier tests may remain."""
    yield shared
    shared.director.flush()

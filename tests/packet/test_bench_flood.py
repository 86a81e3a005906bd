"""The bench of a flood counts the connections that survive it. The test asserts no speed."""

from __future__ import annotations

import pytest

from bench.flood import Kind, Size, kinds, measure_one
from pylvs.model.service import Method, Protocol

SMALL = Size(1 << 12, 8, 1000)


@pytest.mark.parametrize("kind", [Kind(Protocol.TCP, Method.MASQ), Kind(Protocol.UDP, Method.ROUTE)])
def test_connections_survive_a_flood(kind: Kind) -> None:
    found = measure_one(kind, SMALL, None, {})
    assert (found.unharmed, found.successful, found.verdict) == (1, 1, "")
    assert found.cells()[-2] == f"{found.life:,}"
    assert found.life > SMALL.capacity // 16


@pytest.mark.nightly("the gate has one flood of each protocol")
@pytest.mark.parametrize("kind", list(kinds()))
def test_connections_survive_every_flood(kind: Kind) -> None:
    assert not measure_one(kind, SMALL, None, {}).verdict

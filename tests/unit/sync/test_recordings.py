"""Malformed messages: `wire.parse` takes the connections that the real IPVS's backup took (tests/golden)."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pylvs.model.addresses import endpoint
from pylvs.model.director import TCP_STATES
from pylvs.model.sync.connection import SyncedConnection, SyncFlag
from pylvs.sync import wire

ORACLE, GOLDEN = (Path(__file__).parents[2] / name for name in ("oracle", "golden"))
sys.path.insert(0, str(ORACLE))

import sync  # noqa: E402  -- the oracle's own modules, once their directory is on the path
from families import sync_backup  # noqa: E402
from plan import plan  # noqa: E402
from wire import Wire  # noqa: E402

_MAC_AND_HEADERS = {4: 14 + 20 + 8, 6: 14 + 40 + 8}


class Taken(Wire):
    """The wire of the scenario, whose backup keeps what `wire.parse` returns."""

    def __init__(self) -> None:
        self.plan = plan(9)
        self.table: dict[str, SyncedConnection] = {}
        self.counts: Counter[str] = Counter()

    def fresh(self, **_: Any) -> None:
        pass

    def ipvsadm(self, *lines: str) -> None:
        pass

    def note(self, *_: Any) -> None:
        pass

    def rows(self, options: str = "") -> list[str]:
        return []

    def age(self) -> float:
        return 0.0

    def emit(self, sent: Iterable[bytes]) -> list[bytes]:
        for frame in sent:
            facts = frame[14:]
            assert facts[9 if facts[0] >> 4 == 4 else 6] == 17
            start = _MAC_AND_HEADERS[facts[0] >> 4]
            to, port = facts[16:20], int.from_bytes(frame[start - 6 : start - 4], "big")
            if to != bytes((224, 0, 0, 81)) or port != sync.PORT:
                continue  # the socket does not receive it
            for each in wire.parse(frame[start:], 6, self.counts):
                self.table[endpoint(each.client, each.client_port)] = each
        return []

    def connections(self) -> list[dict[str, Any]]:
        return [
            {
                "client": client,
                "state": "NONE" if each.flags & SyncFlag.TEMPLATE else TCP_STATES[each.state],
                "dest": endpoint(each.server, each.server_port),
            }
            for client, each in self.table.items()
        ]


@pytest.mark.parametrize("family", [4, 6])
def test_the_same_connections_are_taken(family: int) -> None:
    recorded = {step["step"]: step.get("taken") for step in json.loads((GOLDEN / "sync_backup.json").read_text())}
    taken = Taken()
    with mock.patch("time.sleep"):
        steps = sync_backup.malformed(taken, taken.plan, family=family)
    now = {step["step"]: step["taken"] for step in steps if "taken" in step}
    assert len(now) > 30
    assert now == {step: recorded[step] for step in now}
    assert taken.counts.keys() == {"messages", "connections", *wire.COUNTERS}

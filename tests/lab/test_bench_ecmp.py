"""With sync among four directors, all connections stay when one is killed, added, leaves or joins: even with rr."""

from __future__ import annotations

import pytest

from bench.ecmp.trial import EVENTS, SERVERS, play
from tests.lab.conftest import MakeLab


@pytest.mark.nightly("several sync daemons in a lab take a minute; the gate plays the events without sync")
@pytest.mark.timeout(900)
def test_with_sync_all_connections_stay_when_directors_die_join_and_leave(make_lab: MakeLab) -> None:
    lab = make_lab("ecmp", SERVERS, scheduler="rr")
    found = list(play(lab, sync=True, count=40))
    assert [(each.event, each.kept) for each in found] == [(event, 40) for event in EVENTS]

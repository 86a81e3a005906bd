"""A split brain heals: one of two masters remains, and every neighbor finds it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop import keepalived
from tests.interop.vrrp.cell import PATIENCE_S, POLL_S, answered
from tests.interop.vrrp.observer import Observer
from tests.interop.vrrp.routers import KEEPALIVED, PYLVS, router
from tests.interop.vrrp.rows import PRIORITY, VRID, Row
from tests.interop.vrrp.segment import Segment, mac, port, segment

# keepalived says nothing when it steps down. Its winner may have received nothing: it announces itself by
# garp_master_refresh.
CASES = {
    "pylvs, pylvs": (Row("split"), PYLVS, PYLVS),
    "keepalived, pylvs": (Row("split"), KEEPALIVED, PYLVS),
    "pylvs, keepalived": (Row("split", first="garp_master_refresh 1"), PYLVS, KEEPALIVED),
}


@pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES)
def test_the_winner_of_a_healed_split_brain_announces_its_addresses(case: str, tmp_path: Path) -> None:
    """It heals just after the loser's advertisement, so that mostly the loser receives one of the winner first."""
    row, winner, loser = CASES[case]
    with segment() as where, Observer(where) as observer:
        a, b = router(winner, where, "a", tmp_path / "a"), router(loser, where, "b", tmp_path / "b")

        def until(holds: Callable[[], bool], what: str) -> None:
            deadline = time.monotonic() + PATIENCE_S
            while not holds():
                logs = [f"{each.host}: {line}" for each in (a, b) for line in each.log()[-8:]]
                assert time.monotonic() < deadline, "\n".join([f"still not: {what}", *logs])
                time.sleep(POLL_S)

        def known() -> str:
            """Ask for the address, and return which link address the client knows."""
            answered(where.path("client"), row.vip)
            return where.neighbour(row.vip)

        def sent(host: str, since: float) -> list[float]:
            return [each.at for each in observer.advertisements(host, since, VRID) if each.priority == PRIORITY[host]]

        try:
            for each in (a, b):
                each.configuration.write_text(row.configuration(each.host, each.folder))
            a.start()
            until(lambda: known() == mac("a"), "the winner has the address")
            b.start()
            until(b.listens, "the loser listens")
            split(where, True)
            until(lambda: known() == mac("b"), "the loser is master, too, and the client knows it alone")
            assert row.vip in where.addresses("a")

            begin = time.time()
            until(lambda: bool(sent("b", begin)) and bool(sent("a", begin)), "both are masters")
            begin = sent("b", begin)[-1]
            until(lambda: bool(sent("b", begin + 0.01)), "the loser's next advertisement")
            healed = time.time()
            split(where, False)
            until(lambda: row.vip not in where.addresses("b"), "the loser steps down")
            until(lambda: bool(observer.claims("a", row.vip, healed)), "the winner announces its address")
            until(lambda: where.neighbour(row.vip) == mac("a"), "and the client knows it")
            assert answered(where.path("client"), row.vip)
        finally:
            for each in (a, b):
                each.end()


def split(where: Segment, apart: bool) -> None:
    """Let the switch forward nothing between the routers, or everything; the client receives from both."""
    for host in ("a", "b"):
        where.ip("wire", f"link set {port(host)} type bridge_slave isolated {'on' if apart else 'off'}")

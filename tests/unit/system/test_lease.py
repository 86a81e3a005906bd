"""The silence of another process is counted in ticks of this one."""

from __future__ import annotations

import pytest

from pylvs.system.lease import Lease


@pytest.mark.parametrize(("length_s", "tick_s", "ticks"), [(10, 0.5, 20), (10, 3, 4), (1, 5, 1)])
def test_it_expires_once_after_so_many_ticks_without_a_message(length_s: float, tick_s: float, ticks: int) -> None:
    lease = Lease(length_s, tick_s)
    assert [lease.tick() for _ in range(ticks + 3)] == [False] * (ticks - 1) + [True] + [False] * 3
    assert lease.expired
    lease.renew()
    assert [lease.tick() for _ in range(ticks)] == [False] * (ticks - 1) + [True]


def test_messages_keep_it() -> None:
    lease = Lease(3, 1)
    for _ in range(10):
        assert not lease.tick()
        assert not lease.tick()
        lease.renew()

"""RateLimiter: one event of each kind in an interval, and few kinds."""

from __future__ import annotations

from pylvs.vrrp.loop import RateLimiter


def test_one_event_of_each_kind_is_allowed_in_a_minute() -> None:
    limiter = RateLimiter(60.0)
    assert limiter.allow("TTL", 0.0) == 0
    assert [limiter.allow("TTL", at / 10) for at in range(1, 100)] == [None] * 99
    assert limiter.allow("checksum", 5.0) == 0
    assert limiter.allow("TTL", 60.0) == 99
    assert limiter.allow("TTL", 61.0) is None
    assert limiter.allow("TTL", 200.0) == 1
    assert limiter.allow("TTL", 300.0) == 0


def test_the_number_of_kinds_is_limited() -> None:
    limiter = RateLimiter(60.0, max_kinds=10)
    assert [limiter.allow(kind, 1.0) for kind in range(1000)].count(0) == 10
    assert [limiter.allow(kind, 62.0) for kind in range(2000, 3000)].count(0) == 10
    assert len(limiter._allowed_at) == 10
    assert limiter.surplus == 2 * 990

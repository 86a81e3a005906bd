"""One thread's time: what comes first, and what is not called any more."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pylvs.vrrp.loop import Loop


@pytest.fixture
def wrong() -> list[Exception]:
    return []


@pytest.fixture
def loop(wrong: list[Exception]) -> Iterator[Loop]:
    made = Loop(wrong.append)
    yield made
    made.close()


def test_what_goes_wrong_is_told_and_the_others_go_on(loop: Loop, wrong: list[Exception]) -> None:
    seen: list[int] = []
    loop.at(loop.now, lambda: seen.append(1 // 0))
    loop.at(loop.now, lambda: seen.append(2))
    loop.at(loop.now + 0.01, loop.stop)
    loop.run()
    assert (seen, [type(each) for each in wrong]) == ([2], [ZeroDivisionError])


def test_one_that_was_closed_by_another_that_was_ready_with_it_is_not_called(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    seen: list[int] = []

    def hear(number: int) -> None:
        seen.append(number)
        for ours, _ in pairs:
            loop.forget(ours.fileno())
        loop.stop()  # both were ready in one round, and a round is not broken off

    for number, (ours, its) in enumerate(pairs):
        its.send(b"x")
        loop.watch(ours.fileno(), lambda number=number: hear(number))  # type: ignore[misc]
    loop.run()
    assert len(seen) == 1
    for each in (end for pair in pairs for end in pair):
        each.close()


def test_a_timer_that_is_due_comes_before_what_is_heard(loop: Loop) -> None:
    ours, its = socket.socketpair()
    seen: list[str] = []

    def hear() -> None:
        seen.append("heard")
        loop.stop()

    with ours, its:
        its.send(b"x")
        loop.watch(ours.fileno(), hear)
        loop.at(loop.now, lambda: seen.append("due"))
        loop.run()
    assert seen == ["due", "heard"]


def test_a_cancelled_timer_is_not_called(loop: Loop) -> None:
    seen: list[int] = []
    loop.at(loop.now + 0.005, lambda: seen.append(1)).cancel()
    loop.at(loop.now + 0.02, loop.stop)
    loop.run()
    assert seen == []

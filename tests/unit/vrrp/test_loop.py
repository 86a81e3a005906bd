"""The event loop: order of callbacks, and callbacks that are not called any more."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from pylvs.vrrp.loop import Loop


@pytest.fixture
def errors() -> list[Exception]:
    return []


@pytest.fixture
def loop(errors: list[Exception]) -> Iterator[Loop]:
    loop = Loop(errors.append)
    yield loop
    loop._selector.close()


def test_an_exception_is_reported_and_other_callbacks_run(loop: Loop, errors: list[Exception]) -> None:
    seen: list[int] = []
    loop.at(loop.now, lambda: seen.append(1 // 0))
    loop.at(loop.now, lambda: seen.append(2))
    loop.at(loop.now + 0.01, loop.stop)
    loop.run()
    assert (seen, [type(each) for each in errors]) == ([2], [ZeroDivisionError])


def test_a_descriptor_closed_by_another_callback_is_not_called(loop: Loop) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    seen: list[int] = []

    def read(number: int) -> None:
        seen.append(number)
        for ours, _ in pairs:
            loop.forget(ours.fileno())
        loop.stop()  # both were ready in one iteration, which continues

    for number, (ours, its) in enumerate(pairs):
        its.send(b"x")
        loop.watch(ours.fileno(), lambda number=number: read(number))  # type: ignore[misc]
    loop.run()
    assert len(seen) == 1
    for each in (end for pair in pairs for end in pair):
        each.close()


def test_a_due_timer_runs_before_io(loop: Loop) -> None:
    ours, its = socket.socketpair()
    seen: list[str] = []

    def read() -> None:
        seen.append("read")
        loop.stop()

    with ours, its:
        its.send(b"x")
        loop.watch(ours.fileno(), read)
        loop.at(loop.now, lambda: seen.append("due"))
        loop.run()
    assert seen == ["due", "read"]


def test_a_cancelled_timer_is_not_called(loop: Loop) -> None:
    seen: list[int] = []
    loop.at(loop.now + 0.005, lambda: seen.append(1)).cancel()
    loop.at(loop.now + 0.02, loop.stop)
    loop.run()
    assert seen == []


def test_a_timer_in_years_lets_the_loop_run(loop: Loop) -> None:
    ours, its = socket.socketpair()
    its.send(b"x")
    loop.at(loop.now + 366 * 86400, lambda: None)
    loop.watch(ours.fileno(), loop.stop)
    loop.run()
    ours.close()
    its.close()

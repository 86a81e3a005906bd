"""LOAD_CHECK as a probe: pages over HTTP, their weights, and servers with errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pylvs.health.checkers import load
from pylvs.health.probes import CheckContext, Outcome, ProbeFailed, probe_of
from pylvs.model.checks import LoadCheck, LoadSource
from tests.unit.health.fake_servers import (
    PATIENT,
    TIMED_OUT,
    Handler,
    closed,
    hangs,
    lapse,
    replies,
    silent,
    tcp,
    undisturbed,
)
from tests.unit.health.test_load_page import page
from tests.waiting import PATIENCE_S, until

WEIGHT = CheckContext(weight=100)


def pages(*bodies: bytes) -> Handler:
    """Return a handler that sends the next page at each request."""
    left = list(bodies)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:")
        body = left.pop(0)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    return handler


def outcomes(handler: Handler, times: int, **fields: object) -> list[Outcome]:
    """Return the outcomes of so many probes."""

    async def main() -> list[Outcome]:
        async with tcp(handler) as target:
            check = replace(LoadCheck(target=target, pace=PATIENT, smoothing=0), **fields)  # type: ignore[arg-type]
            probe = probe_of(check, WEIGHT)
            return [await probe() for _ in range(times)]

    return undisturbed(main)


def test_the_weight_follows_the_load() -> None:
    handler = pages(page(0.0), page(2.0), page(8.0), page(0.0))
    found = outcomes(handler, 4)
    assert [each.weight for each in found] == [100, 50, 10, 100]
    assert all(each.ok for each in found)
    assert found[1].reason == "load 0.5: weight 50"


def test_the_reason_has_the_smoothed_load() -> None:
    assert outcomes(pages(page(0), page(2)), 2, smoothing=0.5)[-1].reason == "load 0.5, smoothed 0.25: weight 75"


def test_processor_load_is_available_after_the_first_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "SECOND_PAGE_AFTER_S", 0.0)
    handler = pages(
        page(idle=100, other=10), page(idle=107, other=11), page(idle=107, other=11), page(idle=114, other=11)
    )
    found = outcomes(handler, 3, source=LoadSource.CPU_BUSY)
    assert [(each.ok, each.weight) for each in found] == [(True, 50), (True, 50), (True, 100)]
    assert found[1].reason == "load not known yet"


def test_a_configured_metric_and_a_single_number() -> None:
    handler = pages(b'jobs{queue="a"} 3\njobs{queue="b"} 5\n', b"2\n")
    found = outcomes(handler, 2, source=LoadSource.METRIC, metric='jobs{queue="b"}', full=10.0)
    assert [each.weight for each in found] == [50, 80]


def test_an_unreadable_page_keeps_the_weight_for_a_while_and_the_server_up() -> None:
    handler = pages(page(2.0), b"", b"<html>", b"node_load1 x", page(2.0))
    found = outcomes(handler, 5, patience=2)
    assert [(each.ok, each.weight) for each in found] == [(True, 50), (True, 50), (True, 50), (True, None), (True, 50)]
    assert found[1].reason.startswith("load unknown, weight as it was: the page has no node_cpu_seconds_total")
    assert found[3].reason.startswith("load unknown, weight as configured: ")


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (replies(b"HTTP/1.0 404 Not Found\r\n\r\nnode_load1 1"), "status 404"),
        (replies(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n0.5"), "3 bytes for a Content-Length of 100"),
        (replies(b"hello\n"), "not an HTTP answer"),
        (replies(b"HTTP/1.0 200 OK\r\n\r\n", b"node_load1 1\n" * (1 << 21)), "a body of more than 16 MiB"),
        (replies(), "connection closed without an answer"),
    ],
)
def test_every_failure_has_its_reason(handler: Handler, text: str) -> None:
    (found,) = outcomes(handler, 1)
    assert (found.ok, found.weight) == (True, None)
    assert text in found.reason


@pytest.mark.parametrize("handler", [hangs(), hangs(b"HTTP/1.0 200 OK\r\n\r\n")])
def test_a_server_that_hangs_times_out(handler: Handler) -> None:
    (found,) = outcomes(handler, 1)
    assert found.ok
    assert TIMED_OUT in found.reason


def test_a_page_that_takes_long_to_parse_ends_with_its_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the test waits for the thread."""
    parse, ended = load.parse_page, threading.Event()

    async def main() -> Outcome:
        loop = asyncio.get_running_loop()

        def slow(page: bytes, check: LoadCheck, selector: Any, over: Callable[[], bool]) -> Any:
            loop.call_soon_threadsafe(lapse)
            until(over)
            try:
                return parse(page, check, selector, over)
            except ProbeFailed:
                ended.set()
                raise

        monkeypatch.setattr(load, "parse_page", slow)
        async with tcp(pages(b"node_load1 1\n" * 1000)) as target:
            return await probe_of(LoadCheck(target=target, pace=PATIENT), WEIGHT)()

    assert undisturbed(main) == Outcome(True, f"load unknown, weight as configured: {TIMED_OUT} parsing the page")
    assert ended.wait(PATIENCE_S)


def test_no_server_there() -> None:
    async def main() -> Outcome:
        with closed() as target:
            return await probe_of(LoadCheck(target=target, pace=PATIENT), WEIGHT)()

    found = undisturbed(main)
    assert found == Outcome(True, "load unknown, weight as configured: connection refused")


def test_an_invalid_metric_is_reported_at_each_probe() -> None:
    found = outcomes(silent, 2, source=LoadSource.METRIC, metric="two words")
    assert {each.reason for each in found} == {found[0].reason}
    assert "two words" in found[0].reason
    assert found[0].ok

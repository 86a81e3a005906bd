"""LOAD_CHECK: the server says how busy it is, and its weight follows. It never takes a server out.

It reads what Prometheus would: node_exporter's page, or one of the operator's own.
"""

from __future__ import annotations

import asyncio

from pylvs.health.checkers.context import Context
from pylvs.health.checkers.conversation import Conversation
from pylvs.health.checkers.failures import CheckFailed
from pylvs.health.checkers.http_answer import Reader, read_body
from pylvs.health.checkers.load_page import CpuTimes, Selector, Unreadable, reading
from pylvs.health.checkers.load_weight import LoadRule, LoadState
from pylvs.health.checkers.sockets import Endpoint, Limit
from pylvs.health.outcome import Outcome, Probe
from pylvs.model.addresses import endpoint as written
from pylvs.model.checks import LoadCheck, LoadSource

BETWEEN_S = 1.0  # the first two pages, where it takes two to tell a load


def probe(check: LoadCheck, context: Context) -> Probe:
    """Reads the page, and remembers what it said."""
    try:
        selector = Selector.of(check.metric) if check.source is LoadSource.METRIC else None
    except Unreadable as error:
        return _always(Outcome(True, str(error)))
    return _Load(check, context, selector).ask


def _always(outcome: Outcome) -> Probe:
    async def ask() -> Outcome:
        return outcome

    return ask


class _Load:
    """One server's load from page to page."""

    def __init__(self, check: LoadCheck, context: Context, selector: Selector | None) -> None:
        self._check = check
        self._selector = selector
        self._endpoint = Endpoint(check.target)
        self._rule = LoadRule.of(check, context.weight)
        self._state = LoadState()
        self._times: CpuTimes | None = None  # of the page before
        host = written(check.target.address, check.target.port)
        self._request = (
            f"GET {check.path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pylvs\r\n"
            "Accept: text/plain\r\nConnection: close\r\n\r\n"
        ).encode(errors="surrogateescape")

    async def ask(self) -> Outcome:
        """The weight that the load comes to."""
        limit = Limit(self._check.pace.timeout_s)
        try:
            load = await self._load(limit)
        except (CheckFailed, Unreadable) as error:
            if isinstance(error, CheckFailed) and error.inconclusive:
                return error.outcome()
            self._state = self._state.without(self._rule)
            kept = "as it was" if self._state.weight is not None else "as configured"
            return Outcome(True, f"load unknown, weight {kept}: {error}", self._state.weight)
        if load is None:
            return Outcome(True, "load not known yet", self._state.weight)
        self._state = self._state.after(load, self._rule)
        smoothed = f", smoothed {self._state.load:.3g}" if self._check.smoothing else ""
        return Outcome(True, f"load {load:.3g}{smoothed}: weight {self._state.weight}", self._state.weight)

    async def _load(self, limit: Limit) -> float | None:
        found = reading(await self._page(limit), self._check, self._selector)
        if not isinstance(found, CpuTimes):
            return found
        if self._times is None:
            self._times = found
            await asyncio.sleep(min(BETWEEN_S, self._check.pace.timeout_s / 2))
            return await self._load(limit)
        before, self._times = self._times, found
        return found.busy_since(before)

    async def _page(self, limit: Limit) -> bytes:
        with await Conversation.open(self._endpoint, limit) as conversation:
            if self._check.tls:
                await conversation.start_tls()
            await conversation.send(self._request)
            reader = Reader(conversation)
            answer = await reader.head()
            if not 200 <= answer.status <= 299:
                raise CheckFailed(f"status {answer.status}")
            await read_body(reader, answer, digest=False, keep=True)
            if answer.remark:
                raise CheckFailed(answer.remark)
            return answer.body

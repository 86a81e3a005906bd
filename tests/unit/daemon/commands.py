"""Run commands and send requests to a daemon that runs in the test."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from click.testing import CliRunner, Result

from pylvs.daemon.api.client import Client
from tests.unit.daemon.daemons import FakeHost, run


def ask(host: FakeHost, method: str, path: str, content: Any = None) -> Any:
    """Return the response to a request that succeeds."""
    status, reply = Client(host.state).ask(method, path, content)
    assert status == 200, reply
    return reply


def invoked(host: FakeHost, command: Any, *words: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(command, [*words, "--state-dir", str(host.state)])


def during(host: FakeHost, *steps: Callable[[], Any], kill: bool = False) -> list[Any]:
    """Run steps one after another in another thread while a daemon runs; return their results."""
    answers: list[Any] = []

    async def scenario() -> None:
        async with host.daemon(kill=kill):
            answers.extend([await asyncio.to_thread(step) for step in steps])

    run(scenario())
    return answers

"""MISC_CHECK: what a program's end means."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pylvs.health.checkers.context import Context
from pylvs.health.checkers.misc import outcome
from pylvs.health.checkers.registry import probe_of
from pylvs.health.outcome import Outcome
from pylvs.host.processes import Ended, Processes
from pylvs.model.checks import MiscCheck, Pace
from pylvs.model.scripts import Script


@pytest.mark.parametrize("status", range(256))
def test_every_exit_status_means_what_it_means_in_keepalived(status: int) -> None:
    plain, dynamic = outcome(Ended(status), False), outcome(Ended(status), True)
    assert (plain.ok, plain.weight) == (status == 0, None)
    assert dynamic.ok == (status != 1)
    assert dynamic.weight == (status - 2 if status >= 2 else None)


@pytest.mark.parametrize(
    "end",
    [
        Ended(None, signal=9),
        Ended(None, signal=15, timed_out=True, seconds=5),
        Ended(12, timed_out=True, seconds=5),
        Ended(0, timed_out=True, seconds=5),
        Ended(None, trouble="no such file"),
    ],
)
def test_any_other_end_is_down_and_brings_no_weight(end: Ended) -> None:
    found = outcome(end, True)
    assert (found.ok, found.weight) == (False, None)
    assert found.reason == str(end)


def asked(check: MiscCheck, times: int = 1) -> list[Outcome]:
    """The outcomes of a check's probe, asked so often."""

    async def whole() -> list[Outcome]:
        processes = Processes()
        try:
            ask = probe_of(check, Context(processes=processes))
            return [await ask() for _ in range(times)]
        finally:
            await processes.close()

    return asyncio.run(whole())


def test_a_weight_does_not_outlive_a_timeout(tmp_path: Path) -> None:
    """10, then nothing in time, then 0: the configured weight holds again."""
    turns = tmp_path / "turns"
    turns.write_text("12 hang 0")
    code = f"""set -- $(cat {turns}); turn=$1; shift; echo "$@" >{turns}
        [ $turn = hang ] && sleep 600
        exit $turn"""
    check = MiscCheck(script=Script(("/bin/sh", "-c", code)), dynamic=True, pace=Pace(timeout_s=8))
    assert [(each.ok, each.weight) for each in asked(check, 3)] == [(True, 10), (False, None), (True, None)]


def test_the_reason_says_what_the_program_said() -> None:
    check = MiscCheck(script=Script(("/bin/sh", "-c", "echo replication is late; exit 1")), pace=Pace(timeout_s=60))
    assert asked(check) == [Outcome(False, "exit status 1: replication is late")]

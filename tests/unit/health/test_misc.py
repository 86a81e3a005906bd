"""MISC_CHECK: the meaning of a program's exit status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from pylvs.health.checkers.misc import outcome
from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.checks import MiscCheck, Pace, Script
from pylvs.system.processes.scripts import Ended, Processes


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
        Ended(None, problem="no such file"),
    ],
)
def test_any_other_exit_is_down_and_sets_no_weight(end: Ended) -> None:
    found = outcome(end, True)
    assert (found.ok, found.weight) == (False, None)
    assert found.reason == str(end)


CURL = (
    "  % Total    % Received % Xferd  Average Speed   Time    Time     Time  Current\n"
    "                                 Dload  Upload   Total   Spent    Left  Speed\n"
    "\r  0     0    0     0    0     0      0      0 --:--:-- --:--:-- --:--:--     0"
    "\rcurl: (7) Failed to connect to 10.0.0.5 port 80: Connection refused\n"
)


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (CURL, "curl: (7) Failed to connect to 10.0.0.5 port 80: Connection refused"),
        (f"{CURL}\nnothing more to do\n", "curl: (7) Failed to connect to 10.0.0.5 port 80: Connection refused"),
        ("checking 10.0.0.5\nreplication is 90 s behind\n\n", "replication is 90 s behind"),
        ("ERROR 2003: no connection\n", "ERROR 2003: no connection"),
        ("", ""),
    ],
)
def test_the_reason_has_the_most_specific_line(output: str, line: str) -> None:
    assert outcome(Ended(7, output=output), False).reason == (f"exit status 7: {line}" if line else "exit status 7")


def test_without_a_process_for_scripts_the_outcome_is_inconclusive() -> None:
    end = Ended(None, problem="the process that runs scripts has ended", unable=True)
    assert outcome(end, True) == Outcome(False, "the process that runs scripts has ended", inconclusive=True)


def asked(check: MiscCheck, times: int = 1, processes: Processes | None = None) -> list[Outcome]:
    """Return the outcomes of so many probes.

    Another program has run before: the lookup of its account and the start of a process count towards a timeout.
    """

    async def whole() -> list[Outcome]:
        runner = processes or Processes()
        try:
            if processes is None:
                assert not (await runner.run(Script(("/bin/true",)), 600)).unable
            ask = probe_of(check, CheckContext(processes=runner))
            return [await ask() for _ in range(times)]
        finally:
            await runner.close()

    return asyncio.run(whole())


class FakeProcesses(Processes):
    """A script runner whose programs end like this, one after another."""

    def __init__(self, *ends: Ended) -> None:
        super().__init__()
        self.ends = list(ends)

    async def run(
        self,
        script: Script,
        timeout_s: float,
        environment: Mapping[str, str] | None = None,
        on_timeout: Callable[[], None] = lambda: None,
    ) -> Ended:
        return self.ends.pop(0)


def test_a_weight_does_not_outlive_a_timeout() -> None:
    """10, then a timeout, then 0: the configured weight counts again."""
    processes = FakeProcesses(Ended(12), Ended(None, signal=15, timed_out=True, seconds=8), Ended(0))
    check = MiscCheck(script=Script(("/bin/true",)), dynamic=True)
    found = asked(check, 3, processes)
    assert [(each.ok, each.weight) for each in found] == [(True, 10), (False, None), (True, None)]


def test_a_program_that_hangs_is_down_at_its_timeout() -> None:
    check = MiscCheck(script=Script(("/bin/sleep", "600")), dynamic=True, pace=Pace(timeout_s=0.2))
    assert asked(check) == [Outcome(False, "timed out after 0.2 s")]


def test_the_reason_has_the_output_of_the_program() -> None:
    check = MiscCheck(script=Script(("/bin/sh", "-c", "echo replication is late; exit 1")), pace=Pace(timeout_s=60))
    assert asked(check) == [Outcome(False, "exit status 1: replication is late")]

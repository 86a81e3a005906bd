"""Replay recordings, and judge replays by their pace.

A difference at the recording's pace is a failure. With a director that came late, timers ran on, so a difference proves
nothing: for this director the replay is void. So is one so late that its timers were hardly compared. A void replay is
added to the ledger, and the scenario runs again. What is proven of the other directors remains proven.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from pylvs.bpf import kernel
from pylvs.bpf.kernel import CONNECTIONS
from pylvs.dataplane import load
from pylvs.dataplane.director import BpfDirector
from pylvs.dataplane.state import EGRESS, XDP, State
from tests import ledger
from tests.packet.host import populated_namespace
from tests.processes import tools_first
from tests.recycled import Load, Stock

ORACLE = Path(__file__).parents[1] / "oracle"
TABLE = "32768"  # connections that a director's table holds
REPLAYS = 3
KEPT_PACE_S = 2.0  # the slack of compared timers: a step within it is like the recorded one
LATEST_S = 30.0  # half of SYN_RECV's timeout: the slack of timers grows with the delay of a step
_stock = Stock()  # with one load for all replays
# The oracle's namespaces have fixed names; in separate mount namespaces, several can run at once.
OWN_NAMES = (
    "unshare",
    "--mount",
    "sh",
    "-ec",
    'mkdir -p /run/netns; mount -t tmpfs names /run/netns; exec "$@"',
    "own",
)


class MachineTooSlow(AssertionError):
    """No replay kept the recording's pace."""


@dataclass(frozen=True)
class DirectorReplay:
    """What a replay shows of one director. Directors know nothing of each other."""

    compared: set[str]  # steps
    different: set[str]  # of them, and steps that are not in the recording
    delay_s: float = 0.0  # of the step that was latest
    timed_delay_s: float = 0.0  # of the latest step with timers

    def void(self, different: set[str]) -> str:
        """Return why this proves nothing; empty if it does.

        `different` are the steps that are known to differ.
        """
        if self.timed_delay_s > LATEST_S:
            return f"timers were read {self.timed_delay_s:.1f} s later than recorded"
        if self.different != different & self.compared and self.delay_s > KEPT_PACE_S:
            return f"steps differ, and one came {self.delay_s:.1f} s later than recorded"
        return ""


@dataclass(frozen=True)
class Replay:
    """One replay of a scenario."""

    seconds: float
    text: str  # what the comparison printed
    directors: list[DirectorReplay] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)  # what the scenario itself made again
    too_slow: str = ""  # why the scenario gave up


@dataclass
class Proof:
    """What replays prove."""

    compared: set[str] = field(default_factory=set)  # steps
    different: set[str] = field(default_factory=set)
    text: str = ""  # what the last comparison printed


def replay(mode: str, scenario: str, every: int, folder: Path, commands: dict[str, str]) -> Replay:
    """Play a scenario, or every Nth of its parts.

    `commands` is the environment of `command_server`. With it one load serves all directors, in all replays of this
    process. Without, each command is a process and each director has a load of its own, as an administrator's.
    """
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    recycled = _load() if commands else None
    began = time.monotonic()
    done = subprocess.run(
        [
            *OWN_NAMES,
            sys.executable,
            ORACLE / "compare",
            "--director-setup",
            f"pylvs attach d0 --mode {mode}",
            "--director-teardown",
            "pylvs down",
            "--mark",
            shlex.quote(str(ORACLE.parent / "oracle_support" / "mark")),
            "--most",
            "10000",
            "--sample",
            str(every),
            "--report",
            report,
            *(["--load", recycled.description] if recycled else []),
            scenario,
        ],
        pass_fds=recycled.numbers if recycled else (),
        env=os.environ | {"PATH": tools_first(), CONNECTIONS: TABLE} | commands,
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - began
    text = f"{done.stdout}{done.stderr}"
    made: dict[str, Any] = json.loads(report.read_text())[scenario] if done.returncode in (0, 1) else {}
    if not made or "stopped" in made:
        _stock.close()  # a director may be there still
        raise AssertionError(text)
    if "too_slow" in made:
        return Replay(seconds, text, too_slow=made["too_slow"])
    directors = [
        DirectorReplay(
            set(director["compared"]), set(director["different"]), director["delay_s"], director["timed_delay_s"]
        )
        for director in made["directors"]
    ]
    return Replay(seconds, text, directors, made["repeated"])


def _load() -> Load:
    """Return an empty load, which is made at the first call."""
    connections = int(TABLE)
    if connections not in _stock.loads:
        with populated_namespace(), mock.patch.object(kernel, "connection_limit", return_value=connections):
            director = BpfDirector(State.open())
            director.make()
            with director.batch():
                for entry in XDP, EGRESS:
                    os.close(load.open_entry(director.state, entry))
            with _stock.keeping(director.state):
                load.take_down(director.state)
    found = _stock.loads[connections]
    found.empty()
    return found


def proof(play: Callable[[], Replay], different: set[str], test: str) -> Proof:
    """Replay until each director's steps are proven, or a step differs that must not, or agrees that must differ.

    `different` are the steps that are known to differ. Raises MachineTooSlow after three replays.
    """
    proven, void, first_s = Proof(), "", 0.0
    for _ in range(REPLAYS):
        made = play()
        if void:
            ledger.record(test, void, first_s, made.seconds)
        for part in made.repeated:
            ledger.record(test, part, made.seconds)
        void, first_s, proven.text = made.too_slow, made.seconds, made.text
        for director in sorted(made.directors, key=lambda director: director.delay_s):
            reason = director.void(different)
            if not reason:
                proven.compared |= director.compared
                proven.different |= director.different
            elif not director.compared | director.different <= proven.compared:
                void = reason
        if not void or proven.different != different & proven.compared:
            return proven
    ledger.record(test, void, first_s)
    raise MachineTooSlow(
        f"this machine is too slow for {test}: {REPLAYS} replays were void, the last one because {void}\n{proven.text}"
    )

"""The messages between the daemon and the prober process, as JSON.

| to the prober | "new": [[probe, check, weight, virtualhost, state]] |
| | "run": [[run, probe, sockets]], "repeat": [[run, probe, every_s]] |
| | "cancel": [run], "drop": [probe] |
| to the daemon | "done": [[run, ok, reason, weight, inconclusive, state, took_us]] |
| | "same": [[run, count, took_us, reason]] |
| | "log": text |

`check` is as `pylvs.model.plain` has it. `probe` and `run` are numbers that the daemon chooses. `state` is what a probe
remembers between two runs; the daemon keeps it for a prober that is started again. It is null unless it changed. A
repeated run ends with an outcome that is not good, or that sets a weight. Until then "same" counts its outcomes; the
reason is null unless it changed.
"""

from __future__ import annotations

from typing import Any

from pylvs.health.probes import MAX_REASON, Outcome
from pylvs.model.dataclass import dataclass
from pylvs.model.service import MAX_WEIGHT
from pylvs.system.logs import one_line
from pylvs.system.processes.channel import BadMessage

_MAX_NUMBER = 1 << 52  # exact as a floating-point number
MAX_STATE = 4096  # characters of what a probe remembers


@dataclass(frozen=True, slots=True)
class Done:
    """The end of one run."""

    run: int
    outcome: Outcome
    state: str | None  # None: unchanged
    took_s: float


@dataclass(frozen=True, slots=True)
class Same:
    """Good outcomes of one repeated run, since the last message."""

    run: int
    count: int
    took_s: float  # the last one
    reason: str | None  # None: unchanged


def encode_done(done: Done) -> list[Any]:
    outcome = done.outcome
    took_us = int(done.took_s * 1e6)
    return [done.run, outcome.ok, outcome.reason, outcome.weight, outcome.inconclusive, done.state, took_us]


def decode_done(entry: Any) -> Done:
    """Return a result, of which every field is valid. Raises BadMessage."""
    if not isinstance(entry, list) or len(entry) != 7:
        raise BadMessage("a result without its seven fields")
    run, ok, reason, weight, inconclusive, state, took_us = entry
    if type(run) is not int or type(ok) is not bool or type(inconclusive) is not bool or not isinstance(reason, str):
        raise BadMessage("a result with a field of another type")
    _check_number(took_us)
    if weight is not None and (type(weight) is not int or not 0 <= weight <= MAX_WEIGHT):
        raise BadMessage("a result with a weight out of range")
    if state is not None and (not isinstance(state, str) or len(state) > MAX_STATE):
        raise BadMessage("a result with an invalid state")
    return Done(run, Outcome(ok, _short(reason), weight, inconclusive), state, took_us / 1e6)


def decode_same(entry: Any) -> Same:
    """Return counts, of which every field is valid. Raises BadMessage."""
    if not isinstance(entry, list) or len(entry) != 4:
        raise BadMessage("counts without their four fields")
    run, count, took_us, reason = entry
    if type(run) is not int or (reason is not None and not isinstance(reason, str)):
        raise BadMessage("counts with a field of another type")
    _check_number(count)
    _check_number(took_us)
    return Same(run, count, took_us / 1e6, None if reason is None else _short(reason))


def _check_number(number: Any) -> None:
    if type(number) is not int or not 0 <= number <= _MAX_NUMBER:
        raise BadMessage("a number out of range")


def _short(reason: str) -> str:
    return reason if reason.isprintable() and len(reason) <= MAX_REASON else one_line(reason)[:MAX_REASON]

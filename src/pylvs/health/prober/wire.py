"""The messages between the daemon and the prober process, as JSON.

| to the prober | "new": [[probe, check, weight, virtualhost, state]] |
| | "run": [[run, probe, sockets]], "repeat": [[run, probe, every_s]] |
| | "cancel": [run], "drop": [probe] |
| to the daemon | "done": [[run, ok, reason, weight, inconclusive, state, took_us]] |
| | "same": [[run, count, took_us, reason]] |
| | "log": text, "alive": true |

`probe` and `run` are numbers that the daemon chooses. `state` is what a probe remembers between two runs; the daemon
keeps it for a prober that is started again. It is null unless it changed. A repeated run ends with an outcome that is
not good, or that sets a weight. Until then "same" counts its outcomes; the reason is null unless it changed.
"""

from __future__ import annotations

import base64
from dataclasses import is_dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from pylvs.health.probes import MAX_REASON, Outcome
from pylvs.model import checks
from pylvs.model.dataclass import dataclass, field_names
from pylvs.model.service import MAX_WEIGHT
from pylvs.system.logs import one_line
from pylvs.system.processes.channel import BadMessage

PROTOCOL = 1
_MAX_NUMBER = 1 << 52  # exact as a floating-point number
MAX_TLS = 1 << 20  # bytes of the settings of TLS
MAX_STATE = 4096  # characters of what a probe remembers
_KINDS = {each.__name__: each for each in vars(checks).values() if isinstance(each, type)}


def encode_value(value: Any) -> Any:
    """Encode a check, or a value within one, as JSON types. Objects name their class."""
    if value is None or (isinstance(value, bool | str | int | float) and not isinstance(value, Enum)):
        return value
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, IPv4Address | IPv6Address):
        return {"address": str(value)}
    if isinstance(value, Enum):
        return {"enum": type(value).__name__, "name": value.name}
    if isinstance(value, tuple):
        return [encode_value(each) for each in value]
    if is_dataclass(value) and type(value).__name__ in _KINDS:
        content = {name: encode_value(getattr(value, name)) for name in field_names(value)}
        return {"class": type(value).__name__, "fields": content}
    raise TypeError(f"{type(value).__name__} cannot be part of a check")


def decode_value(value: Any) -> Any:
    """Return what `encode_value` encoded."""
    if isinstance(value, list):
        return tuple(decode_value(each) for each in value)
    if not isinstance(value, dict):
        return value
    if "bytes" in value:
        return base64.b64decode(value["bytes"])
    if "address" in value:
        return ip_address(value["address"])
    if "enum" in value:
        return _KINDS[value["enum"]][value["name"]]  # type: ignore[index]
    return _KINDS[value["class"]](**{name: decode_value(each) for name, each in value["fields"].items()})


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

"""Drain, enable and weight: what each will do to a server, and the request to the daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation, counted
from pylvs.model.service import MAX_WEIGHT
from pylvs.top.rows import Row
from pylvs.top.text import safe

_STAYS = "This holds through reloads and restarts, until pylvs enable."
_LONGEST = 20  # digits


@dataclass(frozen=True, slots=True)
class Action:
    """A request that the operator has yet to confirm."""

    path: str
    content: Mapping[str, Any]
    title: str
    effects: tuple[str, ...]  # sentences

    @property
    def done(self) -> str:
        """The message behind success."""
        return f"done: {self.title}"


def refusal(row: Row | None, with_daemon: bool) -> str:
    """Return why a row has no actions, "" if it has."""
    if row is None or not row.server:
        return "select a server: drain, enable and weight are for one server of one service"
    if not with_daemon:
        return "drain, enable and weight need pylvs run; ipvsadm -e edits the table"
    if not row.configured:
        return "pylvs run has no such server in its file; ipvsadm -e edits the table"
    return ""


def drain(row: Row, service: Row) -> Action:
    """Return the drain of a server."""
    open_ = f"{counted(row.active, 'active connection')} and {counted(row.inactive, 'inactive one')}"
    effects = [
        f"It gets weight 0 now, so no new connections. Its {open_} continue.",
        "When they have ended, it leaves the table. " + _STAYS,
        *_left(row, service),
    ]
    return _action("drain", row, {}, f"drain {_name(row)}", effects)


def enable(row: Row) -> Action:
    """Return the end of a drain or a disabling."""
    standing = (row.known or {}).get("standing", "enabled")
    effects = ["Its checks decide again whether it gets connections. A weight that was set stays."]
    if standing == "enabled":
        effects.insert(0, "It is neither drained nor disabled, so nothing changes.")
    return _action("enable", row, {}, f"enable {_name(row)}", effects)


def weight(row: Row, service: Row, text: str) -> Action:
    """Return the change of a weight to a number, or to `auto`. Raises InvalidOperation."""
    text = text.strip()
    name = f"weight {safe(text)} for {_name(row)}"
    if text == "auto":
        effects = ["Its configuration and its checks decide its weight again."]
        return _action("weight", row, {"weight": None}, name, effects)
    is_number = text.isascii() and text.isdigit() and len(text) <= _LONGEST
    if not is_number or int(text) > MAX_WEIGHT:
        raise InvalidOperation(f"the weight must be a number from 0 to {MAX_WEIGHT} or auto")
    number = int(text)
    effects = [f"Its weight is {row.weight} now. Connections that it has stay."]
    effects += ["This holds through reloads and restarts, until its weight is auto."]
    effects += [] if number else ["It gets no new connections.", *_left(row, service)]
    return _action("weight", row, {"weight": number}, name, effects)


def _action(verb: str, row: Row, more: Mapping[str, Any], title: str, effects: Sequence[str]) -> Action:
    content = {"server": row.server, "service": row.service, **more}
    return Action(f"/v1/{verb}", content, title, tuple(effects))


def _name(row: Row) -> str:
    return f"{row.name} of {safe(row.service)}"


def _left(row: Row, service: Row) -> list[str]:
    """Return which other servers get the new connections."""
    others = [each for each in service.servers if each is not row and _usable(each)]
    if others:
        return [f"New connections go to {counted(len(others), 'other server')}."]
    sorry = (service.known or {}).get("sorry_server")
    rest = f"they go to the sorry server {safe(sorry['server'])}" if sorry else "they are refused"
    return [f"WARNING: no other server of the service gets new connections, so {rest}."]


def _usable(row: Row) -> bool:
    return row.weight > 0 and row.state not in ("DOWN", "disabled", "drained", "sorry")

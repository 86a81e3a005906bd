"""Commands of ipvsadm that edit what is in the table, and names in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pylvs.model.dataclass import replace
from pylvs.model.errors import counted
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import Destination, VirtualService

_MOST_NAMED = 3


def _rule_lines(row: ServiceRow) -> Iterable[str]:
    """Return the lines of `ipvsadm -Sn`: one of the service, and one of each destination."""
    from pylvs.ipvsadm.listing import numeric, rule_lines  # late: only findings with such a command

    return rule_lines([row], numeric)


def edit_service(service: VirtualService) -> str:
    """Return the command that gives a service of the table these settings."""
    (line,) = _rule_lines(ServiceRow(service))
    return f"ipvsadm -E{line.strip().removeprefix('-A')}"


def edit_destination(service: VirtualService, destination: Destination) -> str:
    """Return the command that gives a destination of the table these settings."""
    _, line = _rule_lines(ServiceRow(service, (DestinationRow(destination),)))
    thresholds = f" -x {destination.upper} -y {destination.lower}" if destination.upper else ""
    return f"ipvsadm -e{line.strip().removeprefix('-a')}{thresholds}"


def add_destination(service: VirtualService, destination: Destination) -> str:
    """Return the command that adds a destination to a service of the table."""
    return edit_destination(service, destination).replace("ipvsadm -e", "ipvsadm -a", 1)


def with_weights(row: ServiceRow, weight: int) -> str:
    """Return the commands that give each destination of a service this weight."""
    edits = (edit_destination(row.service, replace(each.destination, weight=weight)) for each in row.destinations)
    return " && ".join(edits)


def named(things: Iterable[object], noun: str) -> str:
    """Return the names of a few things, or of the first ones and how many more there are: `a, b, c and 7 servers`."""
    names = list(map(str, things))
    if len(names) <= _MOST_NAMED + 1:
        return listed(names)
    return f"{', '.join(names[:_MOST_NAMED])} and {counted(len(names) - _MOST_NAMED, noun)} more"


def listed(names: Sequence[str]) -> str:
    """Return `a`, `a and b`, or `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))

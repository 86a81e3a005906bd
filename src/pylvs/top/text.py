"""Numbers, times and foreign texts as cells of a terminal, and lines of parts with a style."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from pylvs.system.logs import visible

# Styles by name; `canvas` has their colours. A style never has a meaning that the text lacks.
PLAIN, BOLD, BAD, WARN, HEAD, SELECTED = "", "bold", "bad", "warn", "head", "selected"
BY_SEVERITY = (PLAIN, WARN, BAD)
Part = tuple[str, str]  # text, style
Line = list[Part]

_UNITS = ("", "k", "M", "G", "T", "P", "E")
_BARS = "▁▂▃▄▅▆▇█"
_ELLIPSIS = "…"


def safe(text: object) -> str:
    """Return a foreign text without what a terminal would obey, and without tabs and line ends."""
    return visible(" ".join(str(text).split()))


def number(value: float) -> str:
    """Return a number in at most five characters: 999, 1.2k, 34k, 567k, 8.9M."""
    if value < 0:
        return "-" + number(-value)
    step = 0
    while value >= 999.5 and step < len(_UNITS) - 1:
        value /= 1000
        step += 1
    digits = 1 if step and value < 9.95 else 0
    return f"{value:.{digits}f}{_UNITS[step]}"


def bits(number_of_bytes: float) -> str:
    """Return a rate of bytes a second as bits a second."""
    return number(8 * number_of_bytes)


def duration(seconds: float) -> str:
    """Return a duration in the largest unit of which it has at least two, else in seconds."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def clock(moment: float) -> str:
    """Return a Unix time as local time of the day."""
    return time.strftime("%H:%M:%S", time.localtime(moment))


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the last values as bars, the latest on the right; the greatest of them is the highest bar."""
    shown = list(values)[-width:] if width > 0 else []
    most = max(shown, default=0)
    if most <= 0:
        return (_BARS[0] * len(shown)).rjust(max(width, 0))
    return "".join(_BARS[round(max(each, 0) / most * (len(_BARS) - 1))] for each in shown).rjust(width)


def fit(text: str, width: int, right: bool = False) -> str:
    """Return the text in exactly so many cells; what is too long ends with an ellipsis."""
    if width <= 0:
        return ""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + _ELLIPSIS
    return " " * (width - length) + text if right else text + " " * (width - length)


def wrapped(text: str, width: int) -> list[str]:
    """Return the text in lines of at most so many cells, and at least 10, which end at blanks where possible."""
    width = max(width, 10)
    lines, line = [], ""
    for word in text.split():
        while cell_len(word) > width:
            if line:
                lines.append(line)
                line = ""
            head = set_cell_size(word, width).rstrip()
            lines.append(head)
            word = word[len(head) :]
        longer = f"{line} {word}" if line else word
        if cell_len(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line] if line or not lines else lines


def length_of(line: Iterable[Part]) -> int:
    """Return the cells of a line."""
    return sum(cell_len(text) for text, _ in line)


_BAD_EVENTS = ("server_down", "quorum_lost", "reload_refused", "bfd_unknown", "part_silent", "table_not_grown")


def event_line(event: Mapping[str, Any]) -> Line:
    """Return an event of the daemon as time, name, object, change and reason."""
    name = str(event.get("event", ""))
    words = [name.replace("_", " ")]
    server, service = event.get("server"), event.get("service")
    words += [str(event[field]) for field in ("instance", "session", "part", "object", "address") if event.get(field)]
    words += [f"{server} of {service}" if server and service else str(server or service)] if server or service else []
    changed = next((field for field in ("state", "weight", "priority") if field in event), "")
    if changed:
        before = f"{event['before']} -> " if "before" in event else ""
        words.append(f"{'' if changed == 'state' else changed + ' '}{before}{event[changed]}")
    reason = f": {event['reason']}" if event.get("reason") else ""
    critical = event.get("severity") == "critical" and name == "problem_began"
    bad = name in _BAD_EVENTS or critical or event.get("state") == "FAULT"
    return [(f"{clock(float(event.get('at', 0)))} ", PLAIN), (safe(" ".join(words) + reason), BAD if bad else PLAIN)]

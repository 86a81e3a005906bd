"""Fold findings that one cause repeats, such as an unknown keyword in each of many blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pylvs.config.language.tree import Finding

MOST = 3  # findings of one cause that are printed in full
MOST_LINES = 10  # line numbers that the summary of the others has

_NUMBER = re.compile(r"(?<![\w'])[0-9][0-9a-fA-F.:/]*")  # a number or an address, which may differ


def folded(findings: Iterable[Finding]) -> list[tuple[Finding, str]]:
    """Return the findings that are to be printed, each with the line that follows it, mostly "".

    Of more than MOST findings that differ at most in numbers and addresses, only the first one is there. Its line
    counts the others.
    """
    causes: dict[tuple[object, ...], list[Finding]] = {}
    ordered = tuple(findings)
    for finding in ordered:
        key = finding.severity, finding.fatal, _NUMBER.sub("0", finding.text), _NUMBER.sub("0", finding.advice)
        causes.setdefault(key, []).append(finding)
    several = {id(same[0]): same[1:] for same in causes.values() if len(same) > MOST}
    hidden = {id(each) for others in several.values() for each in others}
    return [
        (each, _summary(each, several[id(each)]) if id(each) in several else "")
        for each in ordered
        if id(each) not in hidden
    ]


def _summary(first: Finding, others: list[Finding]) -> str:
    positions = ((each.location.file, each.location.line) for each in others)
    here = first.location.file
    lines = list(dict.fromkeys(str(line) if file == here else f"{file}:{line}" for file, line in positions))
    shown = ", ".join(lines[:MOST_LINES]) + (", ..." if len(lines) > MOST_LINES else "")
    return f"{here}: {len(others)} more like this, in lines {shown}"

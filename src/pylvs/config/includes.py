"""`include` and its kin: which files a name means, and what to say of those that are not there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from enum import Flag

from pylvs.config.files import Source, Unreadable, alternatives, is_wild, matching, opened
from pylvs.config.findings import Findings, Place

INCLUDE = re.compile(r"include([rmwba]?)(?![^ \t\v\f\r{}\"#!])")
LONGEST_NAME = 4096


class Checks(Flag):
    """What an include must find; a name without wildcards must always be there."""

    READABLE = 1
    MATCH = 2
    WILDCARD_MATCH = 4
    BRACE_MATCH = 8

    def changed(self, words: Iterable[str]) -> Checks:
        """After an `include_check` with these words: all without any, "+" adds those that follow, "-" removes them."""
        names = {check.name.lower(): check for check in Checks if check.name}
        given = list(words)
        if not given:
            return Checks(15)
        result = self if given[0][:1] in ("+", "-") else Checks(0)
        adds = True
        for word in given:
            if word[:1] in ("+", "-"):
                adds = word[0] == "+"
            check = names.get(word.lstrip("+-"), Checks(0))
            result = result | check if adds else result & ~check
        return result


NO_CHECKS = Checks(0)
OF_LETTER = {
    "": NO_CHECKS,
    "r": Checks.READABLE,
    "m": Checks.MATCH,
    "w": Checks.WILDCARD_MATCH,
    "b": Checks.BRACE_MATCH,
    "a": Checks(15),
}


def included(
    name: str, letter: str, source: Source, checks: Checks, place: Place, findings: Findings
) -> Iterator[Source]:
    """The files that an include in this source names, in order; what is wrong with any of them is a finding."""
    checks |= OF_LETTER[letter]
    if not name or len(name) > LONGEST_NAME:
        findings.error(place, "include needs a file's name", "write it behind", fatal=True)
        return
    if name[0] in "\"'":
        findings.error(place, f"no file is named {name}", "write the name without quotes", fatal=True)
        return
    near = os.path.dirname(source.path)
    for choice in alternatives(name):
        pattern = os.path.join(near, choice)
        wild = is_wild(choice)
        paths = matching(pattern) if wild else [pattern]
        if not paths and Checks.WILDCARD_MATCH in checks:
            findings.error(place, f"no file matches '{choice}'", "make one, or use include", fatal=True)
        for path in paths:
            try:
                yield opened(path)
            except Unreadable as error:
                if choice != name and not wild and Checks.BRACE_MATCH not in checks and not os.path.lexists(path):
                    findings.warning(place, f"'{path}' {error}", "remove it from the braces, or make the file")
                elif wild and os.path.isdir(path):
                    findings.warning(place, f"'{path}' {error} and is left out", "use a pattern such as *.conf")
                else:
                    findings.error(place, f"'{path}' {error}", "correct the name, or make the file", fatal=True)

"""`include` and its kin: which files a name means, and what to say of those that are not there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from enum import Flag

from pylvs.config.files import Source, Unreadable, expand_braces, expand_wildcards, has_wildcard, read_source
from pylvs.config.findings import Findings, Location

INCLUDE = re.compile(r"include([rmwba]?)(?![^ \t\v\f\r{}\"#!])")
LONGEST_NAME = 4096


class IncludeChecks(Flag):
    """What an include must find; a name without wildcards must always be there."""

    READABLE = 1
    MATCH = 2
    WILDCARD_MATCH = 4
    BRACE_MATCH = 8

    def changed(self, words: Iterable[str]) -> IncludeChecks:
        """After an `include_check` with these words: all without any, "+" adds those that follow, "-" removes them."""
        names = {check.name.lower(): check for check in IncludeChecks if check.name}
        given = list(words)
        if not given:
            return IncludeChecks(15)
        result = self if given[0][:1] in ("+", "-") else IncludeChecks(0)
        adds = True
        for word in given:
            if word[:1] in ("+", "-"):
                adds = word[0] == "+"
            check = names.get(word.lstrip("+-"), IncludeChecks(0))
            result = result | check if adds else result & ~check
        return result


NO_CHECKS = IncludeChecks(0)
CHECKS_OF_LETTER = {
    "": NO_CHECKS,
    "r": IncludeChecks.READABLE,
    "m": IncludeChecks.MATCH,
    "w": IncludeChecks.WILDCARD_MATCH,
    "b": IncludeChecks.BRACE_MATCH,
    "a": IncludeChecks(15),
}


def included_sources(
    name: str, letter: str, source: Source, checks: IncludeChecks, place: Location, findings: Findings
) -> Iterator[Source]:
    """The files that an include in this source names, in order; what is wrong with any of them is a finding."""
    checks |= CHECKS_OF_LETTER[letter]
    if not name or len(name) > LONGEST_NAME:
        findings.error(place, "include needs a file's name", "write it behind", fatal=True)
        return
    if name[0] in "\"'":
        findings.error(place, f"no file is named {name}", "write the name without quotes", fatal=True)
        return
    near = os.path.dirname(source.path)
    for choice in expand_braces(name):
        pattern = os.path.join(near, choice)
        wild = has_wildcard(choice)
        paths = expand_wildcards(pattern) if wild else [pattern]
        if not paths and IncludeChecks.WILDCARD_MATCH in checks:
            findings.error(place, f"no file matches '{choice}'", "make one, or use include", fatal=True)
        for path in paths:
            try:
                yield read_source(path)
            except Unreadable as error:
                if (
                    choice != name
                    and not wild
                    and IncludeChecks.BRACE_MATCH not in checks
                    and not os.path.lexists(path)
                ):
                    findings.warning(place, f"'{path}' {error}", "remove it from the braces, or make the file")
                elif wild and os.path.isdir(path):
                    findings.warning(place, f"'{path}' {error} and is left out", "use a pattern such as *.conf")
                else:
                    findings.error(place, f"'{path}' {error}", "correct the name, or make the file", fatal=True)

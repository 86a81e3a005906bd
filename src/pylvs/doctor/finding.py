"""A finding: one cause, its evidence, and the command that mends it.

The order is that of a search by hand: this host, the link, the way to the real server, the real server, the way back.
What lies earlier explains what lies later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any

from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass, replace
from pylvs.system.logs import one_line

PAGE = "docs/reference/doctor.md"
HERE = "here"


class Severity(IntEnum):
    """Error: clients get no answer. Warning: some do not, or will not. Info: worth knowing."""

    ERROR = 0
    WARNING = 1
    INFO = 2


class Layer(IntEnum):
    """Where a cause lies on a packet's way. Of two findings of one severity the earlier layer is the likelier cause."""

    HOST = 0  # kernel, privileges, the daemon
    ATTACHMENT = 1  # the packet path is not on a device
    ADDRESS = 2  # who has the virtual address
    LINK = 3  # ARP, ND, switches
    ROUTE = 4  # the way to the real server
    TABLE = 5  # services, servers, weights, marks
    SERVER = 6  # the real server does not accept the packet
    REPLY = 7  # the reply does not come back
    ADVICE = 8  # nothing is lost


# What a finding is about: a service's or a server's address, or the name of a device or of a virtual router.
Subject = str


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause.

    `id` names the kind, such as `vip_missing`; its section is in docs/reference/doctor.md. `title` names one cause and
    its subject. `evidence` has the value that was seen, and where. `symptom`: it says what fails, not why; it is
    left out if another finding explains one of its subjects.
    """

    id: str
    severity: Severity
    layer: Layer
    title: str
    evidence: str
    why: str
    fix: str
    fix_command: str | None = None
    fix_host: str | None = None  # HERE, or the address of the host to run it on
    about: frozenset[Subject] = frozenset()
    explains: frozenset[Subject] = frozenset()  # besides what it is about
    symptom: bool = False

    @property
    def page(self) -> str:
        """Return the page about findings of this kind, and its section."""
        return f"{PAGE}#{self.id}"

    def as_json(self) -> dict[str, Any]:
        """Return the object of `pylvs doctor --json`."""
        return {
            "id": self.id,
            "severity": self.severity.name.lower(),
            "title": one_line(self.title),
            "evidence": one_line(self.evidence),
            "why": one_line(self.why),
            "fix": one_line(self.fix),
            "fix_command": self.fix_command,
            "fix_host": self.fix_host,
            "page": self.page,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as types of JSON, for `from_dict`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return fields | {"about": sorted(self.about), "explains": sorted(self.explains)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Finding:
        """Return the finding of `as_dict`."""
        own = {"severity": Severity(fields["severity"]), "layer": Layer(fields["layer"])}
        sets = {name: frozenset(fields[name]) for name in ("about", "explains")}
        return cls(**{**fields, **own, **sets})


def here(
    *,
    id: str,
    layer: Layer,
    title: str,
    evidence: str,
    why: str,
    fix: str,
    command: str | None = None,
    severity: Severity = Severity.ERROR,
    about: Iterable[object] = (),
    explains: Iterable[object] = (),
    symptom: bool = False,
) -> Finding:
    """Return a finding of this host: an error, unless `severity` says less, which `command` mends here."""
    return Finding(
        id=id,
        severity=severity,
        layer=layer,
        title=title,
        evidence=evidence,
        why=why,
        fix=fix,
        fix_command=command,
        fix_host=HERE,
        about=frozenset(map(str, about)),
        explains=frozenset(map(str, explains)),
        symptom=symptom,
    )


def server_subject(service: str, server: Address) -> Subject:
    """Return the subject of a real server under a service, as `TCP 192.0.2.1:80 -> 10.0.0.2`."""
    return f"{service} -> {server}"


def _merged(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Yield each finding once; one that several subjects have is about all of them."""
    same: dict[tuple[str, str, bool], list[Finding]] = {}
    for finding in findings:
        same.setdefault((finding.id, finding.title, finding.symptom), []).append(finding)
    for first, *others in same.values():
        about, explains = [first.about], [first.explains]
        for other in others:
            about.append(other.about)
            explains.append(other.explains)
        yield replace(first, about=frozenset().union(*about), explains=frozenset().union(*explains))


def diagnosis(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings, the likeliest cause first, without repeats and explained symptoms."""
    found = list(_merged(findings))
    explained = {subject for each in found if not each.symptom for subject in each.about | each.explains}
    kept = [each for each in found if not (each.symptom and each.about & explained)]
    return sorted(kept, key=lambda each: (each.severity, each.symptom, each.layer, -len(each.about), each.title))

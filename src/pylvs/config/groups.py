"""What a virtual server stands for: one address, one mark, or all entries of a group; and the table's keys of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping

from pylvs.config.effective import EffectiveBlock
from pylvs.config.findings import Findings
from pylvs.config.schema.groups import MarkEntry, Range
from pylvs.config.schema.reading import Section
from pylvs.config.schema.servers import GroupService, MarkService, Server
from pylvs.config.schema.types import did_you_mean
from pylvs.config.tree import Word
from pylvs.model.addresses import endpoint
from pylvs.model.dataclass import dataclass
from pylvs.model.service import Protocol, ServiceKey

VERSIONS: Mapping[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}
FAMILIES: Mapping[int, int] = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of one virtual server; `group` is the group's name, if it is one."""

    all: tuple[Range | MarkEntry, ...]
    group: str = ""

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Those of addresses."""
        return tuple(each for each in self.all if isinstance(each, Range))

    @property
    def marks(self) -> tuple[MarkEntry, ...]:
        """Those of firewall marks."""
        return tuple(each for each in self.all if isinstance(each, MarkEntry))

    @property
    def versions(self) -> set[int]:
        """The IP versions that the entries themselves say."""
        return {each.first.version for each in self.ranges} | {
            VERSIONS[each.family] for each in self.marks if each.family
        }

    def keys(self, protocol: Protocol, version: int) -> Iterator[tuple[ServiceKey, Word]]:
        """The table's keys, and where each is written; `version` is that of marks which do not say theirs."""
        for entry in self.all:
            if isinstance(entry, MarkEntry):
                yield ServiceKey.of_mark(entry.mark, entry.family or FAMILIES[version]), entry.word
            else:
                for address in entry.addresses():
                    yield ServiceKey(protocol, address, entry.port), entry.word

    def name(self, protocol: Protocol, version: int) -> str:
        """What the service is called: "192.0.2.1:80 tcp", "fwmark 7", "fwmark 7 inet6", "group web tcp"."""
        first = self.all[0]
        if self.group:
            return f"group {self.group}" + (f" {protocol.name.lower()}" if self.ranges else "")
        if isinstance(first, MarkEntry):
            return f"fwmark {first.mark}" + (" inet6" if (first.family or FAMILIES[version]) != socket.AF_INET else "")
        return f"{endpoint(first.first, first.port)} {protocol.name.lower()}"


def groups_of(document: Section, findings: Findings) -> Mapping[str, Section]:
    """The groups by name; of two with one name the first counts."""
    groups: dict[str, Section] = {}
    for section in document.below("virtual_server_group"):
        assert section.node is not None
        assert isinstance(section.head, str)
        if section.head in groups:
            earlier = groups[section.head].node
            assert earlier is not None
            text = f"there is a group {section.head} already, in line {earlier.place.line}; the first one counts"
            findings.error(section.node.words[-1].place, text, "give it another name")
            continue
        groups[section.head] = section
    return groups


def entries_of(service: EffectiveBlock, groups: Mapping[str, Section], findings: Findings) -> Entries | None:
    """What a virtual_server stands for; None if that is nothing, which is a finding then."""
    head = service.head
    if isinstance(head, Server):
        return Entries((Range(head.address, head.address, head.port, head.word),))
    if isinstance(head, MarkService):
        return Entries((MarkEntry(head.mark, head.family, head.word),))
    assert isinstance(head, GroupService)
    group = groups.get(head.group)
    if group is None:
        near = did_you_mean(head.group, list(groups)) or f"write a block virtual_server_group {head.group}"
        findings.error(head.word.place, f"there is no group {head.group}; the service is left out", near)
        return None
    entries = tuple(each.value for each in group.settings if isinstance(each.value, Range | MarkEntry))
    if not entries:
        text = f"the group {head.group} is empty; the service is left out"
        findings.error(head.word.place, text, "give it an address or a mark")
        return None
    return Entries(entries, head.group)

"""Compile what only SNMP shows of virtual servers, from the blocks that the rules have left."""

from __future__ import annotations

from collections.abc import Iterator

from pylvs.config.compile.effective import EffectiveBlock, OriginKind
from pylvs.config.language.tree import Word
from pylvs.config.schema.grammar import Section
from pylvs.config.schema.service_types import Forwarding, MarkEntry, Range
from pylvs.model.described import (
    AddressEntry,
    CheckDefaults,
    DescribedGroup,
    DescribedServer,
    DescribedService,
    Descriptions,
)


def descriptions_of(root: EffectiveBlock) -> Descriptions:
    """Return the groups and services of the effective configuration."""
    return Descriptions(tuple(_groups(root)), tuple(_service(each) for each in root.below("virtual_server")))


def _groups(root: EffectiveBlock) -> Iterator[DescribedGroup]:
    sections: dict[str, Section] = {}
    for block in root.below("virtual_server_group"):
        assert isinstance(block.section.head, str)
        sections.setdefault(block.section.head, block.section)  # of two with one name the first counts
    for name, section in sections.items():
        entries = [each.value for each in section.settings]
        marks = tuple(each.mark for each in entries if isinstance(each, MarkEntry))
        ranges = (each for each in entries if isinstance(each, Range))
        yield DescribedGroup(name, marks, tuple(AddressEntry(each.first, each.last, each.port) for each in ranges))


def _service(block: EffectiveBlock) -> DescribedService:
    forwarding = block.get("lvs_method", Forwarding)
    return block.make(
        DescribedService,
        name=block.maybe("snmp_name", str, ""),
        group=block.head.text if isinstance(block.head, Word) else "",
        method=forwarding.method,
        tunnel=forwarding.tunnel,
        checks=_checks(block),
        servers=tuple(_server(each) for each in block.below("real_server")),
    )


def _server(block: EffectiveBlock) -> DescribedServer:
    own = block.effective("virtualhost").origin.how is OriginKind.GIVEN
    virtualhost = block.get("virtualhost", str) if own else ""
    return DescribedServer(block.maybe("snmp_name", str, ""), virtualhost, _checks(block))


def _checks(block: EffectiveBlock) -> CheckDefaults:
    """Return the keywords; a warmup that only follows delay_loop is none."""
    written = block.is_written("warmup")
    return block.make(CheckDefaults, warmup_s=block.seconds("warmup") if written else None)

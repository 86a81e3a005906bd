"""The way from a document to a configuration: read by the schema, fill in, apply the rules, build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pylvs.config import service_rules
from pylvs.config.collection import no_collection
from pylvs.config.effective import EffectiveBlock, resolve
from pylvs.config.findings import Finding, Findings
from pylvs.config.groups import entries_of, groups_of
from pylvs.config.schema.reading import Reader, Section
from pylvs.config.schema.root import ROOT
from pylvs.config.script_rules import ScriptRules
from pylvs.config.services import ServiceMaker
from pylvs.config.settings import settings_of, with_scripts
from pylvs.config.tree import Document
from pylvs.config.vrrp.building import vrrp_of
from pylvs.model.dataclass import dataclass
from pylvs.model.wanted import Configuration, GlobalSettings, WantedService
from pylvs.system import interfaces


@dataclass(frozen=True, slots=True)
class Understanding:
    """What a document means: the effective settings for people, the configuration for the rest of pylvs."""

    effective: EffectiveBlock
    configuration: Configuration
    findings: tuple[Finding, ...]  # of the meaning; those of the language are the reader's


def understand(document: Document, mtus: Mapping[str, int] | None = None) -> Understanding:
    """The meaning of a document. Never raises: whatever is wrong is a finding, and the rest is built.

    `mtus` are those of the machine's devices by their names; None asks this machine.
    """
    with no_collection():
        return _understand(document, mtus)


def _understand(document: Document, mtus: Mapping[str, int] | None) -> Understanding:
    reader = Reader(ROOT)
    section = reader.read(document.nodes)
    findings = reader.findings
    effective = resolve(section)
    settings = settings_of(effective)
    scripts = ScriptRules(findings, settings.script_security, settings.script_user, settings.script_group)
    if settings.script_user:
        scripts.check_user(next(effective.below("global_defs")).place("script_user"))
    services = tuple(_services(effective, section, settings, scripts, findings))
    vrrp = vrrp_of(effective, scripts, findings, interfaces.mtus() if mtus is None else mtus)
    configuration = Configuration(services, with_scripts(settings, effective, scripts, findings), vrrp)
    return Understanding(effective, configuration, in_order(findings.all(), document))


def _services(
    effective: EffectiveBlock, section: Section, settings: GlobalSettings, scripts: ScriptRules, findings: Findings
) -> Iterator[WantedService]:
    """The services in the order of the text. Blocks that are left out leave the effective configuration too."""
    groups = groups_of(section, findings)
    maker = ServiceMaker(findings, scripts, section, settings.shared_probes)
    for block in list(effective.below("virtual_server")):
        entries = entries_of(block, groups, findings)
        fits = entries is not None and service_rules.apply(block, entries, findings)
        service = maker.make(block, entries) if entries is not None and fits else None
        if service is not None:
            yield service
        else:
            effective.leave_out(block)


def in_order(findings: Iterable[Finding], document: Document) -> tuple[Finding, ...]:
    """Findings in the order of the text, the first file first."""
    files = {name: at for at, name in enumerate(document.files)}
    return tuple(sorted(findings, key=lambda each: (files.get(each.place.file, len(files)), each.place)))


def build(document: Document) -> tuple[Configuration, tuple[Finding, ...]]:
    """The configuration alone."""
    understanding = understand(document)
    return understanding.configuration, understanding.findings

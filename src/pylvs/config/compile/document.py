"""The way from a document to a configuration: read by the schema, fill in, apply the rules, build."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from pylvs.config.compile import service_rules
from pylvs.config.compile.effective import EffectiveBlock, resolve
from pylvs.config.compile.scripts import ScriptRules, fifos_of
from pylvs.config.compile.service_rules import entries_of, groups_of
from pylvs.config.compile.services import ServiceMaker
from pylvs.config.compile.vrrp import vrrp_of
from pylvs.config.findings import Finding, Findings
from pylvs.config.gc_pause import gc_paused
from pylvs.config.language.tree import Document
from pylvs.config.schema.reader import Reader, Section
from pylvs.config.schema.root import ROOT
from pylvs.config.schema.types import WrittenScript
from pylvs.model.dataclass import dataclass
from pylvs.model.service import Timeouts
from pylvs.model.wanted import Configuration, GlobalSettings, Mail, WantedService
from pylvs.system import interfaces


def settings_of(effective: EffectiveBlock) -> GlobalSettings:
    """The settings of a whole configuration; its global_defs is there even if the file has none."""
    block = next(effective.below("global_defs"))
    user, group = block.maybe("script_user", tuple) or ("", "")
    return GlobalSettings(
        router_id=block.maybe("router_id", str) or "",
        script_user=user,
        script_group=group,
        script_security=block.get("enable_script_security", bool),
        mail=_mail(block),
        smtp_alert=block.maybe("smtp_alert", bool) or False,
        lvs_timeouts=block.maybe("lvs_timeouts", Timeouts),
        lvs_flush=block.get("lvs_flush", bool),
        lvs_flush_on_stop=block.get("lvs_flush_on_stop", str),
        exclusive=block.get("exclusive", bool),
        checker_nice=block.get("checker_priority", int),
        metrics_address=block.maybe("metrics_address", tuple),
        shared_probes=block.get("shared_probes", bool),
        startup_script_timeout_s=float(block.get("startup_script_timeout", int)),
        shutdown_script_timeout_s=float(block.get("shutdown_script_timeout", int)),
    )


def with_scripts(
    settings: GlobalSettings, effective: EffectiveBlock, scripts: ScriptRules, findings: Findings
) -> GlobalSettings:
    """The same with the programs that it names, of those that may run."""
    block = next(effective.below("global_defs"))
    return replace(
        settings,
        fifo=next(fifos_of(block, scripts, findings, ("lvs_notify_fifo",)), None),
        startup_script=scripts.usable(block.maybe("startup_script", WrittenScript)),
        shutdown_script=scripts.usable(block.maybe("shutdown_script", WrittenScript)),
    )


def _mail(block: EffectiveBlock) -> Mail:
    server, port = block.get("smtp_server", tuple)
    lines = (line for each in block.below("notification_email") for line in each.section.lines(tuple))
    return Mail(
        recipients=tuple(address for line in lines for address in line),
        sender=block.maybe("notification_email_from", str) or "",
        server=server,
        port=port,
        helo_name=block.maybe("smtp_helo_name", str) or "",
        connect_timeout_s=block.get("smtp_connect_timeout", float),
    )


@dataclass(frozen=True, slots=True)
class CompiledDocument:
    """What a document means: the effective settings for people, the configuration for the rest of pylvs."""

    effective: EffectiveBlock
    configuration: Configuration
    findings: tuple[Finding, ...]  # of the meaning; those of the language are the reader's


def compile_document(document: Document, mtus: Mapping[str, int] | None = None) -> CompiledDocument:
    """The meaning of a document. Never raises: whatever is wrong is a finding, and the rest is built.

    `mtus` are those of the machine's devices by their names; None asks this machine.
    """
    with gc_paused():
        return _understand(document, mtus)


def _understand(document: Document, mtus: Mapping[str, int] | None) -> CompiledDocument:
    reader = Reader(ROOT)
    section = reader.read(document.nodes)
    findings = reader.findings
    effective = resolve(section)
    settings = settings_of(effective)
    scripts = ScriptRules(findings, settings.script_security, settings.script_user, settings.script_group)
    if settings.script_user:
        scripts.check_user(next(effective.below("global_defs")).location("script_user"))
    services = tuple(_services(effective, section, settings, scripts, findings))
    vrrp = vrrp_of(effective, scripts, findings, interfaces.mtus() if mtus is None else mtus)
    configuration = Configuration(services, with_scripts(settings, effective, scripts, findings), vrrp)
    return CompiledDocument(effective, configuration, sort_findings(findings.all(), document))


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


def sort_findings(findings: Iterable[Finding], document: Document) -> tuple[Finding, ...]:
    """Findings in the order of the text, the first file first."""
    files = {name: at for at, name in enumerate(document.files)}
    return tuple(sorted(findings, key=lambda each: (files.get(each.location.file, len(files)), each.location)))


def build(document: Document) -> tuple[Configuration, tuple[Finding, ...]]:
    """The configuration alone."""
    understanding = compile_document(document)
    return understanding.configuration, understanding.findings

"""Compile a document: read it by the schema, resolve effective values, apply the rules, make model objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

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
from pylvs.netlink import links


@dataclass(frozen=True, slots=True)
class CompiledDocument:
    """A document's effective settings, for people, and its configuration, for the rest of pylvs."""

    effective: EffectiveBlock
    configuration: Configuration
    findings: tuple[Finding, ...]  # without those of the parser


def compile_document(document: Document, mtus: Mapping[str, int] | None = None) -> CompiledDocument:
    """Compile a document. Never raises: problems are findings, and the rest is compiled.

    `mtus` maps devices to their MTUs; None stands for this machine's devices.
    """
    with gc_paused():
        return _compile(document, mtus)


def _compile(document: Document, mtus: Mapping[str, int] | None) -> CompiledDocument:
    reader = Reader(ROOT)
    section = reader.read(document.nodes)
    findings = reader.findings
    effective = resolve(section)
    settings = settings_of(effective)
    scripts = ScriptRules(findings, settings.script_security, settings.script_user, settings.script_group)
    if settings.script_user:
        scripts.check_user(next(effective.below("global_defs")).location("script_user"))
    services = tuple(_services(effective, section, settings, scripts, findings))
    vrrp = vrrp_of(effective, scripts, findings, _mtus() if mtus is None else mtus)
    configuration = Configuration(services, with_scripts(settings, effective, scripts, findings), vrrp)
    return CompiledDocument(effective, configuration, sort_findings(findings.all(), document))


def _mtus() -> dict[str, int]:
    return {each.name: each.mtu for each in links.devices()}


def _services(
    effective: EffectiveBlock, section: Section, settings: GlobalSettings, scripts: ScriptRules, findings: Findings
) -> Iterator[WantedService]:
    """Yield the services in the order of the text; remove rejected blocks from the effective configuration too."""
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


def settings_of(effective: EffectiveBlock) -> GlobalSettings:
    """Return the settings of global_defs, which exists even if the file has none."""
    block = next(effective.below("global_defs"))
    user, group = block.maybe("script_user", tuple, ("", ""))
    return GlobalSettings(
        router_id=block.maybe("router_id", str, ""),
        script_user=user,
        script_group=group,
        script_security=block.get("enable_script_security", bool),
        mail=_mail(block),
        smtp_alert=block.maybe("smtp_alert", bool, False),
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
    """Add the scripts and the FIFO that may be used."""
    block = next(effective.below("global_defs"))
    return replace(
        settings,
        fifo=next(fifos_of(block, scripts, findings, ("lvs_notify_fifo",)), None),
        startup_script=scripts.usable(block.maybe("startup_script", WrittenScript)),
        shutdown_script=scripts.usable(block.maybe("shutdown_script", WrittenScript)),
    )


def _mail(block: EffectiveBlock) -> Mail:
    server, port = block.get("smtp_server", tuple)
    return Mail(
        recipients=tuple(chain.from_iterable(block.lines("notification_email", tuple))),
        sender=block.maybe("notification_email_from", str, ""),
        server=server,
        port=port,
        helo_name=block.maybe("smtp_helo_name", str, ""),
        connect_timeout_s=block.get("smtp_connect_timeout", float),
    )


def sort_findings(findings: Iterable[Finding], document: Document) -> tuple[Finding, ...]:
    """Sort findings by file, in the order of reading, and location."""
    files = {name: at for at, name in enumerate(document.files)}
    return tuple(sorted(findings, key=lambda each: (files.get(each.location.file, len(files)), each.location)))


def build(document: Document) -> tuple[Configuration, tuple[Finding, ...]]:
    """Compile a document to its configuration and findings."""
    compiled = compile_document(document)
    return compiled.configuration, compiled.findings

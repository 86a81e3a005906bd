"""Compile a document: read it by the schema, resolve effective values, apply the rules, make model objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain

from pylvs.config.compile.effective import EffectiveBlock, resolve
from pylvs.config.compile.scripts import ScriptRules, fifos_of
from pylvs.config.compile.services import services_of
from pylvs.config.compile.vrrp import vrrp_of
from pylvs.config.findings import Finding
from pylvs.config.gc_pause import gc_paused
from pylvs.config.language.tree import Document
from pylvs.config.schema.reader import Reader
from pylvs.config.schema.root import ROOT
from pylvs.model.dataclass import dataclass
from pylvs.model.wanted import Configuration, GlobalSettings, Mail
from pylvs.system import proc


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
    effective = resolve(section, findings)
    settings = settings_of(effective)
    scripts = ScriptRules(findings, settings.script_security, settings.script_user, settings.script_group)
    if settings.script_user:
        scripts.check_user(next(effective.below("global_defs")).location("script_user"))
    services = tuple(services_of(effective, scripts))
    vrrp = vrrp_of(effective, scripts, proc.mtus() if mtus is None else mtus)
    configuration = Configuration(services, with_scripts(settings, effective, scripts), vrrp)
    return CompiledDocument(effective, configuration, sort_findings(findings.all(), document))


def settings_of(effective: EffectiveBlock) -> GlobalSettings:
    """Return the settings of global_defs, which exists even if the file has none."""
    block = next(effective.below("global_defs"))
    user, group = block.maybe("script_user", tuple, ("", ""))
    return block.make(
        GlobalSettings,
        script_user=user,
        script_group=group,
        script_security=block.get("enable_script_security", bool),
        mail=_mail(block),
        smtp_alert=block.maybe("smtp_alert", bool, False),
        fifo=None,  # `with_scripts` adds these
        startup_script=None,
        shutdown_script=None,
        startup_script_timeout_s=float(block.get("startup_script_timeout", int)),
        shutdown_script_timeout_s=float(block.get("shutdown_script_timeout", int)),
    )


def with_scripts(settings: GlobalSettings, effective: EffectiveBlock, scripts: ScriptRules) -> GlobalSettings:
    """Add the scripts and the FIFO that may be used."""
    block = next(effective.below("global_defs"))
    return replace(
        settings,
        fifo=next(fifos_of(block, scripts, ("lvs_notify_fifo",)), None),
        startup_script=scripts.of(block, "startup_script"),
        shutdown_script=scripts.of(block, "shutdown_script"),
    )


def _mail(block: EffectiveBlock) -> Mail:
    server, port = block.get("smtp_server", tuple)
    recipients = tuple(chain.from_iterable(block.lines("notification_email", tuple)))
    return block.make(Mail, recipients=recipients, server=server, port=port)


def sort_findings(findings: Iterable[Finding], document: Document) -> tuple[Finding, ...]:
    """Sort findings by file, in the order of reading, and location."""
    files = {name: at for at, name in enumerate(document.files)}
    return tuple(sorted(findings, key=lambda each: (files.get(each.location.file, len(files)), each.location)))


def build(document: Document) -> tuple[Configuration, tuple[Finding, ...]]:
    """Compile a document to its configuration and findings."""
    compiled = compile_document(document)
    return compiled.configuration, compiled.findings

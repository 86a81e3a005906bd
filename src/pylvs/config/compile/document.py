"""Compile a document: read it by the schema, resolve effective values, apply the rules, make model objects."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from operator import attrgetter

from pylvs.config.compile.descriptions import descriptions_of
from pylvs.config.compile.effective import EffectiveBlock, resolve
from pylvs.config.compile.scripts import ScriptRules, fifos_of
from pylvs.config.compile.services import services_of
from pylvs.config.compile.sync import sync_of
from pylvs.config.compile.vrrp import vrrp_of
from pylvs.config.language.tree import Document, Finding, gc_paused
from pylvs.config.schema.global_defs import PLACEMENT, ROOT
from pylvs.config.schema.grammar import Reader
from pylvs.config.schema.missing_braces import with_missing_braces
from pylvs.config.schema.types import SMTP_PORT
from pylvs.model.addresses import endpoint
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.described import Descriptions
from pylvs.model.service import TIMEOUT_NAMES, UNCHANGED, Timeouts
from pylvs.model.sync.daemons import SyncWanted
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import (
    PEER_PORT,
    Configuration,
    DbusSettings,
    GlobalSettings,
    Mail,
    PeerSettings,
    Placement,
    SnmpSettings,
    WantedService,
    WebSettings,
)
from pylvs.netlink import links


@dataclass(frozen=True, slots=True)
class CompiledDocument:
    """A document's effective settings, for people, and its configuration, for the rest of pylvs."""

    effective: EffectiveBlock
    configuration: Configuration
    findings: tuple[Finding, ...]  # without those of the parser


@gc_paused()
def compile_document(
    document: Document, devices: Iterable[links.Device] | None = None, every_mib: bool = False, snmp_socket: str = ""
) -> CompiledDocument:
    """Compile a document. Never raises: problems are findings, and the rest is compiled.

    `devices` are those of the machine; None stands for this one. `every_mib` and `snmp_socket`, if it is not empty, are
    instead of what the document has for SNMP.
    """
    reader = Reader(ROOT)
    section = reader.read(with_missing_braces(ROOT, document.nodes, reader.findings))
    effective = resolve(section, reader.findings)
    settings = next(effective.below("global_defs"))
    scripts = ScriptRules.of_document(settings)
    services = tuple(services_of(effective, scripts))
    vrrp = vrrp_of(effective, scripts, links.devices() if devices is None else devices)
    compiled = _settings(effective, settings, scripts, sync_of(effective, settings, vrrp))
    for block in settings.below("notification_email"):
        if not block.section.settings:
            block.warning("", "notification_email has no address; no alert is mailed", "write one, or remove the block")
    if not compiled.mail.server and _alerts(services, vrrp):
        for each in settings.below("notification_email"):
            each.warning("", "no alert is mailed: there is no smtp_server", "add smtp_server ADDRESS")
    snmp = compiled.snmp
    if every_mib:
        snmp = replace(snmp, vrrp=True, checker=True, rfc_v2=True, rfc_v3=True)
    compiled = replace(compiled, snmp=replace(snmp, socket=snmp_socket or snmp.socket))
    described = descriptions_of(effective) if compiled.snmp.checker else Descriptions()
    configuration = Configuration(services, compiled, vrrp, described)
    return CompiledDocument(effective, configuration, sort_findings(reader.findings.all(), document))


def placement_of(document: Document) -> Placement:
    """Return where the daemon of this document runs, without reading the rest of it. Findings are ignored."""
    names = {each.name for each in PLACEMENT}
    reader = Reader(ROOT)
    section = reader.read(tuple(node for node in document.nodes if node.keyword in names))
    return resolve(section, reader.findings).make(Placement)


def _alerts(services: Collection[WantedService], vrrp: VrrpConfiguration) -> bool:
    """Return whether anything would send mail."""
    notifies = [each.notify for each in vrrp.instances] + [each.notify for each in vrrp.groups]
    servers = (server for service in services for server in service.servers)
    return (
        any(each.smtp_alert for each in notifies)
        or any(each.smtp_alert for each in services)
        or any(each.smtp_alert for each in servers)
    )


def _settings(
    root: EffectiveBlock, block: EffectiveBlock, scripts: ScriptRules, sync: SyncWanted | None
) -> GlobalSettings:
    recipients = tuple(chain.from_iterable(block.lines("notification_email", tuple)))
    server, port = block.maybe("smtp_server", tuple, ("", SMTP_PORT))
    if block.has_line("metrics_allow") and not block.maybe("metrics_allow", tuple, ()):
        block.adjust("metrics_address", None, "metrics_allow is wrong, so it allows no client")
    return block.make(
        GlobalSettings,
        placement=root.make(Placement),
        script_user=scripts.user,
        script_group=scripts.group,
        script_security=scripts.secure,
        mail=block.make(Mail, recipients=recipients, server=server, port=port),
        snmp=_snmp(root, block),
        dbus=DbusSettings(
            enabled=block.get("enable_dbus", bool),
            service_name=block.get("dbus_service_name", str),
            no_interface_name=block.get("dbus_no_interface_name", str),
        ),
        peer=_peer(block),
        web=_web(block),
        lvs_timeouts=_timeouts(block.maybe("lvs_timeouts", dict, {})),
        sync=sync,
        smtp_alert=block.maybe("smtp_alert", bool, False),
        fifo=next(fifos_of(block, scripts, ("lvs_notify_fifo",)), None),
        startup_script=scripts.of(block, "startup_script"),
        startup_script_timeout_s=float(block.get("startup_script_timeout", int)),
        notify_timeout_s=float(block.get("notify_timeout", int)),
        shutdown_script=scripts.of(block, "shutdown_script"),
        shutdown_script_timeout_s=float(block.get("shutdown_script_timeout", int)),
    )


def _peer(block: EffectiveBlock) -> PeerSettings:
    """Return the settings of the other director; without its key there is none."""
    address, port = block.maybe("peer_director", tuple, (None, PEER_PORT))
    key_file = block.maybe("peer_key_file", str, "")
    if address is not None and not key_file:
        text = "peer_director has no key: no connection is copied"
        block.error("peer_director", text, "add peer_key_file FILE; pylvs peer key FILE makes one")
        address = None
    return PeerSettings(address, port, key_file, block.get("peer_rate", int), block.get("peer_wait", float))


def _web(block: EffectiveBlock) -> WebSettings:
    """Return the settings of the web page; there is none where other hosts could read it without a token."""
    made = WebSettings(
        block.maybe("web_address", tuple, None),
        *(block.maybe(f"web_{name}", str, "") for name in ("certificate", "key", "tokens", "url")),
    )
    if made.refused:
        assert made.address is not None
        text = f"web_address {endpoint(*made.address)} {made.refused}; no page is served"
        block.error("web_address", text, "add them, or write 127.0.0.1")
        return replace(made, address=None)
    return made


def _timeouts(seconds: Mapping[str, int]) -> Timeouts | None:
    """Return the timeouts by their names in lvs_timeouts, 0 for those to leave unchanged; None for none to set."""
    timeouts = Timeouts(*(seconds.get(name, 0) for name in TIMEOUT_NAMES))
    return None if timeouts == UNCHANGED else timeouts


def _snmp(root: EffectiveBlock, block: EffectiveBlock) -> SnmpSettings:
    return SnmpSettings(
        socket=block.get("snmp_socket", str),
        vrrp=block.get("enable_snmp_vrrp", bool) or block.get("enable_snmp_keepalived", bool),
        checker=block.get("enable_snmp_checker", bool),
        rfc_v2=block.get("enable_snmp_rfcv2", bool) or block.get("enable_snmp_rfc", bool),
        rfc_v3=block.get("enable_snmp_rfcv3", bool) or block.get("enable_snmp_rfc", bool),
        traps=block.get("enable_traps", bool),
        smtp_alert=block.maybe("smtp_alert", bool),
        smtp_alert_vrrp=block.maybe("smtp_alert_vrrp", bool),
        smtp_alert_checker=block.maybe("smtp_alert_checker", bool),
        linkbeat=root.get("linkbeat_use_polling", bool),
    )


def sort_findings(findings: Iterable[Finding], document: Document) -> tuple[Finding, ...]:
    """Sort findings by file, in the order of reading, and location."""
    files = {name: at for at, name in enumerate(document.files)}
    position = attrgetter("file", "line", "column", "width")
    return tuple(
        sorted(findings, key=lambda each: (files.get(each.location.file, len(files)), *position(each.location)))
    )


def build(
    document: Document, every_mib: bool = False, snmp_socket: str = ""
) -> tuple[Configuration, tuple[Finding, ...]]:
    """Compile a document to its configuration and findings."""
    compiled = compile_document(document, every_mib=every_mib, snmp_socket=snmp_socket)
    return compiled.configuration, compiled.findings

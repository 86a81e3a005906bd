"""From `global_defs` to the settings of the whole daemon."""

from __future__ import annotations

from dataclasses import replace

from pylvs.config.effective import EffectiveBlock
from pylvs.config.fifos import fifos_of
from pylvs.config.findings import Findings
from pylvs.config.schema.scripts import WrittenScript
from pylvs.config.script_rules import ScriptRules
from pylvs.model.service import Timeouts
from pylvs.model.wanted import GlobalSettings, Mail


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

"""What happened to servers and services, and what is wrong with a configuration, as lines of a log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from pylvs.config.findings import Finding, Severity
from pylvs.health.events import CheckFailed, Event, QuorumGained, QuorumLost, ServerDown, ServerEvent, SorryServerIn
from pylvs.system.logs import get_logger

_WARN = (ServerDown, QuorumLost, SorryServerIn)
_PLAIN = {field.name for field in fields(ServerEvent)} | {"override"}  # which the reason tells in words


def log_event(event: Event) -> None:
    """One line; none for a good start, nor for a failure that does not count yet and that nobody asked to hear of."""
    if isinstance(event, CheckFailed) and not (event.counted or event.log_all):
        return
    if isinstance(event, QuorumGained) and event.initial:
        return
    more = {
        field.name: getattr(event, field.name)
        for field in fields(event)
        if field.name not in _PLAIN and getattr(event, field.name) is not False
    }
    if isinstance(event, ServerEvent):
        more["server"] = str(event.server)
    log = get_logger()
    expected = getattr(event, "ending", False)
    tell = log.warning if isinstance(event, _WARN) and not expected else log.info
    tell(event.name.replace("_", " "), service=event.service, **more, reason=event.reason)


def log_findings(findings: Iterable[Finding]) -> None:
    """One line each."""
    log = get_logger()
    for finding in findings:
        tell = {Severity.ERROR: log.error, Severity.NOTE: log.info}.get(finding.severity, log.warning)
        advice = f"; {finding.advice}" if finding.advice else ""
        tell(f"{finding.place}: {finding.text}{advice}")

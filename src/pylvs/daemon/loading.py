"""A configuration from its file, and whether the daemon may run it."""

from __future__ import annotations

from dataclasses import replace

from pylvs.config.findings import Finding, Severity
from pylvs.daemon.options import Options
from pylvs.daemon.table.keeper import Settled
from pylvs.daemon.virtual_routers import Told
from pylvs.model.dataclass import dataclass, field
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import Configuration


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file came to; `empty` if it says nothing at all."""

    configuration: Configuration
    findings: tuple[Finding, ...] = ()
    empty: bool = False
    files: tuple[str, ...] = ()  # that it was read from


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload came to; `settled` is None where nothing was to be done, `routers` how virtual routers took it."""

    findings: tuple[Finding, ...]
    differences: tuple[str, ...]
    settled: Settled | None = None
    routers: Told = field(default_factory=Told)


class Refused(PylvsError):
    """A file that is not run; the table stays as it is."""

    def __init__(self, text: str, findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(text)
        self.findings = findings


def without_checks(configuration: Configuration) -> Configuration:
    """The same, every server being up."""
    services = tuple(
        replace(service, servers=tuple(replace(server, checks=(), alpha=False) for server in service.servers))
        for service in configuration.services
    )
    return replace(configuration, services=services)


def as_asked(configuration: Configuration, options: Options) -> Configuration:
    """What of it the command line wants."""
    found = configuration if options.checks else without_checks(configuration)
    return found if options.vrrp else replace(found, vrrp=VrrpConfiguration())


def errors(loaded: Loaded) -> list[Finding]:
    """The findings because of which the file does not do what it says."""
    return [finding for finding in loaded.findings if finding.severity is Severity.ERROR]


def accepted(loaded: Loaded, options: Options, allow_empty: bool, force: bool = True) -> Configuration:
    """The configuration, if it may be run; with errors only by `force`. Raises Refused."""
    fatal = [finding for finding in loaded.findings if finding.fatal]
    if fatal:
        raise Refused(f"{options.file}: cannot be run: {fatal[0]}", loaded.findings)
    found = [finding for finding in loaded.findings if finding.severity is not Severity.NOTE]
    if options.strict and found:
        count = f"{len(found)} finding{'s' if len(found) > 1 else ''}"
        raise Refused(f"{options.file}: {count}, and --strict runs none: {found[0]}", loaded.findings)
    if (wrong := errors(loaded)) and not force:
        count = f"{len(wrong)} error{'s' if len(wrong) > 1 else ''}"
        raise Refused(f"{options.file}: {count}; repair the file, or reload with --force: {wrong[0]}", loaded.findings)
    if loaded.empty and not allow_empty:
        raise Refused(f"{options.file}: says nothing; to empty the table, reload with --allow-empty", loaded.findings)
    return loaded.configuration

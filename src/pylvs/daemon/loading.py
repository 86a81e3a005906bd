"""A configuration from its file, and whether the daemon may run it."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
from dataclasses import replace

from pylvs.config.building import build
from pylvs.config.findings import Finding, Place, Severity
from pylvs.config.reading import read
from pylvs.daemon.options import Options
from pylvs.daemon.table.reconciler import ReconcileResult
from pylvs.daemon.virtual_routers import ConfigureResult
from pylvs.host.own_python import command
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
    settled: ReconcileResult | None = None
    routers: ConfigureResult = field(default_factory=ConfigureResult)


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


def apply_options(configuration: Configuration, options: Options) -> Configuration:
    """What of it the command line wants."""
    found = configuration if options.checks else without_checks(configuration)
    return found if options.vrrp else replace(found, vrrp=VrrpConfiguration())


def errors(loaded: Loaded) -> list[Finding]:
    """The findings because of which the file does not do what it says."""
    return [finding for finding in loaded.findings if finding.severity is Severity.ERROR]


def accept(loaded: Loaded, options: Options, allow_empty: bool, force: bool = True) -> Configuration:
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


# --- loader ----------------------------------------------------------------------------------------------------------
# Reads configurations. What takes long is done in a process of its own, so that no check waits for it.


SLOW_S = 0.5  # of one processor, for reading the former time; a process takes about as long to start


def load(options: Options) -> Loaded:
    """The configuration in its file; what is wrong with it is a finding."""
    document, findings = read(options.file, options.ids)
    built, more = build(document)
    return Loaded(apply_options(built, options), (*findings, *more), not document.nodes, document.files)


class ConfigurationLoader:
    """Knows how long it took."""

    def __init__(self, long_s: float = SLOW_S) -> None:
        self._long_s = long_s
        self._took_s = 0.0

    def load(self, options: Options) -> Loaded:
        """As above; in a thread."""
        if self._took_s >= self._long_s:
            return load_in_subprocess(options)
        begin = time.thread_time()
        found = load(options)
        self._took_s = time.thread_time() - begin
        return found


def load_in_subprocess(options: Options) -> Loaded:
    """As above, in a process of its own."""
    try:
        done = subprocess.run(
            command("pylvs.daemon.loading"),
            input=pickle.dumps(options),
            stdout=subprocess.PIPE,
            start_new_session=True,  # what is typed at the terminal is for the daemon
            check=False,
        )
    except OSError as error:
        return _unread(options, f"no process could be made to read it: {error.strerror}")
    if done.returncode:
        how = f"exit status {done.returncode}" if done.returncode > 0 else f"ended by signal {-done.returncode}"
        return _unread(options, f"the process that reads it failed ({how})")
    found = pickle.loads(done.stdout)
    assert isinstance(found, Loaded)
    return found


def _unread(options: Options, text: str) -> Loaded:
    return Loaded(Configuration(), (Finding(Place(options.file, 1, 1), Severity.ERROR, text, fatal=True),))


def main() -> None:
    """The process: options come in, what was loaded goes out."""
    pickle.dump(load(pickle.load(sys.stdin.buffer)), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)


if __name__ == "__main__":
    main()

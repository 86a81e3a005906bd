"""Read the configuration, and decide whether the daemon may run it.

Reading a large file takes long and would delay checks. Such a file is read in a process of its own:
`python -m pylvs.daemon.loading`.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import mmap
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

from pylvs import __version__
from pylvs.config.address_moves import without_a_device
from pylvs.config.compile.document import build
from pylvs.config.language.parser import Parsed, read
from pylvs.config.language.preprocessor import ALL_CHECKS
from pylvs.config.language.tree import Finding, Location, Severity
from pylvs.daemon import Options
from pylvs.daemon.keepalived.placement import changed
from pylvs.model.bfd import BfdSession
from pylvs.model.checks import BfdCheck, goes_via_vip
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.described import Descriptions
from pylvs.model.errors import NO_MEMORY, PylvsError, counted
from pylvs.model.plain import Malformed, from_plain, to_plain
from pylvs.model.vrrp import VrrpConfiguration
from pylvs.model.wanted import Configuration, Placement
from pylvs.system.processes import command, other_version

VERSION_LINE = f"{__version__}\n".encode()  # first: another version may not understand the rest
LOAD_TIMEOUT_S = 120.0  # for reading the file in another process
SLOW_S = 0.5  # of CPU time for one read; starting a process takes about as long
MEMORY_PER_BYTE = 128  # of the file: what it takes to read it and to run what it says (measured: 110)
LEAST_MEMORY = 8 << 20  # for any file: the stack of a thread
_T = TypeVar("_T")
_LATE = {"Placement": Placement}  # what pylvs.daemon imports for type checkers only
_POSITION = re.compile(r"line \d+|:\d+:\d+")  # in the text of a finding


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read from the configuration file."""

    configuration: Configuration
    findings: tuple[Finding, ...] = ()
    files: tuple[str, ...] = ()  # the file and those that it includes


class Refused(PylvsError):
    """The daemon does not run this file; the table stays as it is."""

    exit_status = os.EX_CONFIG  # 78 of sysexits.h: another start would read the same file

    def __init__(self, text: str, findings: tuple[Finding, ...] = ()) -> None:
        super().__init__(text)
        self.findings = findings


def apply_options(configuration: Configuration, options: Options) -> Configuration:
    """Remove checks and virtual routers where the command line switches them off. An unchecked server is up."""
    if not options.checks:
        services = tuple(
            replace(
                service,
                servers=tuple(
                    replace(server, checks=(), checks_left_out=(), alpha=False) for server in service.servers
                ),
            )
            for service in configuration.services
        )
        configuration = replace(configuration, services=services)
    if not options.services:
        configuration = replace(configuration, services=(), described=Descriptions())
    if options.namespace:
        placement = replace(configuration.settings.placement, net_namespace=options.namespace)
        configuration = replace(configuration, settings=replace(configuration.settings, placement=placement))
    if options.vrrp:
        return configuration
    return replace(configuration, vrrp=VrrpConfiguration(sessions=_checked_sessions(configuration)))


def _checked_sessions(configuration: Configuration) -> tuple[BfdSession, ...]:
    """Return the BFD sessions that checks need."""
    checks = [each for service in configuration.services for server in service.servers for each in server.checks]
    names = {check.session for check in checks if isinstance(check, BfdCheck)}
    return tuple(each for each in configuration.vrrp.sessions if each.name in names)


def errors(loaded: Loaded) -> list[Finding]:
    """Return the findings because of which a part of the file has no effect."""
    return [finding for finding in loaded.findings if finding.refuses_reload]


def _new_errors(loaded: Loaded, in_force: Loaded) -> list[Finding]:
    """Return the errors that the file in force does not have, with any line numbers."""
    known = Counter(_POSITION.sub("", each.text) for each in errors(in_force))
    found = []
    for finding in errors(loaded):
        text = _POSITION.sub("", finding.text)
        if not known[text]:
            found.append(finding)
        known[text] -= known[text] > 0
    return found


def _refuse_empty(loaded: Loaded, options: Options, in_force: Loaded | None) -> None:
    """Raise Refused for a configuration that empties the table. A start has nothing `in_force`, but a former daemon's
    services.
    """
    new = loaded.configuration
    if not new.services and not new.vrrp.needs_process:
        text = "is empty"
    elif in_force and in_force.configuration.services and not new.services:
        text = "has no virtual_server, and services are in force"
    else:
        return
    advice = "to empty the table, reload with --allow-empty"
    if in_force is None:
        advice = "a former daemon left services; to remove them, run pylvs stop"
    raise Refused(f"{options.file}: {text}; {advice}", loaded.findings)


def _about(options: Options, text: str, finding: Finding) -> str:
    """Return why a file is refused, with the first finding, which names the file unless an include has it."""
    return f"{text}: {finding}" if finding.location.file == options.file else f"{options.file}: {text}: {finding}"


def accept(
    loaded: Loaded, options: Options, allow_empty: bool, in_force: Loaded | None = None, force: bool = False
) -> Configuration:
    """Return the configuration if the daemon may run it. Raises Refused.

    `in_force` is what a reload replaces. It refuses an error that this one does not have, except by `force`.
    """
    fatal = [finding for finding in loaded.findings if finding.fatal]
    if fatal:
        refused = Refused(_about(options, "the file cannot be run", fatal[0]), loaded.findings)
        if all(finding.may_pass for finding in fatal):
            refused.exit_status = PylvsError.exit_status  # systemd starts it again
        raise refused
    if keyword := changed(loaded.configuration, options.placement or Placement()):
        text = f"{options.file}: {keyword} cannot change while pylvs runs; restart it"
        raise Refused(text, loaded.findings)
    if options.tables_namespace and (check := _via_vip(loaded.configuration)):
        text = f"{options.file}: {check}: via_vip needs the tables in the namespace of the checks"
        raise Refused(f"{text}; remove net_namespace_ipvs or via_vip", loaded.findings)
    found = [finding for finding in loaded.findings if finding.severity is not Severity.NOTE]
    if options.strict and found:
        text = f"{counted(len(found), 'finding')}, and --strict runs none"
        raise Refused(_about(options, text, found[0]), loaded.findings)
    wrong = _new_errors(loaded, in_force) if in_force and not force else []
    if wrong:
        text = f"{counted(len(wrong), 'new mistake')}; repair the file, or reload with --force"
        raise Refused(_about(options, text, wrong[0]), loaded.findings)
    if not allow_empty:
        _refuse_empty(loaded, options, in_force)
    if in_force and not force:
        _refuse_absent_devices(loaded, options, in_force)
    return loaded.configuration


def _refuse_absent_devices(loaded: Loaded, options: Options, in_force: Loaded) -> None:
    """Raise Refused if a virtual router in force would lose its addresses for a device that this machine lacks."""
    absent = {each.absent_device: each for each in loaded.findings if each.absent_device}
    lost = without_a_device(in_force.configuration.vrrp, loaded.configuration.vrrp, absent.keys())
    for router, device in lost:
        text = f"{absent[device].location}: this machine has no device '{device}'"
        text += f", and vrrp_instance {router.name} would give up its addresses"
        raise Refused(f"{options.file}: {text}; {absent[device].advice}, or reload with --force", loaded.findings)


def _via_vip(configuration: Configuration) -> str:
    """Return a service with a check through its own address; "" if there is none."""
    for service in configuration.services:
        if any(goes_via_vip(check) for server in service.servers for check in server.checks):
            return service.name
    return ""


def parse(options: Options) -> Parsed:
    """Read the file and those that it includes. Errors are findings."""
    return read(options.file, options.ids, ALL_CHECKS if options.all_includes else frozenset())


def load(options: Options, parsed: Parsed | None = None) -> Loaded:
    """Read the file in this process, unless it is parsed already. Errors are findings."""
    document, findings = parsed or parse(options)
    built, more = build(document, options.every_mib, options.snmp_socket)
    return Loaded(apply_options(built, options), (*findings, *more), document.files)


class ConfigurationLoader:
    """Reads in this process, or in another if the last read was slow."""

    def __init__(self, slow_s: float = SLOW_S, parsed: Parsed | None = None) -> None:
        self._slow_s = slow_s
        self._took_s = 0.0
        self._parsed = parsed  # for the first load
        self._files: tuple[str, ...] = ()  # that the last load read

    def load(self, options: Options) -> Loaded:
        """Read the file. For a thread. Raises Refused without memory, before it takes any: the daemon's other threads
        need some, too.
        """
        parsed, self._parsed = self._parsed, None
        if parsed is None:
            _try_memory(options.file, self._files or (options.file,))
        if self._took_s >= self._slow_s:
            found = load_in_subprocess(options)
        else:
            begin = time.thread_time()
            found = load(options, parsed)
            self._took_s = time.thread_time() - begin
        self._files = found.files
        return found


def _try_memory(name: str, files: Iterable[str]) -> None:
    """Raise Refused if this process would not get the memory for files of these sizes."""
    size = 0
    for path in files:
        with contextlib.suppress(OSError):  # what reads it says why it cannot
            size += os.stat(path).st_size
    needed = LEAST_MEMORY + MEMORY_PER_BYTE * size
    try:
        mmap.mmap(-1, needed, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, OverflowError):  # a sparse file may have a size that no process can address
        raise without_memory(name, f"reading it may take {needed >> 20} MiB, and ") from None


def without_memory(name: str, why: str = "") -> Refused:
    """Return the refusal of a file for which this process gets no memory."""
    return Refused(f"{name}: {why}{NO_MEMORY}; use a smaller file, or allow pylvs run more memory")


def load_in_subprocess(options: Options) -> Loaded:
    """Read the file in a process of its own. Errors are findings."""
    import subprocess  # late: most files are read in this process

    try:
        done = subprocess.run(
            command("pylvs.daemon.loading"),
            input=VERSION_LINE + json.dumps(to_plain(options, names=_LATE)).encode(),
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for the daemon
            check=False,
            timeout=LOAD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return _unread(options, f"the process that reads it did not end within {LOAD_TIMEOUT_S:g} s")
    except OSError as error:
        return _unread(options, f"no process could be made to read it: {error.strerror}")
    if done.returncode:
        how = f"exit status {done.returncode}" if done.returncode > 0 else f"ended by signal {-done.returncode}"
        return _unread(options, f"the process that reads it failed ({how})")
    version, end, content = done.stdout.partition(b"\n")
    if version + end != VERSION_LINE:
        return _unread(options, f"the process that reads it {other_version(version.decode(errors='replace'))}")
    try:
        return _decoded(Loaded, content)
    except Malformed as error:
        return _unread(options, f"the process that reads it sent no configuration ({error})")


def _decoded(kind: type[_T], content: bytes) -> _T:
    """Return the object in this JSON. Raises Malformed.

    Other threads run in between: without the hook, a large text would be one call of a C function.
    """
    try:
        plain = json.loads(content, object_hook=lambda found: found)
    except (ValueError, RecursionError):
        raise Malformed("no JSON") from None
    found: _T = from_plain(kind, plain, _LATE)
    return found


def _unread(options: Options, text: str) -> Loaded:
    return Loaded(Configuration(), (Finding(Location(options.file, 1, 1), Severity.ERROR, text, fatal=True),))


def main() -> None:
    """Read the Options from stdin, and write what is Loaded to stdout, each as JSON after the version."""
    sys.stdout.buffer.write(VERSION_LINE)
    if sys.stdin.buffer.readline() == VERSION_LINE:
        loaded = load(_decoded(Options, sys.stdin.buffer.read()))
        sys.stdout.buffer.write(json.dumps(to_plain(loaded)).encode())


if __name__ == "__main__":
    # Not this copy's main: `__main__` has no names of types, by which `Loaded` is converted.
    importlib.import_module("pylvs.daemon.loading").main()

"""Start pylvs-vrrp before the daemon imports most of itself.

Reading the whole configuration, opening the tables and looking up names take long; the modules of the daemon alone take
a tenth of a second. So a process that has imported only the parser and the virtual routers forks. Its child sends the
first advertisement, or listens.

At a cold start no virtual router is master before the first table is complete: packets would meet no service. That
takes a second or two, and a backup waits longer for advertisements. A table that a killed daemon left serves at once.

The child has the part of the configuration without services. The daemon compares it with the whole one as soon as it
has read that, and sends it if they differ.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable

from pylvs.config.compile.document import build
from pylvs.config.language.parser import Parsed, names_services, read
from pylvs.config.language.preprocessor import ALL_CHECKS
from pylvs.daemon import TABLES, Options
from pylvs.daemon.keepalived.pid_files import PidFiles
from pylvs.daemon.state.directory import SERVICES_FILE, StateDirectory
from pylvs.daemon.virtual_routers import process
from pylvs.model.dataclass import dataclass
from pylvs.model.wanted import Configuration
from pylvs.system import lock
from pylvs.system.processes import show_as
from pylvs.vrrp import PID_FILE
from pylvs.vrrp.loop import set_scheduler

EXIT_BUG = 1
TABLE_WAIT_S = 30.0  # for the first table; then virtual routers may be master without it
STOP_TIMEOUT_S = 22.0  # until the process has run its notify scripts and ended


class ForkedProcess:
    """A forked child, with the part of subprocess.Popen that the daemon needs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        if self._status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, timeout: float) -> None:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        if self.poll() is not None:
            return
        descriptor = os.pidfd_open(self.pid)
        try:
            ended = select.poll()
            ended.register(descriptor, select.POLLIN)
            ended.poll(timeout * 1000)
        finally:
            os.close(descriptor)
        if self.poll() is None:
            from subprocess import TimeoutExpired  # late: the first advertisement does not wait for it

            raise TimeoutExpired("pylvs-vrrp", timeout)

    def end(self) -> None:
        """Let it give up its addresses and end; kill it if it hangs."""
        from subprocess import TimeoutExpired  # late: the first advertisement does not wait for it

        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.poll() is None:
                os.kill(self.pid, number)
                with contextlib.suppress(TimeoutExpired):
                    self.wait(STOP_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class FirstRouters:
    """The process, and the configuration that it has."""

    process: ForkedProcess
    configuration: Configuration

    def has(self, wanted: Configuration) -> bool:
        """Return whether it runs the virtual routers of this configuration."""
        mine = self.configuration
        return (mine.vrrp, mine.settings) == (wanted.vrrp, wanted.settings)


def parse_without_services(options: Options) -> Parsed:
    """Read the file and those that it includes, without most virtual servers."""
    return read(options.file, options.ids, ALL_CHECKS if options.all_includes else frozenset(), services=False)


def start(
    options: Options, parsed: Parsed, state: StateDirectory, pid_files: PidFiles, mask: Iterable[int] = ()
) -> FirstRouters | None:
    """Start the process of a file that was read without services; None if the daemon shall do so later.

    The daemon shall if there is no virtual router, or one of a former daemon runs. It also shall if the startup_script
    comes first, or if the file may be refused. The process has this signal mask. Call it while this process has one
    thread, and has locked the state directory and its PID files.
    """
    if not options.vrrp or options.strict:
        return None
    document, findings = parsed
    configuration, more = build(document)
    refused = any(each.fatal for each in (*findings, *more))
    if refused or not configuration.vrrp.needs_process or configuration.settings.startup_script:
        return None
    if lock.holder(state.path / PID_FILE):
        return None
    wait_s = TABLE_WAIT_S if options.services and names_services(document) and not _has_table(state) else 0.0
    pid = os.fork()
    if not pid:
        _run(options, state, pid_files, configuration, mask, wait_s)
    return FirstRouters(ForkedProcess(pid), configuration)


def _has_table(state: StateDirectory) -> bool:
    """Return whether a daemon was killed and left services, unless this machine was started again."""
    return TABLES.exists() and bool(state.read(SERVICES_FILE))


def _run(
    options: Options,
    state: StateDirectory,
    pid_files: PidFiles,
    configuration: Configuration,
    mask: Iterable[int],
    table_wait_s: float,
) -> None:
    """Be pylvs-vrrp until its end; does not return."""
    status = EXIT_BUG
    try:
        # On a busy machine the new session could wait 50 ms for a processor. `enable_realtime` reports what is refused.
        set_scheduler(configuration.vrrp.settings, [])
        os.setsid()  # Ctrl-C in the terminal is for the daemon
        state.abandon()
        pid_files.abandon()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)  # it logs to stderr, which it shares with the daemon
        os.close(null)
        with contextlib.suppress(OSError):
            show_as("pylvs-vrrp", str(state.path))
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        status = process.run(state.path, options.log_format, state.instance, configuration, table_wait_s)
    finally:
        os._exit(status)  # not the exit of the daemon, whose copy this is

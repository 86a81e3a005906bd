"""Start the daemon: read where it runs, enter that network namespace, start the virtual routers, run its event loop.

What this module imports delays the first advertisement. `tests/unit/test_start.py` lists what it may not import.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import stat
import sys
from typing import TYPE_CHECKING

from pylvs.config.compile.document import placement_of
from pylvs.config.language.parser import Parsed
from pylvs.daemon import Options, units
from pylvs.daemon.keepalived.pid_files import PidFiles, PidPaths
from pylvs.daemon.keepalived.placement import enter
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.virtual_routers import first
from pylvs.model.dataclass import dataclass, replace
from pylvs.system import logs
from pylvs.system.processes import import_asyncio

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

# late: virtual routers are started before the daemon imports the rest

EXIT_S = 30  # of the process, once the daemon has ended
SWITCH_S = 0.001  # how long the editor's thread may keep the event loop waiting
# The supervisor handles these. Until then one of them would end the daemon alone, and leave the virtual routers.
DEFERRED = {
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
    *(signal.SIGRTMIN + 2, signal.SIGRTMAX - 1),
}


@dataclass(frozen=True, slots=True)
class PidOptions:
    """The PID files that the command line names; "" is keepalived's default."""

    daemon: str = ""
    checkers: str = ""
    vrrp: str = ""


def run(options: Options, pids: PidOptions = PidOptions()) -> None:  # noqa: B008  immutable
    """Run the daemon in the foreground until a signal ends it. Raises PylvsError."""
    try:
        _run(options, pids)
    finally:
        logs.flush()


def _run(options: Options, pids: PidOptions) -> None:
    sys.setswitchinterval(SWITCH_S)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each check that runs has a socket
    once = _whole(options) if _is_read_once(options.file) else None
    parsed = once or first.parse_without_services(options)
    placement = placement_of(parsed[0])
    if options.namespace:
        placement = replace(placement, net_namespace=options.namespace)
    tables = enter(placement)
    options = replace(options, placement=placement, tables_namespace=tables)
    state = StateDirectory(options.state_dir, placement.instance)
    pid_files = PidFiles(PidPaths.of(placement, pids.daemon, pids.checkers, pids.vrrp))
    with contextlib.ExitStack() as failed:  # until the supervisor undoes a failed start
        state.acquire()
        failed.callback(state.release)
        pid_files.claim()  # before the fork: a file that another process has ends the start
        failed.callback(pid_files.release)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)
        gc.enable()  # pylvs.cli.main disabled it
        # Where the unit's last daemon left virtual routers elsewhere, the supervisor ends those before it starts these.
        moved = units.former(state.path) is not None
        routers = None if moved else first.start(options, parsed, state, pid_files, before)
        if routers is not None:
            failed.callback(routers.process.end)

        import_asyncio()
        from pylvs.system.garbage import limit_arenas

        limit_arenas()
        logs.set_up(options.log_format, background=True)  # a thread: not before the fork
        if not moved:  # else the supervisor does, once the configuration is accepted
            units.note(state.path)
        import asyncio

        from pylvs.daemon import gone_namespaces
        from pylvs.daemon.host.services import HostServices
        from pylvs.daemon.supervisor import Supervisor

        gone_namespaces.collect()
        supervisor = Supervisor(options, HostServices(tables, once), state, routers, pid_files)
        runner = failed.enter_context(asyncio.Runner())
        failed.pop_all()
    with runner:
        runner.run(_to_the_end(supervisor))


async def _to_the_end(supervisor: Supervisor) -> None:
    """Run the daemon. The kernel ends a process whose threads hang: the interpreter would wait for them."""
    try:
        await supervisor.run()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(EXIT_S)


def _whole(options: Options) -> Parsed:
    from pylvs.daemon.loading import parse

    return parse(options)


def _is_read_once(file: str) -> bool:
    """Return whether the file is a pipe or standard input."""
    try:
        return file == "-" or not stat.S_ISREG(os.stat(file).st_mode)
    except OSError:
        return False

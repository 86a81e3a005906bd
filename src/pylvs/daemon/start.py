"""Start the daemon: read where it runs, enter that network namespace, start the virtual routers, run its event loop.

What this module imports delays the first advertisement. `tests/unit/test_start.py` lists what it may not import.
"""

from __future__ import annotations

import os
import resource
import signal
import stat
import sys

from pylvs.config.compile.document import placement_of
from pylvs.config.language.parser import Parsed
from pylvs.daemon import Options
from pylvs.daemon.keepalived.pid_files import PidPaths
from pylvs.daemon.keepalived.placement import enter
from pylvs.daemon.state_dir import StateDirectory
from pylvs.daemon.virtual_routers import first
from pylvs.model.dataclass import dataclass, replace
from pylvs.system import logs

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
    paths = PidPaths.of(placement, pids.daemon, pids.checkers, pids.vrrp)
    options = replace(options, placement=placement, tables_namespace=tables, pid_paths=paths)
    state = StateDirectory(options.state_dir, placement.instance)
    state.acquire()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, DEFERRED)
    routers = first.start(options, parsed, state, before)

    logs.set_up(options.log_format, background=True)  # a thread: not before the fork
    import asyncio

    from pylvs.daemon.host import HostServices
    from pylvs.daemon.supervisor import Supervisor

    asyncio.run(Supervisor(options, HostServices(tables, once), state, routers).run())


def _whole(options: Options) -> Parsed:
    from pylvs.daemon.loading import parse

    return parse(options)


def _is_read_once(file: str) -> bool:
    """Return whether the file is a pipe or standard input."""
    try:
        return file == "-" or not stat.S_ISREG(os.stat(file).st_mode)
    except OSError:
        return False

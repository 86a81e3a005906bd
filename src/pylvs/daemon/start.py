"""Start the daemon: read where it runs, enter that network namespace, then run its event loop."""

from __future__ import annotations

import asyncio
import resource
import sys
from dataclasses import replace

from pylvs.config.compile.document import placement_of
from pylvs.daemon import Options
from pylvs.daemon.host import HostServices
from pylvs.daemon.keepalived.pid_files import PidPaths
from pylvs.daemon.keepalived.placement import enter
from pylvs.daemon.loading import parse
from pylvs.daemon.supervisor import Supervisor
from pylvs.model.dataclass import dataclass
from pylvs.system import logs

SWITCH_S = 0.001  # how long the editor's thread may keep the event loop waiting


@dataclass(frozen=True, slots=True)
class PidOptions:
    """The PID files that the command line names; "" is keepalived's default."""

    daemon: str = ""
    checkers: str = ""
    vrrp: str = ""


def run(options: Options, pids: PidOptions = PidOptions()) -> None:  # noqa: B008  immutable
    """Run the daemon in the foreground until a signal ends it. Raises PylvsError."""
    logs.set_up(options.log_format, background=True)
    try:
        _run(options, pids)
    finally:
        logs.flush()


def _run(options: Options, pids: PidOptions) -> None:
    sys.setswitchinterval(SWITCH_S)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each check that runs has a socket
    parsed = parse(options)
    placement = placement_of(parsed[0])
    if options.namespace:
        placement = replace(placement, net_namespace=options.namespace)
    tables = enter(placement)
    paths = PidPaths.of(placement, pids.daemon, pids.checkers, pids.vrrp)
    options = replace(options, placement=placement, tables_namespace=tables, pid_paths=paths)
    asyncio.run(Supervisor(options, HostServices(tables, parsed)).run())

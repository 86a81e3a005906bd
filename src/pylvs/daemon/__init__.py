"""`pylvs run`: checks real servers, reconciles the table with the configuration, and serves the API.

Only its options, and where its state is, are here. Every `pylvs` command imports them, so this file imports little.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pylvs.model.dataclass import dataclass

if TYPE_CHECKING:
    from pylvs.model.wanted import Placement

DEFAULT_FILE = "/etc/keepalived/keepalived.conf"
STATE_ROOT = Path("/run/pylvs/daemon")  # the state directories of all daemons
TABLES = STATE_ROOT.with_name("bpf")  # the pinned tables of all network namespaces (`pylvs.bpf.mounts`)
UNITS = STATE_ROOT.with_name("units")  # for each unit a link to the state directory of its daemon


@dataclass(frozen=True, slots=True)
class Options:
    """The command line of the daemon."""

    file: str = DEFAULT_FILE
    ids: tuple[str, ...] = ()  # lines that begin with @ID are read for these only
    strict: bool = False  # refuse a configuration with any finding
    checks: bool = True  # False: every server counts as up
    vrrp: bool = True  # False: virtual routers are not run
    keep_table: bool = False  # leave the services in the table at the end
    state_dir: Path | None = None  # None: the directory of this network namespace
    log_format: str = "text"  # destinations of the log (`pylvs.system.syslog`)
    services: bool = True  # False: virtual routers alone
    all_includes: bool = False  # each file of an include must be there
    namespace: str = ""  # instead of the configuration's net_namespace
    every_mib: bool = False  # SNMP serves all of them, also those that the configuration does not enable
    snmp_socket: str = ""  # instead of the configuration's
    placement: Placement | None = None  # where the process runs; None: where it was started
    tables_namespace: str = ""  # file of the tables' network namespace; "": the daemon's own

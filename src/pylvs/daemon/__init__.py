"""`pylvs run`: checks real servers, reconciles the table with the configuration, and serves the API.

Only its options are here. Every `pylvs` command imports them, so this file imports little.
"""

from __future__ import annotations

from pathlib import Path

from pylvs.model.dataclass import dataclass
from pylvs.system.logs import Format

DEFAULT_FILE = "/etc/keepalived/keepalived.conf"


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
    log_format: Format = "text"

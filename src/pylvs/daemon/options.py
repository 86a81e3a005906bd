"""How a daemon was told to run."""

from __future__ import annotations

from pathlib import Path

from pylvs.model.dataclass import dataclass
from pylvs.system.logs import Format

DEFAULT_FILE = "/etc/keepalived/keepalived.conf"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; the rest is in the configuration."""

    file: str = DEFAULT_FILE
    ids: tuple[str, ...] = ()  # of lines that begin with @
    strict: bool = False  # no configuration with a finding is run
    checks: bool = True  # without, every server counts as up
    vrrp: bool = True  # without, there are no virtual routers
    keep_table: bool = False  # at the end the services stay
    state_dir: Path | None = None  # None: that of this network namespace
    log_format: Format = "text"

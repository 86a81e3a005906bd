"""Where the parts of a lab are kept, and how to get into a host."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pylvs.lab.network import PREFIX
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation
from pylvs.system.namespaces import NAMED

STATE = Path("/run/pylvs/lab")  # one folder for each lab: lab.json, and where its hosts' disks are mounted
PINS = Path("/run/pylvs/lab-ns")  # mount and UTS namespaces, bound to files; a private mount while there are labs
DESCRIPTION = "lab.json"
MARK = Path("/etc/pylvs-lab")  # in a lab host, and nowhere else: "HOST of lab LAB"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Place:
    """One host of one lab."""

    lab: str
    host: str

    @property
    def network(self) -> Path:
        """Its network namespace."""
        return NAMED / f"{PREFIX}{self.lab}-{self.host}"

    @property
    def mounts(self) -> Path:
        """Its mount namespace."""
        return PINS / f"{self.lab}-{self.host}.mnt"

    @property
    def name(self) -> Path:
        """Its UTS namespace."""
        return PINS / f"{self.lab}-{self.host}.uts"

    @property
    def disk(self) -> Path:
        """Where it mounts, for itself alone, what it writes."""
        return STATE / self.lab / self.host

    def inside(self) -> list[str]:
        """The words before a command that make it run in this host."""
        return ["nsenter", f"--net={self.network}", f"--uts={self.name}", f"--mount={self.mounts}", "--"]


def checked_name(name: str) -> str:
    """A lab's name, if it can be one. Without hyphens: they part the lab's name from the host's."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_]{0,31}", name):
        raise InvalidOperation(f"{name!r}: not a name for a lab; use letters, digits and _, 32 at most")
    return name


def listed(folder: Path, prefix: str = "") -> list[Path]:
    """Return what is in a folder; nothing if it is missing, because the last lab removes the shared folders."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if name.startswith(prefix))
    except FileNotFoundError:
        return []


def environment(outer: Mapping[str, str] | None = None) -> dict[str, str]:
    """The user's environment as it makes sense inside a host: its own PATH first, and no proxies."""
    kept = {
        name: value
        for name, value in (os.environ if outer is None else outer).items()
        if not name.lower().endswith("_proxy") and not name.startswith("PYTHON")
    }
    kept["PATH"] = ":".join(dict.fromkeys([*SYSTEM_PATH.split(":"), *kept.get("PATH", "").split(":")])).strip(":")
    return kept

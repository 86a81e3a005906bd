"""Files and namespaces of lab hosts, and the command that enters a host."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from pylvs.lab.network import PREFIX
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation
from pylvs.system.namespaces import NAMED

STATE = Path("/run/pylvs/lab")  # one directory for each lab: lab.json and the mount points of its hosts
PINS = Path("/run/pylvs/lab-ns")  # files of mount and UTS namespaces; a private mount while there are labs
DESCRIPTION = "lab.json"
MARK = Path("/etc/pylvs-lab")  # in a lab host, and nowhere else: "HOST of lab LAB"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class LabHost:
    """A host of a lab: its namespaces and its disk."""

    lab: str
    host: str

    @property
    def network(self) -> Path:
        """Return the file of the network namespace."""
        return NAMED / f"{PREFIX}{self.lab}-{self.host}"

    @property
    def mounts(self) -> Path:
        """Return the file of the mount namespace."""
        return PINS / f"{self.lab}-{self.host}.mnt"

    @property
    def name(self) -> Path:
        """Return the file of the UTS namespace."""
        return PINS / f"{self.lab}-{self.host}.uts"

    @property
    def disk(self) -> Path:
        """Return the mount point of what the host writes; only the host sees it."""
        return STATE / self.lab / self.host

    def inside(self) -> list[str]:
        """Return the words that run a command in this host."""
        return ["nsenter", f"--net={self.network}", f"--uts={self.name}", f"--mount={self.mounts}", "--"]


def checked_name(name: str) -> str:
    """Return a lab's name if it is valid. A hyphen would separate the lab from the host."""
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
    """Return the user's environment for a host: with the system's PATH first, and without proxies."""
    variables = {
        name: value
        for name, value in (os.environ if outer is None else outer).items()
        if not name.lower().endswith("_proxy") and not name.startswith("PYTHON")
    }
    variables["PATH"] = ":".join(dict.fromkeys([*SYSTEM_PATH.split(":"), *variables.get("PATH", "").split(":")])).strip(
        ":"
    )
    return variables

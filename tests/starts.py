"""What the common commands load until they do their work. Scripts call some of them for each change of the table.

Each module costs a command up to a millisecond. `check` compares what was loaded with the table below.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

# Modules of pylvs, by package: of each no more than these. The last one is of `pylvs run` when it starts pylvs-vrrp.
_EDIT = {"bpf": 7, "dataplane": 17, "ipvsadm": 5, "model": 6, "netlink": 6, "system": 3}  # of one server
_PARSER = {"cli": 3, "config": 31, "model": 18}
LOADED: dict[str, dict[str, int]] = {
    "ipvsadm -Ln": {"bpf": 7, "dataplane": 5, "ipvsadm": 6, "model": 7, "system": 3},
    "ipvsadm -a": _EDIT,
    "ipvsadm -A": _EDIT | {"dataplane": 20},
    "pylvs --help": {"cli": 4, "daemon": 1, "model": 3, "system": 2},
    "pylvs status": {"cli": 9, "daemon": 6, "health": 2, "model": 8, "peer": 1, "system": 8, "vrrp": 2},
    "pylvs run": _PARSER | {"bfd": 6, "bpf": 3, "daemon": 12, "health": 2, "netlink": 9, "system": 17, "vrrp": 27},
}


def check(command: str, loaded: Collection[str]) -> None:
    """Fail if a command has loaded more modules of pylvs than it may."""
    names = sorted({name for name in loaded if name.startswith("pylvs.")})
    found = Counter(name.split(".")[1] for name in names)
    assert found, "the command has loaded nothing"
    more = {package: number for package, number in found.items() if number > LOADED[command].get(package, 0)}
    there = "\n".join(f"  {package}: {', '.join(_of(package, names))}" for package in more)
    assert not more, (
        f"{command} loads more modules than tests/starts.py has: {more} instead of {LOADED[command]}. Import them where"
        f" they are needed (`# late: reason`), or accept the delay in that table:\n{there}"
    )


def _of(package: str, names: list[str]) -> list[str]:
    return [name.removeprefix(f"pylvs.{package}").lstrip(".") for name in names if name.split(".")[1] == package]

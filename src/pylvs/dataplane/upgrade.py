"""Upgrades: whether this pylvs can read tables that another build made, and should replace their programs.

A state has a note with its build. If the layout of its tables is the same, the next edit replaces the programs of an
older build and keeps the connections. If it differs, every command but `pylvs down` refuses.
"""

from __future__ import annotations

import pylvs
from pylvs.bpf import abi
from pylvs.dataplane.state import State
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Unsupported

OBJECT = "director"
_NOTE = "object"


@dataclass(frozen=True, slots=True)
class Build:
    """A build of the data plane: digests of its tables' layout and of its object, and the version of its pylvs."""

    tables: str
    digest: str
    version: str

    def __str__(self) -> str:
        return f"pylvs {self.version} (object {self.digest}, tables {self.tables})"


def ours() -> Build:
    """Return the build of this pylvs."""
    return Build(abi.shipped().tables(OBJECT), abi.shipped().digest(OBJECT), pylvs.__version__)


def running(state: State) -> Build | None:
    """Return the build that a state runs; None without a readable note."""
    words = (state.note(_NOTE) or "").split()
    return Build(*words) if len(words) == 3 else None


def note(state: State) -> None:
    """Note that the state runs this build."""
    build = ours()
    state.set_note(_NOTE, f"{build.tables} {build.digest} {build.version}")


def check(state: State) -> None:
    """Raise Unsupported if the layout of the tables is not that of this build."""
    theirs = running(state)
    if theirs is None or theirs.tables != ours().tables:
        raise Unsupported(
            f"the tables of this network namespace are those of {theirs or 'another pylvs'}, this is {ours()};"
            " save them with that one, then: pylvs down, and restore them"
        )


def is_due(state: State) -> bool:
    """Return whether this build should replace the running one: it differs and its version is not older."""
    theirs = running(state)
    return theirs is not None and theirs.digest != ours().digest and _order(theirs.version) <= _order(pylvs.__version__)


def _order(version: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in version.split(".")]


__all__ = ["OBJECT", "Build", "check", "is_due", "note", "ours", "running"]

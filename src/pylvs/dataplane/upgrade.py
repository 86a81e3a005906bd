"""Tables that outlive the pylvs that made them: whether this one can read them, and should run its own program.

A state notes of which build it is. Where all that is shared is the same, a newer program takes over under live
connections at the next edit; where it differs, every command but `pylvs down` refuses.
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
    """The build that this pylvs brings."""
    return Build(abi.shipped().tables(OBJECT), abi.shipped().digest(OBJECT), pylvs.__version__)


def running(state: State) -> Build | None:
    """The build that a state runs; None where it does not tell."""
    words = (state.note(_NOTE) or "").split()
    return Build(*words) if len(words) == 3 else None


def note(state: State) -> None:
    """The state runs this build from now on."""
    build = ours()
    state.set_note(_NOTE, f"{build.tables} {build.digest} {build.version}")


def check(state: State) -> None:
    """Raises Unsupported where the tables are laid out otherwise than this build reads them."""
    theirs = running(state)
    if theirs is None or theirs.tables != ours().tables:
        raise Unsupported(
            f"the tables of this network namespace are those of {theirs or 'another pylvs'}, this is {ours()};"
            " save them with that one, then: pylvs down, and restore them"
        )


def is_due(state: State) -> bool:
    """Whether this build's program should replace the running one: it is another, and of no older version."""
    theirs = running(state)
    return theirs is not None and theirs.digest != ours().digest and _order(theirs.version) <= _order(pylvs.__version__)


def _order(version: str) -> list[int]:
    return [int(part) if part.isdigit() else 0 for part in version.split(".")]


__all__ = ["OBJECT", "Build", "check", "is_due", "note", "ours", "running"]

"""A move of the table between ip_vs and pylvs that has not ended: its gate is there (gate.py)."""

from __future__ import annotations

from pylvs.bpf.maps import MmapArray
from pylvs.dataplane.state import GATE, GIVING_BACK, SELECTED, State
from pylvs.model.dataclass import dataclass
from pylvs.system.lock import owner

OPEN = 1  # the word of a gate


@dataclass(frozen=True, slots=True)
class Move:
    """A move of the table between ip_vs and pylvs that has not ended.

    `command` moves it, or completes it. `serves` is `ip_vs` or `pylvs`. `process` moves it now; 0: it was interrupted.
    """

    command: str
    serves: str
    process: int = 0

    def __str__(self) -> str:
        now = f"runs, process {self.process}" if self.process else "was interrupted"
        then = "" if self.process else f"; {self.command} completes it"
        if not self.process and self.serves == "ip_vs" and "--back" not in self.command:
            then += ", and pylvs adopt --abort gives up"
        return f"{self.command} {now}: {self.serves} serves, and edits of the table are refused{then}"


def unfinished(state: State) -> Move | None:
    """Return the move of the table that has not ended; None: there is no gate."""
    if not (state.exists and state.has_gate):
        return None
    try:
        serves = "pylvs" if is_open(state) else "ip_vs"
    except FileNotFoundError:  # it ends now
        return None
    command = "pylvs adopt --back" if state.note(GIVING_BACK) else "pylvs adopt"
    return Move(command, serves, owner(state.pin_path(GATE)))


def is_open(state: State) -> bool:
    """Return whether a gate that exists is open."""
    with MmapArray.open(state.pin_path(f"{GATE}/{SELECTED}")) as selected:
        return selected.words[0] == OPEN

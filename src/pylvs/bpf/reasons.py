"""What becomes of packets: name, verdict and sentence of each reason, as bpf/abi/base.h declares them.

A packet that an attached device receives ends by exactly one reason that is no note. Notes are events besides.
"""

from __future__ import annotations

import os
from functools import cache

from pylvs.bpf import abi
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Unsupported


@dataclass(frozen=True, slots=True)
class Reason:
    """What became of a packet, or a note."""

    name: str  # as listings have it, with blanks
    verdict: str
    sentence: str

    @property
    def label(self) -> str:
        """The name as metrics have it."""
        return self.name.replace(" ", "_")


@cache
def reasons() -> dict[str, Reason]:
    """Return all reasons of this build by name, in the order of the enumeration. Raises Unsupported."""
    path = os.path.join(abi.OBJECTS, "reasons.txt")
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(" ", 2) for line in file]
    except FileNotFoundError:
        raise Unsupported(f"{path} is missing: install pylvs again; in a source tree: python hatch_build.py") from None
    found = [Reason(name.replace("_", " "), verdict, sentence) for name, verdict, sentence in lines]
    return {each.name: each for each in found}

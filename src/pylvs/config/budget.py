"""How much a configuration may make of itself: includes and variables can grow without end."""

from __future__ import annotations

from pylvs.config.findings import Findings
from pylvs.config.lines import Line
from pylvs.model.dataclass import dataclass

MOST_TEXT = 32 << 20  # characters: three times what 100,000 real servers with a check each need
MOST_OF_A_LINE = 1 << 16  # characters, before and after variables are replaced in it
MOST_LINES = 1_000_000  # lines: keepalived's manual has an example that makes 65,024 blocks of a dozen


@dataclass(slots=True)
class Budget:
    """What may still be read, and come out of variables, sequences and repeated includes: characters, and lines."""

    findings: Findings
    text: int = MOST_TEXT
    made: int = MOST_LINES

    def spend(self, characters: int, line: Line, made: int = 0) -> bool:
        """True while there is room; the first time that there is none is a finding about this line."""
        if self.text < 0 or self.made < 0:
            return False
        self.text -= characters + 1
        self.made -= made
        if self.text >= 0 and self.made >= 0:
            return True
        self.findings.error(
            line.place(0, max(1, len(line.text))),
            "the configuration grows beyond all bounds here",
            "look for variables, sequences or includes that multiply each other",
            fatal=True,
        )
        return False

"""`MISC_CHECK`: a program's exit status says how the server is."""

from __future__ import annotations

from pylvs.config.schema.nouns import Block, Keyword, Twice
from pylvs.config.schema.pace import checker_timing
from pylvs.config.schema.scripts import SCRIPT_ALONE, USER
from pylvs.config.schema.types import FLAG, Integer

LONGEST_TIMEOUT_S = 4294

MISC_CHECK = Block(
    "MISC_CHECK",
    "a program says how the server is: exit status 0 up, 1 down",
    (
        Keyword("misc_path", SCRIPT_ALONE, "the program"),
        Keyword(
            "misc_timeout",
            Integer(1, LONGEST_TIMEOUT_S),
            "seconds after which it is killed, and the server down",
            default_of="delay_loop",
        ),
        Keyword("misc_dynamic", FLAG, "exit status 2 to 255: up, with weight status - 2", default=False),
        Keyword("user", USER, "whom the program runs as", default_doc="script_user"),
        *checker_timing(retry=0, connect_timeout=False),
    ),
    twice=Twice.MANY,
)

"""`PING_CHECK`: an ICMP echo is answered."""

from __future__ import annotations

from pylvs.config.schema.checkers.target import CONNECTION
from pylvs.config.schema.nouns import Block, Twice
from pylvs.config.schema.pace import checker_timing

PING_CHECK = Block("PING_CHECK", "an ICMP echo is answered", (*CONNECTION, *checker_timing()), twice=Twice.MANY)

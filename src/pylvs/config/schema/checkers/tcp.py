"""`TCP_CHECK`: a connection can be made."""

from __future__ import annotations

from pylvs.config.schema.checkers.target import TARGET
from pylvs.config.schema.nouns import Block, Twice
from pylvs.config.schema.pace import checker_timing

TCP_CHECK = Block("TCP_CHECK", "a connection can be made", (*TARGET, *checker_timing()), twice=Twice.MANY)

"""The top of a configuration file: every block that may stand there. A new block is one line here."""

from __future__ import annotations

from pylvs.config.schema.global_defs import GLOBAL_DEFS
from pylvs.config.schema.nouns import Block

ROOT = Block("", "the whole file", (GLOBAL_DEFS,))

"""The top of a configuration file: every block that may stand there. A new block is one line here."""

from __future__ import annotations

from pylvs.config.schema.global_defs import GLOBAL_DEFS, TOP
from pylvs.config.schema.groups import VIRTUAL_SERVER_GROUP
from pylvs.config.schema.nouns import Block
from pylvs.config.schema.servers import VIRTUAL_SERVER

ROOT = Block("", "the whole file", (GLOBAL_DEFS, *TOP, VIRTUAL_SERVER_GROUP, VIRTUAL_SERVER))

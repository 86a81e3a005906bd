"""The top of a configuration file: every block that may stand there. A new block is one line here."""

from __future__ import annotations

from pylvs.config.schema import fixed, vrrp_globals, vrrp_tracks
from pylvs.config.schema.global_defs import GLOBAL_DEFS, TOP
from pylvs.config.schema.groups import VIRTUAL_SERVER_GROUP
from pylvs.config.schema.nouns import Block
from pylvs.config.schema.servers import VIRTUAL_SERVER
from pylvs.config.schema.vrrp_instance import VRRP_INSTANCE, VRRP_SYNC_GROUP

ROOT = Block(
    "",
    "the whole file",
    (
        GLOBAL_DEFS,
        *TOP,
        *vrrp_globals.VRRP_TOP,
        VIRTUAL_SERVER_GROUP,
        VIRTUAL_SERVER,
        VRRP_INSTANCE,
        VRRP_SYNC_GROUP,
        *vrrp_tracks.TRACK_DEFINITIONS,
        *fixed.STATIC_BLOCKS,
    ),
)

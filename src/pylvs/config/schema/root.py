"""The top of a configuration file: every block that may stand there. A new block is one line here."""

from __future__ import annotations

from pylvs.config.schema import global_defs, static, vrrp_tracks
from pylvs.config.schema.global_defs import GLOBAL_DEFS, TOP
from pylvs.config.schema.grammar import Block
from pylvs.config.schema.virtual_server import VIRTUAL_SERVER, VIRTUAL_SERVER_GROUP
from pylvs.config.schema.vrrp_instance import VRRP_INSTANCE, VRRP_SYNC_GROUP

ROOT = Block(
    "",
    "the whole file",
    (
        GLOBAL_DEFS,
        *TOP,
        *global_defs.VRRP_TOP,
        VIRTUAL_SERVER_GROUP,
        VIRTUAL_SERVER,
        VRRP_INSTANCE,
        VRRP_SYNC_GROUP,
        *vrrp_tracks.TRACK_DEFINITIONS,
        *static.STATIC_BLOCKS,
    ),
)

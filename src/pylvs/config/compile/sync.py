"""Compile lvs_sync_daemon, and its deprecated form in a vrrp_instance, by keepalived's rules."""

from __future__ import annotations

from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.compile.vrrp_tracking import name_of
from pylvs.config.schema.sync_types import SyncLine
from pylvs.model.sync.daemons import GROUP, PORT, TTL, SyncWanted
from pylvs.model.vrrp import VrrpConfiguration

_KEYWORD, _DEPRECATED = "lvs_sync_daemon", "lvs_sync_daemon_interface"


def sync_of(root: EffectiveBlock, settings: EffectiveBlock, vrrp: VrrpConfiguration) -> SyncWanted | None:
    """Return the sync daemons of a document, None for none. The VRID is the syncid where none is given."""
    line = settings.maybe(_KEYWORD, SyncLine)
    wanted = None
    for block in root.below("vrrp_instance"):
        interface = block.maybe(_DEPRECATED, str)
        if interface is None:
            continue
        block.warning(_DEPRECATED, f"{_DEPRECATED} is deprecated", f"write {_KEYWORD} INTERFACE in global_defs")
        name = name_of(block).text
        if line is not None or wanted is not None:
            block.warning(_DEPRECATED, "there is a sync daemon already; this one is ignored", "remove it")
        elif any(each.name == name for each in vrrp.instances):
            wanted = SyncWanted(interface, name)  # its syncid is 0, as in keepalived
    if line is None:
        return wanted
    vrids = {each.name: each.vrid for each in vrrp.instances}
    instance = "" if line.instance is None else line.instance.text
    if line.instance is not None and instance not in vrids:
        text = f"{_KEYWORD}: there is no virtual router '{instance}'; no sync daemon runs"
        settings.error(line.instance, text, "define a vrrp_instance of this name")
        return None
    numbers = line.numbers
    return SyncWanted(
        line.interface.text,
        instance,
        numbers.get("id", vrids.get(instance, 0)),
        numbers.get("maxlen", 0),
        line.group or GROUP,
        numbers.get("port", PORT),
        numbers.get("ttl", TTL),
    )

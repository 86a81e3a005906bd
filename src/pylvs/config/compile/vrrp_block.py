"""What a `vrrp_instance` says in force: its role, family, device, source and authentication."""

from __future__ import annotations

from pylvs.config.compile.effective import EffectiveBlock
from pylvs.config.schema.types import Written
from pylvs.model.addresses import Address
from pylvs.model.vrrp import OWNER, Ipvlan, Peer, Vmac

SOURCES = ("mcast_src_ip", "unicast_src_ip")


def is_version_3(block: EffectiveBlock) -> bool:
    return block.get("version", int) == 3


def is_master(block: EffectiveBlock) -> bool:
    """Return whether it begins as master."""
    return block.get("state", str) == "MASTER"


def is_owner(block: EffectiveBlock) -> bool:
    """Return whether it owns the addresses (RFC 9568: priority 255)."""
    return block.get("priority", int) == OWNER


def device_of(block: EffectiveBlock) -> str:
    return name_in(block, "interface")


def name_in(block: EffectiveBlock, name: str) -> str:
    device: Written[str] | None = block.maybe(name, Written)
    return device.value if device else ""


def family_of(block: EffectiveBlock) -> int:
    """Return the family of the first virtual address, source or peer in the text; 4 without any."""
    order = {id(node): at for at, node in enumerate(block.section.node.block or ())} if block.section.node else {}
    found: list[tuple[int, int]] = []
    for setting in block.section.settings:
        name = setting.keyword.name if setting.keyword else ""
        if name == "use_ipvlan" and isinstance(setting.value, Vmac):
            ipvlan = setting.value.ipvlan
            if ipvlan is not None and ipvlan.address is not None:
                found.append((order[id(setting.node)], ipvlan.address.version))
        if name in SOURCES and isinstance(setting.value, Address):
            found.append((order[id(setting.node)], setting.value.version))
        elif name == "native_ipv6":
            found.append((order[id(setting.node)], 6))
    for inner in block.below("virtual_ipaddress", "unicast_peer"):
        for line in inner.section.lines(object):
            assert isinstance(line, Peer | Written)
            address = line.address if isinstance(line, Peer) else line.value.interface
            found.append((order[id(inner.section.node)], address.version))
            break
    return min(found)[1] if found else 4


def first_source(block: EffectiveBlock) -> Address | None:
    return next((found for name in SOURCES if (found := block.address(name)) is not None), None)


def ipvlan_of(block: EffectiveBlock) -> Ipvlan | None:
    found = block.maybe("use_ipvlan", Vmac)
    return found.ipvlan if found is not None else None


def authentication_of(block: EffectiveBlock) -> tuple[str, bytes] | None:
    """Return type and password if both are given."""
    for authentication in block.below("authentication"):
        kind, password = authentication.maybe("auth_type", str), authentication.maybe("auth_pass", bytes)
        if kind and password:
            return kind, password
    return None

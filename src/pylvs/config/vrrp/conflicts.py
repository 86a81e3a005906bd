"""What virtual routers of one configuration may not share: a number on one link, an address, a device's name."""

from __future__ import annotations

from dataclasses import replace

from pylvs.config.findings import Findings
from pylvs.config.vrrp.instances import CompiledInstance
from pylvs.model.addresses import Address
from pylvs.model.vrrp import VrrpInstance


def without_conflicts(made: list[CompiledInstance], findings: Findings) -> list[CompiledInstance]:
    """Without those that cannot run beside an earlier one; the rest is only said."""
    kept: list[CompiledInstance] = []
    holders: dict[Address, str] = {}
    vmacs: dict[str, str] = {}
    for each in made:
        instance = each.instance
        twin = next((other.instance for other in kept if _collide(other.instance, instance)), None)
        if twin is not None:
            text = (
                f"{instance.name} and {twin.name} both have VRID {instance.vrid} with IPv{instance.family} on"
                f" {instance.interface}; {instance.name} is left out"
            )
            findings.error(each.block.place("virtual_router_id"), text, "give one of them another number")
            continue
        for held in each.addresses:
            address = held.address.interface.ip
            holder = holders.setdefault(address, instance.name)
            if holder != instance.name:
                text = f"{address} belongs to {holder} too: both can hold it at once"
                findings.warning(held.word.place, text, "give each address to one virtual router")
        if instance.vmac is not None and instance.vmac.name:
            other = vmacs.setdefault(instance.vmac.name, instance.name)
            if other != instance.name:
                text = f"the VMAC {instance.vmac.name} is {other}'s; this one gets a name by itself"
                findings.error(each.block.place("use_vmac"), text, "give it another name")
                each = _unnamed(each)
        kept.append(each)
    return kept


def _collide(one: VrrpInstance, other: VrrpInstance) -> bool:
    """Whether the advertisements of one would be taken for the other's."""
    same = (one.vrid, one.family, one.interface) == (other.vrid, other.family, other.interface)
    if not same or bool(one.peers) != bool(other.peers):
        return False
    if one.peers:
        return bool({peer.address for peer in one.peers} & {peer.address for peer in other.peers})
    return one.multicast == other.multicast


def _unnamed(made: CompiledInstance) -> CompiledInstance:
    assert made.instance.vmac is not None
    return replace(made, instance=replace(made.instance, vmac=replace(made.instance.vmac, name="")))

"""What a reload does to the virtual addresses that this machine may hold: which leave it, move, or are lost."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pylvs.model.addresses import Address
from pylvs.model.vrrp import VrrpConfiguration, VrrpInstance


def _held(instance: VrrpInstance) -> dict[Address, str]:
    """Return the addresses of a virtual router, each with its device."""
    every = (*instance.addresses, *instance.excluded)
    return {each.interface.ip: each.device or instance.interface for each in every}


def _listed(addresses: Collection[Address]) -> str:
    return ", ".join(map(str, addresses))


def address_notes(old: VrrpConfiguration, new: VrrpConfiguration) -> dict[str, str]:
    """Return what a master does with its addresses, by the name of each virtual router that gives up or moves any."""
    after = {each.name: _held(each) for each in new.instances}
    owner = {address: name for name, held in after.items() for address in held}
    notes = {}
    for instance in old.instances:
        before, now = _held(instance), after.get(instance.name, {})
        moves: dict[str, list[Address]] = {}
        for address, device in before.items():
            if address not in owner:
                moves.setdefault("a master gives up {}", []).append(address)
            elif address not in now:
                moves.setdefault(f"a master hands {{}} to vrrp_instance {owner[address]}", []).append(address)
            elif now[address] != device:
                moves.setdefault(f"a master moves {{}} from {device} to {now[address]}", []).append(address)
        if moves:
            notes[instance.name] = "; ".join(text.format(_listed(found)) for text, found in moves.items())
    return notes


def without_a_device(
    old: VrrpConfiguration, new: VrrpConfiguration, absent: Collection[str]
) -> Iterator[tuple[VrrpInstance, str]]:
    """Yield the virtual routers in force that could hold their addresses no more, each with the absent device.

    The new configuration names it, and the old one does not. It is for the router itself, for an address or as a
    tracked device. A member of its sync group may have it as well.
    """
    before, after = ({each.name: each for each in which.instances} for which in (old, new))
    failing = {
        name: device
        for name, each in after.items()
        for device in sorted(_devices(each) - (_devices(before[name]) if name in before else set()))
        if device in absent
    }
    for group in new.groups:
        failed = next((failing[name] for name in group.members if name in failing), "")
        failing |= dict.fromkeys(group.members, failed) if failed else {}
    yield from ((before[name], failing[name]) for name in before if name in failing and _held(before[name]))


def _devices(instance: VrrpInstance) -> set[str]:
    """Return the devices whose absence is a fault of the virtual router, or of one of its addresses."""
    tracked = {each.name for each in instance.tracks.interfaces if not each.weight}
    own = {instance.interface} if instance.track_primary else set()
    return own | tracked | set(_held(instance).values())

"""Which VMACs virtual routers have, how they are called, and which device each virtual address is on; pure.

The rules are keepalived's. A virtual router with a VMAC holds the addresses of its family there, unless they name
another device; the rest are on the devices that they name, or on a VMAC of their own above those.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import count
from typing import Protocol

from pylvs.model.dataclass import dataclass, field
from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import VrrpInstance, VrrpSettings

PREFIX = {4: bytes.fromhex("00005e0001"), 6: bytes.fromhex("00005e0002")}  # RFC 9568, 7.3
KIND = "macvlan"


class Existing(Protocol):
    """A device that is there."""

    @property
    def index(self) -> int:
        """Its number."""

    @property
    def mac(self) -> bytes:
        """Its address."""

    @property
    def below(self) -> int:
        """The number of the device below; 0 for none."""

    @property
    def kind(self) -> str:
        """What it is; "macvlan"."""


@dataclass(frozen=True, slots=True)
class VmacDevice:
    """A macvlan in private mode above `base`, with the MAC address of a virtual router."""

    name: str
    base: str
    mac: bytes
    family: int  # of the addresses on it: 4 or 6


@dataclass(slots=True)
class Plan:
    """All VMACs of a configuration."""

    by_router: dict[str, VmacDevice] = field(default_factory=dict)  # where a virtual router itself speaks, by its name
    for_addresses: dict[tuple[str, str, int], VmacDevice] = field(default_factory=dict)  # by router, base and family

    @property
    def devices(self) -> list[VmacDevice]:
        """Each of them once."""
        return list(dict.fromkeys([*self.by_router.values(), *self.for_addresses.values()]))

    def device_of(self, instance: VrrpInstance) -> str:
        """Where a virtual router speaks, and where its addresses are answered for."""
        own = self.by_router.get(instance.name)
        return own.name if own else instance.interface

    def placed(self, instance: VrrpInstance) -> list[tuple[HeldAddress, str]]:
        """Each address of a virtual router, also those that it does not advertise, with the name of its device."""
        return [(held, self._place(instance, held)) for held in (*instance.addresses, *instance.excluded)]

    def _place(self, instance: VrrpInstance, held: HeldAddress) -> str:
        base, family = held.device or instance.interface, held.interface.version
        if instance.name in self.by_router and (base, family) == (instance.interface, instance.family):
            return self.by_router[instance.name].name
        special = self.for_addresses.get((instance.name, base, family))
        return special.name if special and needs_own(instance, held) else base


def needs_own(instance: VrrpInstance, held: HeldAddress) -> bool:
    """Whether an address is on a VMAC that is not the virtual router's."""
    base, family = held.device or instance.interface, held.interface.version
    same = (base, family) == (instance.interface, instance.family)
    if same and instance.vmac is not None and instance.vmac.here:
        return False
    return held.own_vmac or (instance.vmac is not None and instance.vmac.for_addresses and not same)


def plan(
    instances: Iterable[VrrpInstance], settings: VrrpSettings, existing: Mapping[str, Existing] | None = None
) -> Plan:
    """The VMACs of these virtual routers; one that a former process left keeps its name."""
    found, existing = Plan(), existing or {}
    named = {each.vmac.name for each in instances if each.vmac is not None} - {""}
    taken = named | existing.keys()
    for instance in instances:
        if instance.vmac is not None and instance.vmac.here:
            mac = mac_of(instance, instance.family)
            name = instance.vmac.name or left(existing, found, instance.interface, mac)
            name = name or free(settings.vmac_prefix, instance.vrid, instance.family, taken)
            found.by_router[instance.name] = VmacDevice(name, instance.interface, mac, instance.family)
            taken.add(name)
        for held in (*instance.addresses, *instance.excluded):
            base, family = held.device or instance.interface, held.interface.version
            key = (instance.name, base, family)
            if key in found.for_addresses or not needs_own(instance, held):
                continue
            mac = mac_of(instance, family)
            name = left(existing, found, base, mac)
            name = name or free(settings.vmac_address_prefix, instance.vrid, family, taken)
            found.for_addresses[key] = VmacDevice(name, base, mac, family)
            taken.add(name)
    return found


def mac_of(instance: VrrpInstance, family: int) -> bytes:
    """The MAC address of a virtual router: the given one, or the standard's."""
    given = instance.vmac.mac if instance.vmac is not None else None
    if given is None:
        given = PREFIX[family]
    return given if len(given) == 6 else given + bytes([instance.vrid])


def left(existing: Mapping[str, Existing], found: Plan, base: str, mac: bytes) -> str:
    """The name of a macvlan above `base` with that address, if there is one that is not taken yet; else ""."""
    below = existing.get(base)
    if below is None:
        return ""
    used = {each.name for each in found.devices}
    for name, each in existing.items():
        if (each.kind, each.below, each.mac) == (KIND, below.index, mac) and name not in used:
            return name
    return ""


def free(prefix: str, vrid: int, family: int, taken: Collection[str]) -> str:
    """PREFIX.VRID, or with a number between the two when that name is taken: 6 for IPv6, else 1, 2, 3..."""
    return next(name for name in _names(prefix, vrid, family) if name not in taken)


def _names(prefix: str, vrid: int, family: int) -> Iterator[str]:
    yield f"{prefix}.{vrid}"
    if family == 6:
        yield f"{prefix}6.{vrid}"
    for number in count(1):
        yield f"{prefix}{number}.{vrid}"

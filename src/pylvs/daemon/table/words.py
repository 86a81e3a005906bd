"""Services and servers in the words of logs: `weight 1 -> 3, method Route -> Masq`."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address

from pylvs.model.destination import Destination, Method, TunnelFlag
from pylvs.model.service import ServiceFlag, VirtualService

METHODS = {Method.MASQ: "NAT", Method.LOCAL: "local", Method.TUNNEL: "TUN", Method.ROUTE: "DR"}


def of_service(service: VirtualService) -> str:
    """How it is scheduled."""
    return _listed(_service_fields(service))


def of_destination(destination: Destination) -> str:
    """How it is reached, and with what weight."""
    return _listed(_destination_fields(destination))


def service_changes(before: VirtualService, after: VirtualService) -> str:
    """What differs."""
    return _changes(_service_fields(before), _service_fields(after))


def destination_changes(before: Destination, after: Destination) -> str:
    """What differs."""
    return _changes(_destination_fields(before), _destination_fields(after))


def _service_fields(service: VirtualService) -> dict[str, str]:
    fields = {"scheduler": service.scheduler}
    if service.flags & ServiceFlag.PERSISTENT or service.timeout_s:
        fields["persistence"] = f"{service.timeout_s} s"
    if service.mask != VirtualService(service.key).mask:
        v4 = isinstance(service.key.address, IPv4Address)
        fields["granularity"] = str(IPv4Address(service.mask)) if v4 else f"/{service.mask}"
    if service.engine:
        fields["engine"] = service.engine
    flags = [flag.name.lower().replace("_", "-") for flag in service.flags & ~ServiceFlag.PERSISTENT if flag.name]
    if flags:
        fields["flags"] = "+".join(flags)
    return fields


def _destination_fields(destination: Destination) -> dict[str, str]:
    fields = {"weight": str(destination.weight), "method": METHODS[destination.method]}
    if destination.upper or destination.lower:
        fields["thresholds"] = f"{destination.lower} to {destination.upper}"
    tunnel = destination.tunnel
    if tunnel.kind or tunnel.port or tunnel.flags:
        parts = [tunnel.kind.name, str(tunnel.port) if tunnel.port else ""]
        parts += [flag.name.lower() for flag in TunnelFlag if flag & tunnel.flags and flag.name]
        fields["tunnel"] = " ".join(part for part in parts if part)
    return fields


def _listed(fields: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in fields.items())


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    names = [*before, *(name for name in after if name not in before)]
    return ", ".join(
        f"{name} {before.get(name, 'none')} -> {after.get(name, 'none')}"
        for name in names
        if before.get(name) != after.get(name)
    )

"""What `pylvs show` prints: which device runs what, and why, and what became of packets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pylvs.dataplane import vip_roles
from pylvs.dataplane.devices.attach import attached
from pylvs.dataplane.devices.attachments import missing, not_forwarding
from pylvs.dataplane.devices.host import ThisHost, absent
from pylvs.dataplane.devices.move import unfinished
from pylvs.dataplane.devices.rp_filter import named
from pylvs.dataplane.director import open_director
from pylvs.model.rows import HookPackets, ServiceRow, TableUse, refusals
from pylvs.model.service import Method


def _hooks(packets: HookPackets) -> dict[str, Any]:
    return {"xdp": packets.xdp, "tc": packets.tc, "xdp_share": round(packets.xdp_share, 4)}


def overview() -> dict[str, Any]:
    """Return which device runs what, and why, with counts of packets, as JSON types.

    Raises NotPermitted, Unsupported.
    """
    director = open_director()
    if not director.state.exists:
        return {"tables": False, "devices": [], "unattached": [], "not_forwarding": [], "reasons": {}}
    services, counts = director.services(), director.packet_counts()
    tables = director.tables
    missing_vips = absent({row.service.key.address for row in services if not row.service.key.mark})
    roles, use, packets = vip_roles.in_force(tables), counts.use or TableUse(0, 0, 0), counts.forwarded
    total = HookPackets(sum(each.xdp for each in packets.values()), sum(each.tc for each in packets.values()))
    none = HookPackets(0, 0)
    checks, move = named(tables), unfinished(director.state)
    listed = {(row.service.key, each.destination.key) for row in services for each in row.destinations}
    devices = [
        {
            "device": each.device,
            "mode": each.mode,
            "reason": each.reason,
            "xdp": each.xdp,
            "tc": each.ingress,
            "tc_egress": each.egress,
            "rp_filter": checks.get(each.ifindex, ""),
            "forwarded": _hooks(packets.get(each.device, none)),
        }
        for each in attached(director.state)
    ]
    return {
        "tables": True,
        "object": str(director.state.build()),
        **({"move": str(move)} if move else {}),
        "connections": use.used,
        "conn_max": use.capacity,
        "fill": round(use.fill, 4),
        "half_open": use.half_open,
        "half_open_share": round(use.half_open_share, 4),
        "refused": {name: count for name, count in refusals(counts.reasons).items() if count},
        "services": len(services),
        "forwarded": _hooks(total),
        "devices": devices,
        "unattached": [
            {"device": each.device, "reason": each.reason, "needed": each.needed} for each in missing(director.tables)
        ],
        "not_forwarding": not_forwarding(tables),
        **_of_servers(services),
        "handshakes": [
            {"service": str(key), "server": str(server), "begun": counted.begun, "completed": counted.completed}
            for (key, server), counted in director.handshakes().items()
            if (key, server) in listed
        ],
        "absent": [{"address": str(each), "device": device} for each, device in sorted(missing_vips.items(), key=str)],
        "standby": sorted(map(str, roles.standby)),
        "master": sorted(map(str, roles.held)),
        "reasons": {name: count for name, count in counts.reasons.items() if count},
    }


def _of_servers(services: Sequence[ServiceRow]) -> dict[str, Any]:
    """Return what is wrong on the way to real servers, and back from those of NAT."""
    destinations = [each.destination for row in services for each in row.destinations]
    with ThisHost() as host:
        silent = host.unresolved({each.key.address for each in destinations})
        by_nat = {each.key.address.version for each in destinations if each.method is Method.MASQ}
        return {
            "not_routing": host.not_routing(by_nat),
            "unresolved": [
                {"address": str(server), "device": device, "next_hop": str(hop)}
                for server, (device, hop) in sorted(silent.items(), key=str)
            ],
        }

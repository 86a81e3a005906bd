"""What `pylvs show` prints: which device runs what, and why, and what became of packets."""

from __future__ import annotations

from typing import Any

from pylvs.dataplane import vip_roles
from pylvs.dataplane.devices.attach import attached
from pylvs.dataplane.devices.attachments import missing, not_forwarding
from pylvs.dataplane.devices.host import absent
from pylvs.dataplane.director import open_director
from pylvs.dataplane.reader import forwarded, reason_counts, table_use
from pylvs.model.rows import HookPackets, refusals


def _hooks(packets: HookPackets) -> dict[str, Any]:
    return {"xdp": packets.xdp, "tc": packets.tc, "xdp_share": round(packets.xdp_share, 4)}


def overview() -> dict[str, Any]:
    """Return which device runs what, and why, with counts of packets, as JSON types. Raises PylvsError."""
    director = open_director()
    if not director.state.exists:
        return {"tables": False, "devices": [], "unattached": [], "not_forwarding": [], "reasons": {}}
    tables = director.tables
    services = director.services()
    missing_vips = absent({row.service.key.address for row in services if not row.service.key.mark})
    roles, use, packets = vip_roles.in_force(tables), table_use(tables), forwarded(tables)
    total = HookPackets(sum(each.xdp for each in packets.values()), sum(each.tc for each in packets.values()))
    none = HookPackets(0, 0)
    return {
        "tables": True,
        "object": str(director.state.build()),
        "connections": use.used,
        "conn_max": use.capacity,
        "fill": round(use.fill, 4),
        "half_open": use.half_open,
        "half_open_share": round(use.half_open_share, 4),
        "refused": {name: count for name, count in refusals(reason_counts(tables)).items() if count},
        "services": len(services),
        "forwarded": _hooks(total),
        "devices": [
            {
                "device": each.device,
                "mode": each.mode,
                "reason": each.reason,
                "xdp": each.xdp,
                "tc": each.ingress,
                "tc_egress": each.egress,
                "forwarded": _hooks(packets.get(each.device, none)),
            }
            for each in attached(director.state)
        ],
        "unattached": [
            {"device": each.device, "reason": each.reason, "needed": each.needed} for each in missing(director.tables)
        ],
        "not_forwarding": not_forwarding(tables),
        "absent": [{"address": str(each), "device": device} for each, device in sorted(missing_vips.items(), key=str)],
        "standby": sorted(map(str, roles.standby)),
        "master": sorted(map(str, roles.held)),
        "reasons": {name: count for name, count in reason_counts(tables).items() if count},
    }

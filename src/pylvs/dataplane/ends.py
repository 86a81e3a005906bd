"""What became of packets: forwarded, passed, dropped or held, by device, by reason, and by service.

Programs count each packet that an attached device receives once (bpf/ctx/ended.h). The kernel counts what a device
receives, too, independently. So the difference of both shows a packet that the packet path has lost.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from pylvs.bpf import abi
from pylvs.bpf.reasons import reasons
from pylvs.dataplane.devices import attach
from pylvs.dataplane.director import open_director
from pylvs.dataplane.reader import Reader, all_of, denied_syns, ends_by_ifindex, forwarded, reason_counts
from pylvs.dataplane.tables import Tables, service_of
from pylvs.model.rows import DeviceEnds, Ends, HookPackets, ServiceEnd


def ends(tables: Tables) -> Ends:
    """Return what became of packets so far. Raises NotPermitted, Unsupported."""
    devices, total = _of_devices(tables)
    reasons = {"forwarded xdp": total.xdp, "forwarded tc": total.tc, **reason_counts(tables)}
    return Ends(devices, reasons, _of_services(tables))


def report() -> dict[str, Any]:
    """Return what became of packets as JSON types, for `pylvs drops`. Raises NotPermitted, Unsupported."""
    director = open_director()
    if not director.state.exists:
        return {"tables": False, "devices": [], "reasons": []}
    director.state.check_build()
    found = ends(director.tables)
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for end in found.services:
        by_reason.setdefault(end.reason, []).append({"service": str(end.service), "count": end.count})
    return {
        "tables": True,
        "devices": [_described(device) for device in found.devices],
        "reasons": [
            {
                "reason": reason.name,
                "verdict": reason.verdict,
                "count": found.reasons[reason.name],
                "sentence": reason.sentence,
                "services": by_reason.get(reason.name, []),
            }
            for reason in reasons().values()
        ],
    }


def _described(device: DeviceEnds) -> dict[str, Any]:
    """Return the ends of a device as JSON types. While packets come, their numbers differ by those of the moment."""
    received = None if device.received is None else device.counted + (device.difference or 0)
    return {
        "device": device.device,
        "received": received,
        "forwarded": device.forwarded.xdp + device.forwarded.tc,
        "passed": device.passed,
        "dropped": device.dropped,
        "held": device.held,
        "difference": device.difference,
    }


def _of_devices(tables: Tables) -> tuple[tuple[DeviceEnds, ...], HookPackets]:
    """Return the ends by attached device, and all forwarded packets, those of former devices too."""
    there = attach.attached(tables.state)
    before = {each.ifindex: attach.received(tables.state, each.ifindex) for each in there}
    by_index = forwarded(tables)
    other = ends_by_ifindex(abi.shipped(), tables.device_packets)
    for denied in denied_syns(abi.shipped(), tables.path("denied_syns")):
        other[denied.ifindex][1] += denied.count
    found = []
    for device in there:
        first, last = before[device.ifindex], attach.received(tables.state, device.ifindex)
        xdp, tc = by_index.get(device.ifindex, (0, 0))
        passed, dropped, held = other[device.ifindex]
        received = (first[0], last[1]) if first and last else None
        found.append(DeviceEnds(device.device, received, HookPackets(xdp, tc), passed, dropped, held))
    return tuple(found), all_of(by_index)


def _of_services(tables: Tables) -> tuple[ServiceEnd, ...]:
    """Return the ends by service and reason, for the services that there are."""
    form = abi.struct("service_reason").view("service", "added", "reason")
    names = {number: name for name, number in abi.shipped().enum("reason").items()}
    reader = Reader(tables)
    live = reader.versions.live
    there = {(slot, version["added"]): service_of(version).key for slot, version in reader.versions.services(live)}
    found = []
    counts = Counter({form.unpack_from(key): count for key, count in tables.service_reasons.sums()})
    for denied in denied_syns(abi.shipped(), tables.path("denied_syns")):
        counts[(denied.slot, denied.added, abi.constant("REASON_CLIENT_DENIED"))] += denied.count
    for (slot, added, reason), count in counts.items():
        if service := there.get((slot, added)):
            name = names[reason].removeprefix("REASON_").lower().replace("_", " ")
            found.append(ServiceEnd(service, name, count))
    return tuple(sorted(found, key=lambda each: (each.reason, -each.count, str(each.service))))

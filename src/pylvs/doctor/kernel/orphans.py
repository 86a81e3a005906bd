"""Programs of a director whose tables are gone: their pins were removed, and devices still run them."""

from __future__ import annotations

from contextlib import suppress

from pylvs.dataplane.devices import attach
from pylvs.doctor.facts import Facts
from pylvs.netlink import tc
from pylvs.netlink.codec import Netlink, NetlinkError


def orphaned(facts: Facts) -> list[str]:
    """Return the devices that run the director's program at TC while this host has no tables."""
    return facts.once("orphaned", lambda: [] if facts.has_tables else _running(facts))


def _running(facts: Facts) -> list[str]:
    found = list[str]()
    with Netlink() as link, suppress(NetlinkError):
        for index in tc.clsact_devices(link):
            if tc.our_filter(link, index, tc.INGRESS, attach.ROLE) is not None:
                found += [each.name for each in facts.devices if each.index == index]
    return found

"""Devices, as the kernel's messages describe them (rtnetlink(7), linux/if_link.h)."""

from __future__ import annotations

import pytest

from pylvs.netlink import codec, links
from pylvs.netlink.codec import nested, text, u32


@pytest.mark.parametrize(("kind", "table"), [("vrf", 7), ("vlan", 0)])
def test_a_vrf_has_a_table(kind: str, table: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = nested(2, u32(1, 7))  # IFLA_INFO_DATA: the table of a VRF, the tag of a VLAN
    message = codec.IFINFOMSG.pack(0, 0, 5, 0, 0) + text(3, "blue") + nested(18, text(1, kind), data)
    monkeypatch.setattr(links, "_all", lambda number, *_: [message] if number == codec.GETLINK else [])
    (device,) = links.devices()
    assert (device.name, device.kind, device.vrf_table) == ("blue", kind, table)

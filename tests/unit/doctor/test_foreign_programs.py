"""Filters of other tools, as tc prints them, and queueing disciplines that lose packets."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from pylvs.doctor.kernel.foreign_programs import action_of, matches, syn
from pylvs.doctor.kernel.link_settings import LinkSettings
from pylvs.doctor.probes.data_plane.settings import full, kernel_name
from pylvs.model.rows import TableUse
from pylvs.model.service import Protocol, ServiceKey
from pylvs.netlink.links import Device
from pylvs.reference.packet import checksum

DEVICE = Device(2, "eth0", bytes((2, 0, 0, 0, 0, 1)), "", True, False, 1500, 0, 0, ())
VIP, SIX = ip_address("10.0.0.100"), ip_address("fd00:10::100")


@pytest.mark.parametrize("address", [VIP, SIX])
def test_the_made_up_frame_has_finished_checksums(address: Any) -> None:
    """A program that checks them passes it."""
    frame = syn(DEVICE, address, 80)
    start = 34 if address.version == 4 else 54
    addresses = frame[26:34] if address.version == 4 else frame[22:54]
    segment = frame[start:]
    assert checksum(addresses + bytes((0, 6)) + len(segment).to_bytes(2, "big") + segment) == 0
    assert address.version == 6 or checksum(frame[14:34]) == 0
    assert frame[:6] == DEVICE.mac


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"kind": "matchall", "protocol": "all"}, True),
        ({"kind": "matchall", "protocol": "ipv6"}, False),
        ({"kind": "flower", "protocol": "ip", "options": {"keys": {"dst_ip": "10.0.0.100", "dst_port": 80}}}, True),
        ({"kind": "flower", "protocol": "ip", "options": {"keys": {"dst_ip": "10.0.0.0/24"}}}, True),
        ({"kind": "flower", "protocol": "ip", "options": {"keys": {"dst_ip": "10.0.0.101"}}}, False),
        ({"kind": "flower", "protocol": "ip", "options": {"keys": {"ip_proto": "udp"}}}, False),
        ({"kind": "flower", "protocol": "ip", "options": {"keys": {"dst_port": 443}}}, False),
        ({"kind": "u32", "protocol": "ip", "options": {"match": {}}}, False),
        (
            {
                "kind": "u32",
                "protocol": "ip",
                "options": {"match": {"value": "a000064", "mask": "ffffffff", "offmask": "", "off": 16}},
            },
            True,
        ),
        (
            {
                "kind": "u32",
                "protocol": "ip",
                "options": {"match": {"value": "a000065", "mask": "ffffffff", "offmask": "", "off": 16}},
            },
            False,
        ),
    ],
)
def test_filters_are_evaluated_for_the_frame(found: dict[str, Any], expected: bool) -> None:
    """Each kind of filter, with a condition that holds or fails."""
    assert matches(found, found.get("options", {}), syn(DEVICE, VIP, 80), 80) is expected


@pytest.mark.parametrize(
    ("actions", "does"),
    [
        ([{"kind": "gact", "control_action": {"type": "drop"}}], "drops packets"),
        ([{"kind": "gact", "control_action": {"type": "pass"}}], "bypasses pylvs for packets"),
        ([{"kind": "gact", "control_action": {"type": "continue"}}], ""),
        ([{"kind": "mirred", "mirred_action": "mirror", "control_action": {"type": "pipe"}}], ""),
        (
            [{"kind": "mirred", "mirred_action": "redirect", "control_action": {"type": "stolen"}}],
            "redirects packets",
        ),
        (
            [
                {"kind": "skbedit", "control_action": {"type": "pipe"}},
                {"kind": "gact", "control_action": {"type": "drop"}},
            ],
            "drops packets",
        ),
        ([], ""),
    ],
)
def test_actions_decide_or_continue(actions: list[dict[str, Any]], does: str) -> None:
    """A pipe leads to the next action, continue to the next filter."""
    assert action_of({"actions": actions}) == does


def test_queues_that_lose_packets() -> None:
    """Loss by configuration, and drops of a tenth; not the few drops of a full queue."""
    queues: list[dict[str, Any]] = [
        {"kind": "netem", "dev": "eth0", "options": {"loss-random": {"loss": 0.3}}, "packets": 9, "drops": 0},
        {"kind": "netem", "dev": "eth1", "options": {"delay": {"delay": 0.1}}, "packets": 900, "drops": 500},
        {"kind": "tbf", "dev": "eth2", "options": {}, "packets": 1000, "drops": 500},
        {"kind": "fq_codel", "dev": "eth3", "options": {}, "packets": 100000, "drops": 500},
        {"kind": "ingress", "dev": "eth3"},
    ]
    found = LinkSettings([], queues)
    assert [[loss.text for loss in found.losses(f"eth{number}")] for number in range(4)] == [
        ["loss 30%"],
        [],
        ["drops: 500, sent: 1000"],
        [],
    ]
    assert [found.has_ingress(name) for name in ("eth0", "eth3")] == [False, True]


@pytest.mark.parametrize(("used", "severities"), [(900, []), (990, ["WARNING"]), (1024, ["ERROR"])])
def test_a_full_connection_table_is_a_finding(used: int, severities: list[str]) -> None:
    """New connections of NAT are dropped then."""
    assert [each.severity.name for each in full(TableUse(1024, used, 0))] == severities


def test_the_kernels_own_services_are_found_by_their_lines() -> None:
    """As /proc/net/ip_vs prints them."""
    assert kernel_name(ServiceKey(Protocol.TCP, VIP, 80)) == "TCP  0A000064:0050 "
    assert kernel_name(ServiceKey(Protocol.UDP, SIX, 53)) == "UDP  [fd00:0010:0000:0000:0000:0000:0000:0100]:0035 "
    assert kernel_name(ServiceKey.of_mark(7)) == "FWM  00000007 "

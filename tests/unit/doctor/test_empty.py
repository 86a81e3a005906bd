"""A table without a service is an error only if clients use it."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.doctor.finding import Severity
from pylvs.doctor.probes.data_plane.empty import is_virtual, of_table
from pylvs.netlink.links import AssignedAddress

VIP = ip_address("192.0.2.1")


@pytest.mark.parametrize(
    ("former", "asked", "virtual", "severity", "word"),
    [
        (["192.0.2.1:80"], [], [], Severity.ERROR, "connections to 192.0.2.1:80"),
        ([], ["192.0.2.1:80"], [VIP], Severity.ERROR, "clients connect to 192.0.2.1:80"),
        ([], [], [VIP], Severity.WARNING, "this host has 192.0.2.1"),
        ([], [], [], Severity.INFO, "no service"),
    ],
)
def test_the_severity_follows_what_was_seen(
    former: list[str], asked: list[str], virtual: list[object], severity: Severity, word: str
) -> None:
    found = of_table(former, asked, [VIP for _ in virtual])
    assert (found.id, found.severity, word in found.evidence) == ("table_empty", severity, True)


@pytest.mark.parametrize(
    ("prefix", "flags", "expected"), [(32, 0, True), (24, 0x01, True), (24, 0, False), (24, 0x80, False)]
)
def test_an_address_alone_or_beside_another_one_is_virtual(prefix: int, flags: int, expected: bool) -> None:
    assert is_virtual(AssignedAddress(2, VIP, VIP, prefix, "eth0", flags=flags)) is expected


def test_addresses_of_lo_are_not_virtual() -> None:
    here = ip_address("127.0.0.1")
    assert not is_virtual(AssignedAddress(1, here, here, 32, "lo"))

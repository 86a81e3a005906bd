"""`pylvs doctor` with two faults at once: it names one after the other, in the order in which they must be mended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor import test_address, test_attachment, test_server, test_settings, test_table
from tests.lab.doctor.exam import Fault, built, examine_pair

VIP = "10.0.0.100"
FAULTS = {
    fault.name: fault
    for file in (test_address, test_attachment, test_server, test_settings, test_table)
    for fault in file.FAULTS
}
FILTER = "nft add table inet f; nft add chain inet f i '{ type filter hook input priority 0; }'; nft add rule inet f i"
SECOND_SERVER = {
    "rs2 lacks the address": Fault("", "rs2", f"ip address del {VIP}/32 dev lo", "server_lacks_vip", ("10.0.0.22",)),
    "rs2 is stopped": Fault(
        "", "rs2", "service nginx stop", "not_listening", ("10.0.0.22",), cure="service nginx start"
    ),
    "rs2 drops the port": Fault(
        "", "rs2", f"{FILTER} tcp dport 80 drop", "server_firewall", ("10.0.0.22",), cure="nft delete table inet f"
    ),
    "rs2 answers ARP": Fault(
        "",
        "rs2",
        "cd /proc/sys/net/ipv4/conf; for d in all lo eth0; do echo 0 >$d/arp_ignore; done",
        "server_answers_arp",
        ("02:00:00:01:02:00",),
    ),
}
KNOWN = FAULTS | SECOND_SERVER
PAIRS = [  # the fault to mend first, and the one that is left then
    ("no address", "no virtual address"),
    ("no address", "weight 0 everywhere"),
    ("detached by hand", "rs2 lacks the address"),
    ("clsact is removed", "rs2 is stopped"),
    ("lo does not forward", "a firewall drops the port"),
    ("ARP is not suppressed", "rs2 is stopped"),
    ("rs2 answers ARP", "a firewall drops the port"),
    ("a blackhole", "rs2 lacks the address"),
    ("the server is down", "rs2 is stopped"),
    ("weight 0 everywhere", "drop_packet"),
    ("a blackhole", "a rule of nftables for a service"),
    ("a static neighbour entry of a real server", "rs2 drops the port"),
]


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Return a healthy lab."""
    with built() as made:
        yield made


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda name: name)
def test_two_faults_are_named_one_after_the_other(lab: Lab, first: str, second: str) -> None:
    """The second one comes first as soon as the first one is mended."""
    examine_pair(lab, KNOWN[first], KNOWN[second])

"""`pylvs doctor` where rules of a real server drop what exceeds a limit."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import END_REQUESTS, ENDLESS_REQUESTS, built, diagnosed
from tests.lab.doctor.test_of_lab import diagnosed as diagnosed_lab
from tests.waiting import until

CHAIN = "nft add table inet g; nft add chain inet g i '{ type filter hook input priority 0; }'; nft add rule inet g i "
SYN = "-p tcp --syn --dport 80"
DROP = f"iptables-nft -A INPUT {SYN} -j DROP"
RULES = {
    "iptables, limit": f"iptables-nft -A INPUT {SYN} -m limit --limit 1/min --limit-burst 1 -j ACCEPT; {DROP}",
    "iptables, hashlimit": f"iptables-legacy -A INPUT {SYN} -m hashlimit --hashlimit-above 15/min --hashlimit-burst 1"
    " --hashlimit-mode srcip --hashlimit-name n -j DROP",
    "nftables": f"{CHAIN} tcp dport 80 tcp flags syn limit rate over 10/minute burst 1 packets drop",
    "nftables, by client": f"{CHAIN} tcp dport 80 ct state new meter m '{{ ip saddr limit rate over 10/minute"
    " burst 1 packets }' drop",
}
NONE = "nft flush ruleset; iptables-legacy -F"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab, which the tests share."""
    with built() as made:
        yield made


@pytest.mark.parametrize("name", RULES)
def test_the_rule_is_named_as_one_with_a_limit(lab: Lab, name: str) -> None:
    """By the server itself, and so by the doctor of the lab, which does not call it an absolute drop."""
    lab.sh("rs1", RULES[name])
    lab.sh("client", ENDLESS_REQUESTS)
    lab.sh("director", "until ipvsadm -Lnc | grep -q 'SYN_RECV.* 10.0.0.21:80'; do sleep 0.1; done")
    found, of_lab = diagnosed(lab, "rs1"), diagnosed_lab(lab)
    lab.sh("client", END_REQUESTS)
    lab.sh("rs1", NONE)
    assert [(each["id"], each["severity"]) for each in found] == [("server_rate_limit", "warning")], found
    assert "limit" in found[0]["evidence"]
    assert [(each["id"], each["title"][:4]) for each in of_lab] == [("server_rate_limit", "rs1:")], of_lab
    until(lambda: diagnosed(lab) == [])  # handshakes that failed count for a while


@pytest.mark.parametrize(
    "rule",
    [
        f"{CHAIN} tcp dport 80 tcp flags syn limit rate over 10000/second drop",
        f"iptables-nft -A INPUT {SYN} -m limit --limit 10000/sec --limit-burst 1000 -j ACCEPT; {DROP}",
    ],
    ids=["nftables", "iptables"],
)
def test_a_limit_that_no_client_exceeds_is_healthy(rule: str) -> None:
    """It protects the server from floods. No client has failed in this lab before."""
    with built() as lab:
        lab.sh("rs1", rule)
        assert (diagnosed(lab, "rs1"), diagnosed(lab)) == ([], [])


def test_a_limit_is_no_small_mtu() -> None:
    """The probes of the director exceed it themselves: some of each length arrive, and others do not."""
    with built() as lab:
        lab.sh("rs1", f"{CHAIN} tcp dport 80 tcp flags syn limit rate over 5/second burst 2 packets drop")
        found = diagnosed(lab)
    assert {each["id"] for each in found} <= {"server_rate_limit", "server_firewall"}, found

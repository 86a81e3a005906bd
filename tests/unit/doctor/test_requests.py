"""SYNs that a real server does not answer: which of them are a finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from pylvs.doctor.facts import Facts
from pylvs.doctor.kernel.handshakes import Opening
from pylvs.doctor.packet_filter.host import OUTPUT
from pylvs.doctor.packet_filter.packet import PASSED, Decision, Packet, Verdict
from pylvs.doctor.probes.real_server import requests
from pylvs.doctor.probes.real_server.facts import RealServer
from pylvs.netlink.links import AssignedAddress, Device
from pylvs.netlink.socket_diag import Listener
from pylvs.system.undo_log import Memory

RIP, VIP = ip_address("10.0.0.21"), ip_address("10.0.0.100")
LO = Device(1, "lo", bytes(6), "", True, True, 65536, 0, 0, (VIP,))
ETH0 = Device(2, "eth0", bytes(6), "", True, False, 1500, 0, 0, (RIP,))
SERVER = RealServer(Memory(Path("absent")), {VIP: (AssignedAddress(1, VIP, VIP, 32, ""),)}, [ETH0], LO, (), [RIP])
BLOCKED, OTHER = (Opening(ip_address(f"203.0.113.{host}"), 40000, VIP, 80) for host in (1, 2))
DROPPED, UNKNOWN = Decision(Verdict.DROP, "ip saddr @blocked drop"), Decision(Verdict.UNKNOWN, "a rule")


class Filter:
    """A packet filter that decides by a function."""

    def __init__(self, decide: Callable[[bool, Packet], Decision]) -> None:
        self._decide = decide

    def decision(self, hooks: Sequence[str], packet: Packet, vip: str) -> Decision:
        return self._decide(hooks == OUTPUT, packet)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[str, str]]]:
    """Return a function that returns the findings on these SYNs: id and evidence."""

    def examine(decide: Callable[[bool, Packet], Decision], *seen: Opening) -> list[tuple[str, str]]:
        class Seen:
            def __init__(self, devices: Sequence[Device]) -> None:
                assert devices == [ETH0]

            def __enter__(self) -> Seen:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def unanswered(self, own: object, limit_s: float) -> list[Opening]:
                return list(seen)

        monkeypatch.setattr(requests, "Handshakes", Seen)
        facts = Facts()
        facts.once("real_server", lambda: SERVER)
        facts.once("listeners", lambda: [Listener(6, ip_address("0.0.0.0"), 80, False, 0, 128)])
        facts.once("packet_filter", lambda: Filter(decide))
        return [(each.id, each.evidence) for each in requests.findings(facts)]

    return examine


def of_blocked(is_reply: bool, packet: Packet) -> Decision:
    return DROPPED if packet.saddr == BLOCKED.client else PASSED


def replies_to_blocked(is_reply: bool, packet: Packet) -> Decision:
    return DROPPED if is_reply and packet.daddr == BLOCKED.client else PASSED


@pytest.mark.parametrize("decide", [of_blocked, replies_to_blocked])
def test_a_block_list_is_no_finding(
    found: Callable[..., list[tuple[str, str]]], decide: Callable[[bool, Packet], Decision]
) -> None:
    """It is meant to drop. Other clients count all the same."""
    assert found(decide, BLOCKED) == []
    ((name, evidence),) = found(decide, BLOCKED, OTHER)
    assert (name, evidence.startswith("1 SYN "), str(OTHER.client) in evidence) == (
        "server_requests_unanswered",
        True,
        True,
    )


def test_a_policy_that_accepts_the_director_alone_is_named(found: Callable[..., list[tuple[str, str]]]) -> None:
    """Operators forget that the director does not change the source of packets. One scanner is no such case."""
    policy = Decision(Verdict.DROP, "the policy is drop", accept="nft insert rule ...")
    openings = [Opening(ip_address(f"203.0.113.{host}"), 40000, VIP, 80) for host in range(3)]

    def decide(is_reply: bool, packet: Packet) -> Decision:
        return PASSED if is_reply else policy

    ((name, evidence),) = found(decide, *openings)
    assert (name, evidence.startswith("3 SYNs "), "the policy is drop" in evidence) == ("server_firewall", True, True)
    assert found(decide, *openings[:2]) == []
    assert found(of_blocked, *[BLOCKED] * 3) == []


def test_a_rule_that_may_drop_is_named(found: Callable[..., list[tuple[str, str]]]) -> None:
    """A condition on more than addresses and ports may hold for a packet or not."""
    ((name, evidence),) = found(lambda is_reply, packet: PASSED if is_reply else UNKNOWN, OTHER)
    assert (name, "a rule" in evidence) == ("server_firewall", True)

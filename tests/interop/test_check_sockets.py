"""Checks and the Linux network stack: echoes by both kinds of socket, absent hosts, marks, devices."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.checks import Check, DnsCheck, Pace, PingCheck, Target, TcpCheck, UdpCheck
from tests.interop.namespaces import inside, ip
from tests.unit.health.fake_servers import undisturbed
from tests.waiting import until, until_up

PATIENT = Pace(timeout_s=60.0)
ICMP_BURST = Path("/proc/sys/net/ipv4/icmp_msgs_burst")  # of a namespace; older kernels have one limit for all
ABSENT = {4: Target(IPv4Address("10.0.0.9"), 53), 6: Target(IPv6Address("fd00::9"), 53)}


@pytest.fixture(scope="module", autouse=True)
def link() -> Iterator[None]:
    """Make a link without other hosts. Neighbour discovery gives up early, and ICMP errors are not rate-limited."""
    with inside("cs"):
        Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")  # addresses can be used at once
        for words in (
            "link add d0 type veth peer name d1",
            "link set d0 up",
            "link set d1 up",
            "addr add 10.0.0.1/24 dev d0",
            "addr add fd00::1/64 dev d0",
            "rule add fwmark 7 prohibit",
            "-6 rule add fwmark 7 prohibit",
            "route add blackhole 10.0.1.9",
            "route add prohibit 10.0.2.9",
            "-6 route add blackhole fd00:1::9",
            "-6 route add prohibit fd00:2::9",
        ):
            subprocess.run(["ip", *words.split()], check=True)
        until_up("d0")
        until(lambda: "fd00::1" in ip("-6 route show table local"), "the kernel adds the address's route")
        for family in ("ipv4", "ipv6"):
            Path(f"/proc/sys/net/{family}/neigh/d0/retrans_time_ms").write_text("50")
        if ICMP_BURST.exists():  # of its 50 each error takes 0 to 2 by chance, and 40 errors may come at once
            ICMP_BURST.write_text("10000")
        yield


def asked(*checks: Check) -> list[Outcome]:
    async def main() -> list[Outcome]:
        return list(await asyncio.gather(*(probe_of(check, CheckContext())() for check in checks)))

    return undisturbed(main)


@pytest.mark.parametrize("who_may", ["1 0", "0 2147483647"], ids=["raw sockets", "ping sockets"])
def test_parallel_echoes_are_not_mixed_up(who_may: str) -> None:
    """Absent and present hosts are checked at the same time.

    Each socket must receive only its own answers and errors.
    """
    Path("/proc/sys/net/ipv4/ping_group_range").write_text(who_may)
    here = [Target(IPv4Address("10.0.0.1")), Target(IPv6Address("fd00::1")), Target(IPv4Address("127.0.0.1"))]
    outcomes = asked(*(PingCheck(target=target, pace=PATIENT) for target in [*here, *ABSENT.values()] * 20))
    assert [outcome.ok for outcome in outcomes] == [True, True, True, False, False] * 20
    assert {outcome.reason for outcome in outcomes if not outcome.ok} == {"no route to host (ICMP: host unreachable)"}


@pytest.mark.parametrize("target", ABSENT.values(), ids=["IPv4", "IPv6"])
def test_an_absent_host_is_named(target: Target) -> None:
    tcp, udp, dns = asked(*(check(target=target, pace=PATIENT) for check in (TcpCheck, UdpCheck, DnsCheck)))
    assert tcp == Outcome(False, "no route to host")
    assert udp == dns == Outcome(False, "no route to host (ICMP: host unreachable)")


def test_a_network_without_a_route_is_named() -> None:
    nowhere = [Target(IPv4Address("198.51.100.1"), 53), Target(IPv6Address("2001:db8::1"), 53)]
    checks = [check(target=target, pace=PATIENT) for check in (TcpCheck, UdpCheck, PingCheck) for target in nowhere]
    assert {outcome.reason for outcome in asked(*checks)} == {"network unreachable"}


@pytest.mark.parametrize("check", [TcpCheck, UdpCheck, PingCheck, DnsCheck])
def test_the_mark_is_on_the_packets(check: type[Check]) -> None:
    marked = [replace(target, mark=7) for target in ABSENT.values()]
    outcomes = asked(*(check(target=target, pace=PATIENT) for target in marked))  # type: ignore[call-arg]
    assert set(outcomes) == {Outcome(False, "refused by this machine's routes or firewall", inconclusive=True)}


@pytest.mark.parametrize("kind", ["blackhole", "prohibit"])
@pytest.mark.parametrize("check", [TcpCheck, UdpCheck, PingCheck, DnsCheck])
def test_a_route_that_drops_packets_is_a_failure_of_the_server(check: type[Check], kind: str) -> None:
    """Packets of clients take the same route. A source or a firewall mark may be the reason as well: inconclusive."""
    number = 1 + ("blackhole", "prohibit").index(kind)
    dropped = [ip_address(f"10.0.{number}.9"), ip_address(f"fd00:{number}::9")]
    mark_or_source = [replace(ABSENT[4], mark=7), replace(ABSENT[4], source=IPv4Address("127.0.0.1"))]
    targets = [Target(each, 53) for each in dropped] + mark_or_source
    outcomes = asked(*(check(target=target, pace=PATIENT) for target in targets))  # type: ignore[call-arg]
    assert outcomes[:2] == [Outcome(False, f"a {kind} route of this machine leads to {each}") for each in dropped]
    assert [each.inconclusive for each in outcomes[2:]] == [True, True]


def test_a_link_local_address_is_checked_on_its_device() -> None:
    words = ["ip", "-6", "-o", "addr", "show", "dev", "d1", "scope", "link"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    address = IPv6Address(shown.split("inet6 ")[1].split("/")[0])
    closed, elsewhere = asked(
        TcpCheck(target=Target(address, 9, device="d1"), pace=PATIENT),
        TcpCheck(target=Target(address, 9), pace=PATIENT),
    )
    assert closed == Outcome(False, "connection refused")
    assert elsewhere == Outcome(False, "the address cannot be connected to", inconclusive=True)

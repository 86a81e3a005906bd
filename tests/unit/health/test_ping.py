"""PING_CHECK: echoes with raw and ping sockets, many at a time."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv6Address

import pytest

from pylvs.health.checkers.ping import EchoKind, is_reply, summed
from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.addresses import Address
from pylvs.model.checks import Pace, PingCheck, Target
from tests.unit.health.fake_servers import PATIENT, V4, V6, undisturbed

HERE: list[Address] = [IPv4Address(V4), IPv6Address(V6)]


def pinged(*targets: Target, pace: Pace = PATIENT) -> list[Outcome]:
    async def main() -> list[Outcome]:
        probes = [probe_of(PingCheck(target=target, pace=pace), CheckContext()) for target in targets]
        return list(await asyncio.gather(*(probe() for probe in probes)))

    return undisturbed(main)


@pytest.mark.parametrize("address", HERE)
def test_a_host_that_is_there_answers(address: Address) -> None:
    [outcome] = pinged(Target(address, 80, source_port=5))
    if outcome.inconclusive:
        pytest.skip(outcome.reason)
    assert outcome.ok
    assert outcome.reason.startswith("echo after ")


def test_concurrent_probes_match_their_own_replies() -> None:
    """A raw socket receives all replies of its peer; each probe must wait for its own."""
    living = [Target(address) for address in HERE * 100]
    outcomes = pinged(*living)
    if outcomes[0].inconclusive:
        pytest.skip(outcomes[0].reason)
    assert all(outcome.ok for outcome in outcomes)


def test_a_source_that_is_not_local_is_inconclusive() -> None:
    [outcome] = pinged(Target(IPv4Address(V4), source=IPv4Address("192.0.2.77")))
    if "not allowed" in outcome.reason:
        pytest.skip(outcome.reason)
    reason = "the source address is not on this machine while binding to 192.0.2.77"
    assert outcome == Outcome(False, reason, inconclusive=True)


def test_only_the_own_echo_is_a_reply() -> None:
    message = bytes([8, 0, 0, 0]) + bytes(range(20))
    v4 = EchoKind(socket.AF_INET)
    mine = is_reply(message, v4, raw=True)
    header = bytes([0x45]) + bytes(19)
    reply = header + summed(bytes([0, 0, 0, 0]) + message[4:])
    assert mine(reply)
    assert not mine(header + summed(message))  # the request itself, on loopback
    assert not mine(reply[:-1])
    assert not mine(reply[:-1] + b"\xff")
    assert not mine(header + summed(bytes([0, 0, 0, 0, 9, 9]) + message[6:]))  # another's identifier
    assert not mine(b"")
    of_ping_socket = is_reply(message, v4, raw=False)
    assert of_ping_socket(bytes([0, 0, 7, 7, 9, 9]) + message[6:])  # the kernel chose the identifier
    assert not of_ping_socket(bytes([8, 0, 7, 7, 9, 9]) + message[6:])


def test_the_checksum_is_that_of_rfc_1071() -> None:
    message = summed(bytes([8, 0, 0, 0]) + bytes(range(100, 120)))
    total = sum(int.from_bytes(message[at : at + 2], "big") for at in range(0, len(message), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF

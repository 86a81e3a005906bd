"""Hosts with one link address, such as clones of a virtual machine: a switch sends what is for it to one of them.

A switch learns the port of a link address from each frame. So behind an ARP reply of one host, a frame to the link
address reaches that host. A single host with several addresses answers at each of them, and a clone at its own alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from pylvs.doctor.wire import packets
from pylvs.doctor.wire.exchange import Exchange, Question
from pylvs.doctor.wire.packets import Kind
from pylvs.model.addresses import Address
from pylvs.model.dataclass import dataclass
from pylvs.netlink.links import Device

_MOST = 2  # groups
_MOST_HOSTS = 3  # of a group
_BURSTS = 6
_ARP_S, _ECHO_S = 0.2, 0.15


@dataclass(frozen=True, slots=True)
class Clones:
    """Addresses of different hosts that have one link address."""

    device: Device
    mac: bytes
    hosts: tuple[Address, ...]


Burst = frozenset[Address]  # the hosts that answered, of those that were asked at the same moment


def clones(exchange: Exchange, groups: Mapping[tuple[Device, bytes], Mapping[Address, Address]]) -> list[Clones]:
    """Return which groups are several hosts; each has addresses with one link address, and the sources to ask from."""
    found = []
    for (device, mac), sources in list(groups.items())[:_MOST]:
        hosts = list(sources.items())[:_MOST_HOSTS]
        bursts = [_burst(exchange, device, mac, hosts, at % len(hosts)) for at in range(_BURSTS)]
        if are_apart([host for host, _ in hosts], bursts):
            found.append(Clones(device, mac, tuple(sorted((host for host, _ in hosts), key=int))))
    return found


def are_apart(hosts: Collection[Address], bursts: Sequence[Burst]) -> bool:
    """Return whether these are several hosts: each answered at some time, and mostly not all of them together.

    Frames of other hosts move the link address to another port at any moment, so a burst may reach several.
    """
    return frozenset().union(*bursts) >= frozenset(hosts) and 2 * sum(set(each) < set(hosts) for each in bursts) > len(
        bursts
    )


def _burst(
    exchange: Exchange, device: Device, mac: bytes, hosts: Sequence[tuple[Address, Address]], first: int
) -> Burst:
    """Let the switch learn the port of one host, then send an echo to each address; return those that answered."""
    near, source = hosts[first]
    exchange.ask([exchange.who_has(device, near, source)], _ARP_S, _ARP_S / 2)
    numbers = {exchange.number(): host for host, _ in hosts}
    questions = []
    for number, (host, own) in zip(numbers, hosts, strict=True):
        body = packets.packet(number, own, host, exchange.echo(number), hop_limit=1)  # no router forwards it
        questions.append(Question(device, packets.frame(mac, device.mac, body), number))
    exchange.ask(questions, _ECHO_S, _ECHO_S)
    answers = exchange.answers
    return frozenset(
        host for number, host in numbers.items() if any(each.kind is Kind.ECHO for each in answers.to(number))
    )

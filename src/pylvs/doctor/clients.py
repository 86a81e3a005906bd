"""Clients of this director, as its connection table has them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from pylvs.doctor.facts import Facts
from pylvs.doctor.survey import link_source
from pylvs.doctor.wire.exchange import Exchange
from pylvs.model.addresses import Address
from pylvs.netlink import neighbours
from pylvs.netlink.links import Device

_SAMPLE = 5000  # entries of the connection table
_MOST = 32  # clients that are asked for their link address
_ANSWER_S, _AGAIN_S = 0.3, 0.1


def clients_of(facts: Facts) -> frozenset[Address]:
    """Return the clients in a sample of the connection table."""

    def read() -> frozenset[Address]:
        return frozenset(
            each.client for each in islice(facts.director.connections_apart(), _SAMPLE) if each.client_port
        )

    return facts.once("clients", read)


def owner_of(facts: Facts, mac: bytes, device: Device, version: int) -> Address | None:
    """Return an address of the host with a link address: of a known neighbour, or of a client on the link."""
    known = [address for (_, address), each in neighbours.link_addresses().items() if each == mac]
    networks = [each.network for each in facts.addresses if each.index == device.index]
    near = [each for each in clients_of(facts) if any(each in network for network in networks)][:_MOST]
    with Exchange({each.address for each in facts.addresses}) as exchange:
        questions = [
            exchange.who_has(device, address, source)
            for address in near
            if (source := link_source(facts, device, address)) or address.version == 4
        ]
        exchange.ask(questions, _ANSWER_S, _AGAIN_S)
        known += [address for address in near if any(reply.mac == mac for reply in exchange.answers.macs(address))]
    return next(iter(_usable(known, version)), None)


def _usable(addresses: Iterable[Address], version: int) -> list[Address]:
    return [each for each in addresses if each.version == version and not each.is_link_local]

"""A real server's packet filter: whether rules drop requests to a virtual address, or replies from it.

The rules are evaluated for a packet of a client to each port on which an application listens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.packet_filter.host import INPUT, OUTPUT, PacketFilter, packet_filter
from pylvs.doctor.packet_filter.packet import Decision, Packet, Verdict
from pylvs.doctor.probes.real_server.facts import REMOTE_LOGIN, RealServer, listeners, real_server
from pylvs.model.addresses import Address
from pylvs.model.errors import counted
from pylvs.netlink import neighbours
from pylvs.netlink.links import Device
from pylvs.netlink.socket_diag import TCP, Listener

_CLIENT = {4: ip_address("198.18.200.77"), 6: ip_address("2600:1f00::77")}
_MOST_PORTS = 20
_MOST_CLIENTS = 3
_CONNTRACK = "net/netfilter/nf_conntrack"
_FULL = 0.95


class _Drop(NamedTuple):
    """A drop of a request to a port, or of the reply; whether the real server's own address is treated alike."""

    decision: Decision
    port: Listener
    reply: bool
    alike: bool


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield rules that drop requests or replies."""
    server = real_server(facts)
    if server is None:
        return
    yield from _tracking(facts)
    if server.guessed:
        return
    sockets = [each for each in listeners(facts) or () if each.port != REMOTE_LOGIN]
    for address in server.held():
        served = [each for each in sockets if each.accepts(address)]
        served = [each for each in served if each.protocol == TCP][:_MOST_PORTS] or served[:_MOST_PORTS]
        found = worst(server, packet_filter(facts), address, served)
        if found is not None:
            yield _dropped(server, address, found)


def worst(server: RealServer, rules: PacketFilter, address: Address, served: Sequence[Listener]) -> _Drop | None:
    """Return a drop that is surely not wanted; None if there is none.

    A rule is not wanted if it names the virtual address, treats it otherwise than the server's own one, or drops an
    expected client. If no client reaches any port, no rule is.
    """
    any_open, first = False, None
    expected = [each for each in server.expected if each.version == address.version]
    for port in served:
        for device in server.outward:
            for client in (*expected, _CLIENT[address.version], *_clients(server, address, device)):
                drop = _drop_of(server, rules, client, address, port, device.name)
                if drop is None:
                    any_open = True
                elif drop.decision.named or not drop.alike or client in expected:
                    return drop
                else:
                    first = first or drop
    return None if any_open else first


def _drop_of(
    server: RealServer, rules: PacketFilter, client: Address, address: Address, port: Listener, device: str
) -> _Drop | None:
    """Return the drop of a client's packets to a port, or of the replies."""
    for reply in (False, True):
        hooks = OUTPUT if reply else INPUT
        decision = rules.decision(hooks, _packet(client, address, port, device, reply), str(address))
        if decision.verdict is Verdict.DROP:
            own = next(iter(server.own(address.version)), None)
            to_own = None if own is None else rules.decision(hooks, _packet(client, own, port, device, reply))
            return _Drop(decision, port, reply, alike=to_own is None or to_own.verdict is not Verdict.PASS)
    return None


def _clients(server: RealServer, address: Address, device: Device) -> list[Address]:
    """Return some clients that are connected, and the neighbours on the link of a device."""
    known = dict.fromkeys(each.peer for each in server.peers if each.local == address)
    near = [each for index, each in neighbours.link_addresses() if index == device.index]
    return [*list(known)[:_MOST_CLIENTS], *[each for each in near if each.version == address.version][:_MOST_CLIENTS]]


def _packet(client: Address, address: Address, port: Listener, device: str, reply: bool) -> Packet:
    if reply:
        return Packet(address, client, port.protocol, port.port, 40000, oif=device, new=False)
    return Packet(client, address, port.protocol, 40000, port.port, iif=device)


def _dropped(server: RealServer, address: Address, drop: _Drop) -> Finding:
    decision = drop.decision
    what = (
        f"replies from {address} port {drop.port.port}" if drop.reply else f"packets to {address} port {drop.port.port}"
    )
    number = f"; it counted {counted(decision.packets, 'packet')}" if decision.packets else ""
    other = "" if drop.alike else "; packets to the address of the host itself pass"
    return Finding(
        id="server_firewall",
        severity=Severity.ERROR,
        layer=Layer.REPLY if drop.reply else Layer.SERVER,
        title=f"the packet filter of this real server drops {what}",
        evidence=f"{decision.text}{number}{other}",
        why="Clients' packets come by the director to this address."
        if server.by_nat
        else "With direct routing and tunnels, packets have the virtual address, not that of the real server.",
        fix="Remove the rule." if decision.named else "Accept these packets before it.",
        fix_command=decision.remove if decision.named else decision.accept,
        fix_host=HERE,
        about=frozenset({str(address)}),
    )


def _tracking(facts: Facts) -> Iterator[Finding]:
    """Yield a connection tracking table that is full."""
    used, most = facts.number(f"{_CONNTRACK}_count"), facts.number(f"{_CONNTRACK}_max")
    if not used or not most or used < _FULL * most:
        return
    yield Finding(
        id="server_tracking_full",
        severity=Severity.ERROR if used >= most else Severity.WARNING,
        layer=Layer.SERVER,
        title="the connection tracking of this real server is full",
        evidence=f"net.netfilter.nf_conntrack_count is {used}, nf_conntrack_max {most}",
        why="The kernel drops packets of new connections that it cannot track.",
        fix="Raise nf_conntrack_max, or do not track the service.",
        fix_command=f"sysctl -w net.netfilter.nf_conntrack_max={2 * most}",
        fix_host=HERE,
    )

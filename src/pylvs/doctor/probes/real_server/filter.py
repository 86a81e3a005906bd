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
from pylvs.doctor.probes.real_server.facts import RealServer, listeners, real_server
from pylvs.model.addresses import Address
from pylvs.model.errors import counted
from pylvs.netlink.socket_diag import TCP, Listener

_REMOTE_LOGIN = 22
_CLIENT = {4: ip_address("198.18.200.77"), 6: ip_address("2600:1f00::77")}
_MOST_PORTS = 50
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
    sockets = [each for each in listeners(facts) or () if each.port != _REMOTE_LOGIN]
    for address in server.held():
        served = [each for each in sockets if each.accepts(address)]
        served = [each for each in served if each.protocol == TCP][:_MOST_PORTS] or served[:_MOST_PORTS]
        found = worst(server, packet_filter(facts), address, served)
        if found is not None:
            yield _dropped(address, found)


def worst(server: RealServer, rules: PacketFilter, address: Address, served: Sequence[Listener]) -> _Drop | None:
    """Return a drop that is surely not wanted; None if there is none.

    A rule is not wanted if it names the virtual address, or treats it otherwise than the real server's own address. If
    no port is open, no rule is.
    """
    drops = [drop for port in served if (drop := _drop_of(server, rules, address, port)) is not None]
    for drop in drops:
        if drop.decision.named or not drop.alike:
            return drop
    return drops[0] if drops and len(drops) == len(served) else None


def _drop_of(server: RealServer, rules: PacketFilter, address: Address, port: Listener) -> _Drop | None:
    own = next(iter(server.own(address.version)), None)
    vip = str(address)
    for device in server.outward:
        for client in (_CLIENT[address.version], *server.clients(address)[:1]):
            for reply in (False, True):
                packet = _packet(client, address, port, device.name, reply)
                decision = rules.decision(OUTPUT if reply else INPUT, packet, vip)
                if decision.verdict is not Verdict.DROP:
                    continue
                alike = own is None or (
                    rules.decision(
                        OUTPUT if reply else INPUT, _packet(client, own, port, device.name, reply), vip
                    ).verdict
                    is not Verdict.PASS
                )
                return _Drop(decision, port, reply, alike)
    return None


def _packet(client: Address, address: Address, port: Listener, device: str, reply: bool) -> Packet:
    if reply:
        return Packet(address, client, port.protocol, port.port, 40000, oif=device, new=False)
    return Packet(client, address, port.protocol, 40000, port.port, iif=device)


def _dropped(address: Address, drop: _Drop) -> Finding:
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
        why="With direct routing and tunnels, packets have the virtual address, not that of the real server.",
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

"""A real server's applications: whether one receives what comes to a virtual address, and accepts connections."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import sleep

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import Finding, Layer, Severity
from pylvs.doctor.kernel.counters import counts
from pylvs.doctor.packet_filter.host import packet_filter
from pylvs.doctor.probes.real_server.facts import REMOTE_LOGIN, RealServer, listeners, real_server
from pylvs.doctor.probes.real_server.translation import CLIENT, MOST_PORTS, translations
from pylvs.model.addresses import Address, endpoint
from pylvs.model.errors import counted
from pylvs.netlink import socket_diag
from pylvs.netlink.socket_diag import TCP, UDP, Listener

_PAUSE_S = 0.3  # in which a program that lives accepts something
_NAMES = {TCP: "TCP", UDP: "UDP"}


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield virtual addresses without an application, and applications that do not accept."""
    server = real_server(facts)
    sockets = listeners(facts) if server is not None else None
    if server is None or sockets is None:
        return
    held = server.held()
    for address in held:
        if not _is_translated(facts, server, address):
            yield from _not_listening(facts, server, address, sockets)
    if any(each.waiting for each in sockets):
        yield from _stuck(held, sockets)


def _is_translated(facts: Facts, server: RealServer, address: Address) -> bool:
    """Return whether a rule of NAT sends a port of an address elsewhere, as to a container; translation.py asks it."""
    ports = sorted(packet_filter(facts).translated_ports())[:MOST_PORTS]
    return any(translations(facts, server, CLIENT[address.version], address, ports))


def _not_listening(
    facts: Facts, server: RealServer, address: Address, sockets: Sequence[Listener]
) -> Iterator[Finding]:
    """Yield a virtual address that no application receives packets for, except by remote login."""
    useful = [each for each in sockets if each.port != REMOTE_LOGIN and each.protocol == TCP]
    if any(each.accepts(address) and receives(server, each) for each in sockets if each.port != REMOTE_LOGIN):
        return
    bound = [each for each in sockets if each.device and each.accepts(address) and each.port != REMOTE_LOGIN]
    own = [each for each in useful if each.address in server.own(address.version)]
    other = [each for each in useful if each not in own]
    reset = counts(facts).get("TcpOutRsts", 0)
    refused = f"; {counted(reset, 'connection')} refused (TcpOutRsts)" if reset else ""
    if bound:
        names = {each.index: each.name for each in facts.devices}
        listed = ", ".join(f"port {each.port} on {names.get(each.device, each.device)}" for each in bound)
        evidence = f"listening sockets are bound to devices by which no packets of others come: {listed}{refused}"
        fix = "Let the application bind to no device (SO_BINDTODEVICE), or to that of its clients."
    elif own:
        listed = ", ".join(endpoint(each.address, each.port) for each in own)
        evidence = f"listening is only {listed}{refused}"
        fix = f"Let it listen on {endpoint(address, own[0].port)} as well, or on all addresses."
    elif other:
        listed = ", ".join(endpoint(each.address, each.port) for each in other)
        evidence = f"listening is only {listed}{refused}"
        fix = f"Let the application listen on {address} as well, or on all addresses."
    else:
        evidence = f"no socket listens on {address} or on all addresses, except for remote login{refused}"
        fix = "Start the application."
    yield Finding(
        id="not_listening_on_vip" if own or bound else "not_listening",
        severity=Severity.ERROR,
        layer=Layer.SERVER,
        title=f"no application of this real server listens on {address}",
        evidence=evidence,
        why="The director sends packets to this address."
        if server.by_nat
        else "With direct routing and tunnels packets have the virtual address and port as destination.",
        fix=fix,
        about=frozenset({str(address)}),
    )


def receives(server: RealServer, socket: Listener) -> bool:
    """Return whether a socket receives what other hosts send: it is bound to no device, or to one of theirs."""
    return not socket.device or socket.device in {each.index for each in (*server.outward, *server.tunnels)}


def _stuck(held: Sequence[Address], before: Sequence[Listener]) -> Iterator[Finding]:
    """Yield sockets whose connections wait: their program accepts none, or too slowly."""
    waiting = {_key(each): each.waiting for each in before if each.waiting and each.protocol == TCP}
    sleep(_PAUSE_S)
    for found in socket_diag.listeners() or ():
        if found.waiting < waiting.get(_key(found), found.waiting + 1) or not any(map(found.accepts, held)):
            continue
        full = found.waiting > found.backlog
        where = endpoint(found.address, found.port)
        yield Finding(
            id="server_not_accepting",
            severity=Severity.ERROR,
            layer=Layer.SERVER,
            title=f"the application at {_NAMES[found.protocol]} {where} accepts no connection",
            evidence=f"{counted(found.waiting, 'waiting connection')} of {found.backlog}, as {_PAUSE_S:g} s before"
            + ("; the kernel drops further ones" if full else ""),
            why="The kernel has finished the handshake, and the program does not call accept: it hangs, or is stopped.",
            fix="Restart the application.",
            about=frozenset(map(str, filter(found.accepts, held))),
        )


def _key(found: Listener) -> tuple[int, Address, int]:
    return found.protocol, found.address, found.port

"""Hints for commands that succeed, but do not achieve what they are usually meant for.

New users of LVS meet them: a virtual address that no device has, a port that direct routing does not change, NAT
without ip_forward. `pylvs.ipvsadm.hints` has those for commands that fail, and says when hints are printed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from pylvs.ipvsadm.hints import mask_text, value_of
from pylvs.ipvsadm.options import Command, Given
from pylvs.ipvsadm.parsing import Names, Request, endpoint, presented
from pylvs.model import sockets as socket
from pylvs.model.addresses import Address, command_to_add
from pylvs.model.dataclass import dataclass
from pylvs.model.director import Director
from pylvs.model.rows import ServiceRow
from pylvs.model.service import NETMASK_V4_ALL, Method, ServiceFlag, ServiceKey, TunnelKind, is_probe_mark

FTP_PORT = 21
SHORT_PERSISTENCE_S = 60  # a number below was perhaps meant as minutes
SLOW_NAMES_S = 2.0
MOST_OF_LISTING = 3  # hints
_UNDONE = (  # edits of a service of a daemon
    *(Command.EDIT_SERVICE, Command.DELETE_SERVICE, Command.FLUSH),
    *(Command.ADD_SERVER, Command.EDIT_SERVER, Command.DELETE_SERVER),
)
METHODS = {Method.ROUTE: "-g", Method.TUNNEL: "-i", Method.MASQ: "-m"}


class Host(Protocol):
    """What hints must know of this host."""

    def lacks(self, address: Address) -> str:
        """Return the device to add an address to; "" if packets to it come to this host already."""

    def forwards(self, version: int) -> bool:
        """Return whether this host forwards packets of this IP version as a router."""

    def forwarding_off(self, version: int) -> str:
        """Return the setting of lo that stops the packet path for this IP version; "" if it forwards."""

    def gateway(self, address: Address) -> Address | None:
        """Return the gateway on the way to an address; None if it is on a link, or unreachable."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that succeeded, and how long it took."""

    words: Sequence[str]
    request: Request
    director: Director
    host: Host
    names: Names
    took_s: float = 0.0


def advice(done: Done) -> Iterator[str]:
    """Yield the hints for a command. Raises PylvsError."""
    command = done.request.command
    if command in (Command.ADD_SERVICE, Command.EDIT_SERVICE):
        yield from _of_service(done)
    elif command in (Command.ADD_SERVER, Command.EDIT_SERVER):
        yield from _of_server(done)
    if command in _UNDONE:
        yield from _kept(done)
    elif command == Command.LIST and not done.request.given & {Given.CONNECTION, Given.TIMEOUT, Given.DAEMON}:
        yield from _of_listing(done)


def _kept(done: Done) -> Iterator[str]:
    """Yield that a daemon undoes the edit."""
    from pylvs.daemon.state.owners import owner  # late: scripts see no hints
    from pylvs.system.namespaces import network_cookie

    everything = done.request.command == Command.FLUSH
    found = owner(network_cookie(), None if everything else [done.request.service_key()])
    if found:
        what = "its services" if everything else "this service"
        yield (
            f"pylvs run, process {found.process}, keeps {what}, and undoes the edit within 2 s; change its file, or use"
            " pylvs drain, disable, weight"
        )


def _of_service(done: Done) -> Iterator[str]:
    request = done.request
    yield from _missing(request.service_key(), done.host)
    yield from _name(done, Given.SERVICE_ADDRESS, request.address)
    persistent = ServiceFlag.PERSISTENT in request.flags
    if Given.NETMASK in request.given:
        if not persistent:
            yield "-M joins the clients of a network in persistence: without -p it has no effect"
        yield from _mask(value_of(done.words, Given.NETMASK), request)
    if persistent and request.timeout_s < SHORT_PERSISTENCE_S:
        yield f"-p is in seconds: a client returns to its real server for {request.timeout_s} s"


def _missing(key: ServiceKey, host: Host) -> Iterator[str]:
    if key.mark:
        return
    device = host.lacks(key.address)
    if device:
        yield f"no device has {key.address}, so no packets to it come here: {command_to_add(key.address, device)}"


def _mask(text: str, request: Request) -> Iterator[str]:
    """Yield what is unusual in a mask of IPv4: a prefix length as inet_aton(3) reads it, or holes."""
    if request.family != socket.AF_INET or request.netmask < 0:
        return
    zeros = NETMASK_V4_ALL ^ request.netmask
    if zeros & (zeros + 1):
        length = int(text) if text.isdecimal() else 24
        yield f"-M {text} is no mask of a network; /{length} is written {mask_text(min(length, 32))}"


def _name(done: Done, given: str, address: Address) -> Iterator[str]:
    """Yield what becomes of a host name."""
    text = value_of(done.words, given)
    host = text.partition(":")[0]
    if text.count(":") <= 1 and not done.request.mark and presented(host, socket.AF_INET) is None and host:
        yield f"the table has the address {address}; it does not follow later changes of {host}"


def _of_server(done: Done) -> Iterator[str]:
    request = done.request
    server, vip = request.server, request.address
    found = endpoint(value_of(done.words, Given.REAL_SERVER), request.protocol, done.names)
    port = found[1] if found else None
    row = done.director.service(request.service_key())
    first = request.command == Command.ADD_SERVER and sum(
        each.destination.method == request.method for each in row.destinations
    )
    yield from _name(done, Given.REAL_SERVER, server)
    if not request.mark and request.method is not Method.MASQ and port not in (None, request.port):
        option = METHODS[request.method]
        yield f"{option} does not change ports: the packets keep port {request.port}; -m maps it to {port}"
    if not request.mark and server == vip:
        yield "the real server is the virtual address itself: name the address that the server has besides"
    elif done.host.lacks(server):
        yield from _elsewhere(done, port, first == 1)
    yield from _weights(row)
    is_ftp = request.port == FTP_PORT and request.protocol == socket.IPPROTO_TCP
    if is_ftp and request.method is Method.MASQ:
        yield (
            "the addresses in FTP's control connection are not translated, so passive mode (PASV, EPSV) fails with -m;"
            " use -g or -i with a persistent service (-p), or give the server the virtual address and a service for"
            " each of its passive ports"
        )


def _elsewhere(done: Done, port: int | None, first: bool) -> Iterator[str]:
    """Yield what a real server on another host needs. `first`: it is the first one of its method in the service."""
    request, server = done.request, done.request.server
    vip = "VIP" if request.mark else str(request.address)
    if request.method is Method.ROUTE:
        gateway = done.host.gateway(server)
        if gateway is not None:
            yield f"-g reaches real servers on a link only, and {server} is behind {gateway}: use -i"
        elif first:
            yield f"{server} needs {vip} without ARP replies for it; there, run pylvs realserver up {vip}"
    elif request.method is Method.TUNNEL:
        if first:
            kind = request.tunnel_kind.name.lower()
            more = f" --tun-port {request.tunnel_port}" if request.tunnel_kind is TunnelKind.GUE else ""
            yield f"{server} must decapsulate; there, run pylvs realserver up {vip} --tun-type {kind}{more}"
    elif request.method is Method.MASQ:
        yield from _not_routing(server.version, done.host)
        if first:
            yield f"replies must come back by this host: make it the gateway of {server} to the clients"
        if port is None and not request.mark:
            yield f"{server} gets port {request.port}, that of the service; -r {server}:PORT maps it to another"


def _weights(row: ServiceRow) -> Iterator[str]:
    if row.destinations and not any(each.destination.weight for each in row.destinations):
        yield f"all real servers of {row.service.key} have weight 0: it takes no new connections"


def _of_listing(done: Done) -> Iterator[str]:
    """Yield the first reasons why clients of the services get no reply."""
    request = done.request
    if Given.SERVICE_ADDRESS in request.given:
        rows = [done.director.service(request.service_key())]
    else:
        rows = [row for row in done.director.services() if not is_probe_mark(row.service.key.mark)]
    found = [*_stopped(rows, done.host), *(text for row in rows for text in _of_row(row, done.host))]
    yield from found[:MOST_OF_LISTING]
    if len(found) > MOST_OF_LISTING:
        yield f"{len(found) - MOST_OF_LISTING} more of this kind"
    if Given.NUMERIC not in request.given and done.took_s >= SLOW_NAMES_S:
        yield f"names of addresses and ports took {done.took_s:.0f} s: -n lists numbers"


def _stopped(rows: Sequence[ServiceRow], host: Host) -> Iterator[str]:
    """Yield the settings that another program has turned off since the last edit, which turns them on."""
    for version in sorted({each.destination.key.address.version for row in rows for each in row.destinations}):
        if setting := host.forwarding_off(version):
            yield f"packets are not forwarded by IPv{version}, because {setting} is 0: sysctl -w {setting}=1"
    found = [each.destination for row in rows for each in row.destinations]
    for version in sorted({each.key.address.version for each in found if each.method is Method.MASQ}):
        yield from _not_routing(version, host)


def _not_routing(version: int, host: Host) -> Iterator[str]:
    if not host.forwards(version):
        setting = "net.ipv4.ip_forward" if version == 4 else "net.ipv6.conf.all.forwarding"
        yield f"this host does not forward the replies of -m: sysctl -w {setting}=1"


def _of_row(row: ServiceRow, host: Host) -> Iterator[str]:
    if not row.destinations:
        yield f"{row.service.key} has no real server: ipvsadm -a adds one"
    yield from _weights(row)
    yield from _missing(row.service.key, host)

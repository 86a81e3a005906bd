"""Connections, their counts and timers (IPVS-SEMANTICS 4); persistence: a client returns to the same server (5)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from pylvs.model.dataclass import dataclass
from pylvs.model.service import Method
from pylvs.reference.packet import Packet
from pylvs.reference.server import Server
from pylvs.reference.states import NEW_S
from pylvs.reference.tables import FTP, Service

EXTENDED_S = 60  # given to a template whose timer ends while connections refer to it (4.9)
RETIRED_PORT = 65535  # of a template whose server is no longer valid (5.4)
MARK_PROTOCOL = 0  # of a mark's templates, listed as IP

# protocol, caddr, cport, vaddr, vport
Key = tuple[int, bytes, int, bytes, int]


@dataclass(slots=True, eq=False)
class Connection:
    """An entry of the table: a connection, or a persistence template (5)."""

    key: Key
    server: Server
    port: int  # of the server
    method: Method  # of the server when the connection was made (1.7)
    state: int = 0
    timeout_s: float = NEW_S
    expires: float = 0
    template: bool = False
    control: Connection | None = None  # its template
    controls: int = 0  # of a template: connections that refer to it
    assured: bool = False  # of a template: one of its connections was established, or got a reply
    no_output: bool = True  # this host has seen only packets of the client (4.3)
    active: bool = False
    gone: bool = False

    def bind(self) -> None:
        """Count the entry at its server (4.8), as inactive."""
        if self.template:
            self.server.persistent += 1
        else:
            self.server.inactive += 1
        self.server.bind()

    def release(self) -> None:
        """Take the entry out of its server's counts."""
        if self.template:
            self.server.persistent -= 1
        elif self.active:
            self.server.active -= 1
        else:
            self.server.inactive -= 1
        self.server.release()

    def enter(self, state: int, *, active: bool) -> None:
        """Set the state, and move the connection between the server's active and inactive counts."""
        self.state = state
        if active != self.active:
            self.active = active
            self.server.active += 1 if active else -1
            self.server.inactive += -1 if active else 1


class ConnectionTable:
    """All connections and templates, with lookups in both directions and timers."""

    def __init__(self) -> None:
        self._entries: dict[Key, Connection] = {}
        self._reverse: dict[Key, list[Connection]] = {}  # the newest last
        self._templates: dict[Key, Connection] = {}
        self._retired: list[Connection] = []
        self._timers: list[tuple[float, int, Connection]] = []
        self._sequence = 0

    def __iter__(self) -> Iterator[Connection]:
        yield from self._entries.values()
        yield from self._templates.values()
        yield from self._retired

    def __len__(self) -> int:
        return len(self._entries) + len(self._templates) + len(self._retired)

    def get(self, key: Key) -> Connection | None:
        """Return the connection of a request's tuple."""
        return self._entries.get(key)

    def find(self, packet: Packet) -> Connection | None:
        """Find the connection of a request (2.3)."""
        return self._entries.get((packet.connection_protocol, packet.saddr, packet.sport, packet.daddr, packet.dport))

    def find_reply(self, packet: Packet) -> Connection | None:
        """Find the connection of a reply; under NAT the server sends it from its own address (2.7 step 3)."""
        found = self._reverse.get((packet.connection_protocol, packet.daddr, packet.dport, packet.saddr, packet.sport))
        return found[-1] if found else None

    def find_template(self, key: Key) -> Connection | None:
        return self._templates.get(key)

    def add(self, connection: Connection, now: float) -> None:
        """Add an entry to the table and to its server's counts, and start its timer."""
        connection.bind()
        if connection.template:
            self._templates[connection.key] = connection
        else:
            self._entries[connection.key] = connection
            self._reverse.setdefault(_reverse_key(connection), []).append(connection)
        connection.expires = now + connection.timeout_s
        self._start_timer(connection)

    def _start_timer(self, connection: Connection) -> None:
        self._sequence += 1
        heapq.heappush(self._timers, (connection.expires, self._sequence, connection))

    def restart(self, connection: Connection, now: float) -> None:
        """Restart the timer (4.9)."""
        later = now + connection.timeout_s
        sooner = later < connection.expires
        connection.expires = later
        if sooner:
            self._start_timer(connection)

    def retire(self, template: Connection) -> None:
        """Make lookups miss the template; it stays listed until its timer ends (5.4)."""
        del self._templates[template.key]
        protocol, client, _, virtual, _ = template.key
        template.key = (protocol, client, 0, virtual, RETIRED_PORT)
        template.port = RETIRED_PORT
        self._retired.append(template)

    def hide(self, connection: Connection) -> None:
        """Make lookups miss the connection; it stays in its server's counts until `end`."""
        del self._entries[connection.key]
        self._remove_reverse(connection)

    def _remove_reverse(self, connection: Connection) -> None:
        others = self._reverse[_reverse_key(connection)]
        others.remove(connection)
        if not others:
            del self._reverse[_reverse_key(connection)]

    def end(self, connection: Connection, *, killed: bool) -> None:
        """Remove an entry and its reference to a template.

        With `killed`, a template that is not assured ends with its last connection (4.9).
        """
        if connection.gone:
            return
        connection.gone = True
        if connection.template:
            if self._templates.get(connection.key) is connection:
                del self._templates[connection.key]
            else:
                self._retired.remove(connection)
        elif self._entries.get(connection.key) is connection:
            del self._entries[connection.key]
            self._remove_reverse(connection)
        connection.release()
        control = connection.control
        if control is not None:
            control.controls -= 1
            if killed and control.controls == 0 and not control.assured:
                self.end(control, killed=True)

    def advance(self, now: float) -> None:
        """Expire what is due. A template with connections gets another minute, and keeps that as its timeout."""
        while self._timers and self._timers[0][0] <= now:
            due, _, connection = heapq.heappop(self._timers)
            if connection.gone:
                continue
            if connection.expires > due:
                self._start_timer(connection)
            elif connection.controls:
                connection.timeout_s = EXTENDED_S
                connection.expires = due + EXTENDED_S
                self._start_timer(connection)
            else:
                self.end(connection, killed=False)


def _reverse_key(connection: Connection) -> Key:
    """Return protocol, client and source of replies: the server under NAT, else the virtual address (2.7 step 3)."""
    protocol, client, client_port, virtual, virtual_port = connection.key
    if connection.method == Method.MASQ:
        return (protocol, client, client_port, connection.server.address, connection.port)
    return (protocol, client, client_port, virtual, virtual_port)


def masked(client: bytes, mask: int) -> bytes:
    """Return the client's network: `mask` is 32 bits for IPv4, a prefix length for IPv6."""
    if len(client) == 4:
        return (int.from_bytes(client, "big") & mask).to_bytes(4, "big")
    return (int.from_bytes(client, "big") >> (128 - mask) << (128 - mask)).to_bytes(16, "big")


def template_key(service: Service, packet: Packet) -> tuple[Key, bool]:
    """Return the key of the client's template, and whether the template has the server's port (5.1)."""
    client = masked(packet.saddr, service.given.mask)
    port = packet.dport
    if port == service.port:
        by_port = port != FTP
        return (packet.protocol, client, 0, packet.daddr, port if by_port else 0), by_port
    if service.mark:
        number = service.mark.to_bytes(4, "big").ljust(len(client), b"\0")
        return (MARK_PROTOCOL, client, 0, number, 0), False
    return (packet.protocol, client, 0, packet.daddr, 0), False


def is_valid_template(template: Connection, *, expire_quiescent: bool) -> bool:
    """Return whether the template's server may still be used (5.4)."""
    server = template.server
    return server.available and not (expire_quiescent and server.weight == 0)


def connection_port(service: Service, template: Connection, packet: Packet) -> int:
    """Return the server's port for a connection of a template (5.2).

    Services of a mark or of all ports keep the packet's port.
    """
    if packet.dport == service.port and template.server.port:
        return template.server.port
    return packet.dport

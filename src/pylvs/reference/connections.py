"""Connections, their counts and their timers (IPVS-SEMANTICS 4)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from pylvs.model.dataclass import dataclass
from pylvs.model.destination import Method
from pylvs.reference.packet import Packet
from pylvs.reference.server import Server
from pylvs.reference.states import NEW_S

PROLONGED_S = 60  # what an entry gets that cannot go yet (4.9)
RETIRED_PORT = 65535  # of a template whose server went (5.4)

# protocol, client's address and port, virtual address and port
Key = tuple[int, bytes, int, bytes, int]


@dataclass(slots=True, eq=False)
class Connection:
    """An entry of the table: a connection, or a persistence template (5)."""

    key: Key
    server: Server
    port: int  # of the server
    method: Method  # as the server's was when it was made (1.7)
    protocol: int
    state: int = 0
    timeout_s: float = NEW_S
    expires: float = 0
    template: bool = False
    control: Connection | None = None  # the template it was made under
    controls: int = 0  # of a template: connections under it
    assured: bool = False  # of a template: one of them was established, or answered
    no_output: bool = True  # only the client's side was seen so far (4.3)
    active: bool = False
    gone: bool = False

    def bind(self) -> None:
        """Count it at its server (4.8), inactive at first."""
        if self.template:
            self.server.persistent += 1
        else:
            self.server.inactive += 1
        self.server.bind()

    def release(self) -> None:
        """It no longer counts."""
        if self.template:
            self.server.persistent -= 1
        elif self.active:
            self.server.active -= 1
        else:
            self.server.inactive -= 1
        self.server.release()

    def enter(self, state: int, *, active: bool) -> None:
        """Take a state; the counts follow."""
        self.state = state
        if active != self.active:
            self.active = active
            self.server.active += 1 if active else -1
            self.server.inactive += -1 if active else 1


class ConnectionTable:
    """All connections and templates, found from either side, and expired by the clock."""

    def __init__(self) -> None:
        self._entries: dict[Key, Connection] = {}
        self._replies: dict[Key, list[Connection]] = {}  # the newest last
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
        """The connection with these ends."""
        return self._entries.get(key)

    def find(self, packet: Packet) -> Connection | None:
        """The connection of a client's packet (2.3)."""
        return self._entries.get(
            (packet.connection_protocol, packet.source, packet.source_port, packet.target, packet.target_port)
        )

    def find_reply(self, packet: Packet) -> Connection | None:
        """The connection that a packet answers: by NAT it comes from the server itself (2.7 step 3)."""
        found = self._replies.get(
            (packet.connection_protocol, packet.target, packet.target_port, packet.source, packet.source_port)
        )
        return found[-1] if found else None

    def find_template(self, key: Key) -> Connection | None:
        """A client's template."""
        return self._templates.get(key)

    def add(self, connection: Connection, now: float) -> None:
        """Put it into the table and count it."""
        connection.bind()
        if connection.template:
            self._templates[connection.key] = connection
        else:
            self._entries[connection.key] = connection
            self._replies.setdefault(_reply_key(connection), []).append(connection)
        connection.expires = now + connection.timeout_s
        self._look_at(connection)

    def _look_at(self, connection: Connection) -> None:
        self._sequence += 1
        heapq.heappush(self._timers, (connection.expires, self._sequence, connection))

    def restart(self, connection: Connection, now: float) -> None:
        """Its timer begins again (4.9)."""
        later = now + connection.timeout_s
        sooner = later < connection.expires
        connection.expires = later
        if sooner:
            self._look_at(connection)

    def retire(self, template: Connection) -> None:
        """The template leads nowhere any more, but stays listed until its timer ends (5.4)."""
        del self._templates[template.key]
        protocol, client, _, virtual, _ = template.key
        template.key = (protocol, client, 0, virtual, RETIRED_PORT)
        template.port = RETIRED_PORT
        self._retired.append(template)

    def hide(self, connection: Connection) -> None:
        """It is about to end: no packet finds it any more, but it counts until `end`."""
        del self._entries[connection.key]
        self._forget_reply(connection)

    def _forget_reply(self, connection: Connection) -> None:
        answered = self._replies[_reply_key(connection)]
        answered.remove(connection)
        if not answered:
            del self._replies[_reply_key(connection)]

    def end(self, connection: Connection, *, killed: bool) -> None:
        """Take it out, and let go of its template; one that nothing assured goes with a killed last one (4.9)."""
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
            self._forget_reply(connection)
        connection.release()
        control = connection.control
        if control is not None:
            control.controls -= 1
            if killed and control.controls == 0 and not control.assured:
                self.end(control, killed=True)

    def advance(self, now: float) -> None:
        """Expire what is due. What still controls others gets another minute, and keeps that as its timeout."""
        while self._timers and self._timers[0][0] <= now:
            due, _, connection = heapq.heappop(self._timers)
            if connection.gone:
                continue
            if connection.expires > due:
                self._look_at(connection)
            elif connection.controls:
                connection.timeout_s = PROLONGED_S
                connection.expires = due + PROLONGED_S
                self._look_at(connection)
            else:
                self.end(connection, killed=False)


def _reply_key(connection: Connection) -> Key:
    """Protocol, client, and whom answers come from: the server by NAT, else the virtual address (2.7 step 3)."""
    protocol, client, client_port, virtual, virtual_port = connection.key
    if connection.method == Method.MASQ:
        return (protocol, client, client_port, connection.server.address, connection.port)
    return (protocol, client, client_port, virtual, virtual_port)

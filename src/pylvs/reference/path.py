"""The path of a packet through IPVS, from its coming in to a verdict (IPVS-SEMANTICS 2 and 7)."""

from __future__ import annotations

from collections.abc import Mapping

from pylvs.model.destination import Method
from pylvs.reference import errors, persistence, sctp
from pylvs.reference.connections import Connection, ConnectionTable
from pylvs.reference.errors import Error
from pylvs.reference.forwarding import aged, cut, encapsulated, encapsulation_bytes, framed, translated
from pylvs.reference.network import Hop, Network
from pylvs.reference.outcome import Outcome, Verdict, dropped, left
from pylvs.reference.packet import IPSEC, SCTP, TCP, UDP, Packet, parse
from pylvs.reference.schedulers import Asking
from pylvs.reference.server import Server, Totals
from pylvs.reference.service import Service
from pylvs.reference.states import (
    ACTIVE,
    CLOSE,
    ESTABLISHED,
    FIN_WAIT,
    RST,
    SECURE_ON,
    TIME_WAIT,
    Direction,
    next_tcp_state,
)
from pylvs.reference.tables import FTP, FTP_DATA, Tables

PROTOCOLS = frozenset((TCP, UDP, SCTP)) | IPSEC
A_FRAGMENT = "a fragment: the reference speaks of whole packets"
STANDING_BY = "to or from a virtual address that stands by"
SOURCE_ROUTED = "source-routed: the stack drops it"
LOOPBACK6, BROADCAST4 = bytes(15) + b"\1", b"\xff" * 4
LEAST_MTU4, LEAST_MTU6 = 68, 1280  # inside a tunnel


class Path:
    """Frames in, verdicts out. Tables, connections and settings are the director's."""

    def __init__(
        self,
        network: Network,
        tables: Tables,
        connections: ConnectionTable,
        settings: Mapping[str, int],
        timeouts_s: Mapping[int, float],
        udp_timeout_s: list[float],
    ) -> None:
        self.network = network
        self.tables = tables
        self.connections = connections
        self.settings = settings
        self.timeouts_s = timeouts_s
        self.udp_timeout_s = udp_timeout_s
        self.totals = Totals()
        self.standby: frozenset[bytes] = frozenset()  # virtual addresses of which another director is master
        self.now = 0.0

    def receive(self, frame: bytes, mark: int = 0) -> Outcome:
        """A frame that came in by a device (2.1, 2.2)."""
        if frame[:6] not in self.network.macs:
            return left(frame, "for another host")
        packet = parse(frame)
        if packet is None:
            return left(frame, "malformed, or no IP packet")
        if packet.target in self.standby:
            return left(frame, STANDING_BY)
        if packet.source_routed:
            return left(frame, SOURCE_ROUTED)
        if packet.fragment:
            return left(frame, A_FRAGMENT)
        if packet.protocol not in PROTOCOLS and not packet.headless:
            return left(frame, "not looked at")
        if not self.tables.has_family(packet.family):
            return left(frame, "no service of this family")
        if packet.headless and packet.protocol not in PROTOCOLS:
            return dropped("an ICMP header cut short")
        if packet.headless:
            served = any(service.address == packet.target for service in self.tables)
            return dropped("a transport header cut short") if served else left(frame, "no service")
        is_local = packet.target in self.network.local
        answered = self.connections.find_reply(packet)
        if answered is not None and answered.key[3] in self.standby:
            return left(frame, STANDING_BY)
        if answered is not None:
            return self.reply(frame, packet, answered, is_local)
        if not is_local:
            return left(frame, "to be routed")
        return self.request(frame, packet, mark)

    # --- requests ---

    def request(self, frame: bytes, packet: Packet, mark: int) -> Outcome:
        """A packet to an address of this host (2.3)."""
        connection = self.connections.find(packet)
        if connection is None:
            return self._unknown(frame, packet, mark)
        if not (packet.opens and self._reopens(connection)):
            if connection.server.available:
                return self._carry(frame, packet, connection)
            if not self.settings["expire_nodest_conn"]:
                return dropped("its server was deleted")
        # It ends, but a moment later: it still counts while its ports are scheduled anew (4.1).
        self.connections.hide(connection)
        outcome = self._unknown(frame, packet, mark)
        self.connections.end(connection, killed=False)
        return outcome

    def _reopens(self, connection: Connection) -> bool:
        """Whether a SYN opens the connection's ports anew (2.3 step 1)."""
        if self.settings["expire_nodest_conn"] and connection.server.weight == 0:
            return True
        mode = self.settings["conn_reuse_mode"]
        if not mode or connection.control is not None:
            return False
        if connection.protocol == SCTP:
            return connection.state == sctp.CLOSED
        if connection.state in (TIME_WAIT, CLOSE):
            return True
        return bool(mode & 2) and connection.state == FIN_WAIT and connection.no_output

    def _unknown(self, frame: bytes, packet: Packet, mark: int) -> Outcome:
        """A packet without a connection (2.4, 2.5)."""
        if packet.protocol in IPSEC:
            return left(frame, "of no key exchange that is known")
        if not packet.whole or (packet.protocol == SCTP and packet.chunk is None):
            return dropped("a transport header cut short")
        if not self._may_open(packet):
            return left(frame, "opens nothing")
        service = self.tables.find(packet.family, mark, packet.protocol, packet.target, packet.target_port)
        if service is None:
            return left(frame, "no service")
        if not self._is_believable(packet.source):
            return left(frame, "from an address that no packet from outside can have")
        if packet.source_port == FTP_DATA:
            return left(frame, "from FTP's data port")
        if service.persistent:
            connection = self._schedule_persistent(service, packet)
        elif not service.mark and packet.target_port != service.port:
            connection = None
        else:
            connection = self._schedule(service, packet)
        if connection is None:
            return self._refuse(frame, packet, service)
        outcome = self._carry(frame, packet, connection)
        if service.one_packet and packet.protocol == UDP:
            self.connections.end(connection, killed=False)
        return outcome

    def _is_believable(self, source: bytes) -> bool:
        """Whether the kernel, before IPVS, takes it from outside (RFC 1122 3.2.1.3; RFC 4291 2.5.3, 2.7)."""
        if len(source) == 16:
            return source[0] != 0xFF and source != LOOPBACK6
        return (
            source[0] not in (0, 127)
            and source[0] >> 4 != 14
            and source != BROADCAST4
            and source not in self.network.local
        )

    def _may_open(self, packet: Packet) -> bool:
        """By protocol (2.4)."""
        if packet.protocol == TCP:
            return not packet.flags & RST and (packet.opens or bool(self.settings["sloppy_tcp"]))
        if packet.protocol == SCTP:
            return packet.chunk != sctp.ABORT and (packet.opens or bool(self.settings["sloppy_sctp"]))
        return True

    def _schedule(self, service: Service, packet: Packet) -> Connection | None:
        server = service.choose(Asking(packet.source, packet.source_port, packet.target), self.now)
        if server is None:
            return None
        return self._connect(service, packet, server, server.port or packet.target_port, None)

    def _schedule_persistent(self, service: Service, packet: Packet) -> Connection | None:
        """The client's template decides, without regard to weight or overload; else the scheduler (5.2)."""
        key, has_port = persistence.template_key(service, packet)
        template = self.connections.find_template(key)
        quiescent = bool(self.settings["expire_quiescent_template"])
        if template is not None and not persistence.is_valid(template, expire_quiescent=quiescent):
            self.connections.retire(template)
            template = None
        if template is None:
            server = service.choose(Asking(packet.source, packet.source_port, packet.target), self.now)
            if server is None:
                return None
            template = Connection(key, server, server.port if has_port else 0, server.method, key[0], template=True)
            template.timeout_s = service.given.timeout_s
            self.connections.add(template, self.now)
        port = persistence.connection_port(service, template, packet)
        connection = self._connect(service, packet, template.server, port, template)
        self.connections.restart(template, self.now)
        return connection

    def _connect(
        self, service: Service, packet: Packet, server: Server, port: int, control: Connection | None
    ) -> Connection:
        """Make a connection, counted inactive (2.5 step 6, 4.2)."""
        key = (packet.protocol, packet.source, packet.source_port, packet.target, packet.target_port)
        connection = Connection(key, server, port, server.method, packet.protocol)
        connection.no_output = server.method != Method.MASQ
        connection.control = control
        if control is not None:
            control.controls += 1
        self.connections.add(connection, self.now)
        for totals in self._totals(server):
            totals.connections += 1
        return connection

    def _refuse(self, frame: bytes, packet: Packet, service: Service) -> Outcome:
        """A service, but no server for it (2.6)."""
        if service.port == FTP and packet.target_port != FTP:
            return left(frame, "not FTP's control connection")
        return self._answer(packet, errors.PORT_UNREACHABLE)

    # --- carrying on ---

    def _totals(self, server: Server) -> tuple[Totals, Totals, Totals]:
        """What counts for a server counts for its service and for all (9.1)."""
        return server.totals, server.service_totals, self.totals

    def _carry(self, frame: bytes, packet: Packet, connection: Connection) -> Outcome:
        """Count, change state, transmit, restart the timer (2.3 step 8)."""
        for totals in self._totals(connection.server):
            totals.in_packets += 1
            totals.in_bytes += packet.length
        self._advance_state(packet, connection, Direction.INPUT_ONLY if connection.no_output else Direction.INPUT)
        return self._transmit(frame, packet, connection)

    def _advance_state(self, packet: Packet, connection: Connection, direction: Direction) -> None:
        before, established = connection.state, False
        if packet.protocol == UDP:
            connection.timeout_s = self.udp_timeout_s[0]
            established = direction == Direction.OUTPUT
        elif packet.protocol == TCP and packet.event_flags is not None:
            secure = self.settings["secure_tcp"] == SECURE_ON
            state = next_tcp_state(before, packet.event_flags, direction, secure)
            connection.enter(state, active=state in ACTIVE)
            connection.timeout_s = self.timeouts_s[state]
            established = state == ESTABLISHED != before
        elif packet.protocol == SCTP and packet.event_chunk is not None:
            state = sctp.next_sctp_state(before, packet.event_chunk, direction)
            connection.enter(state, active=state == sctp.ESTABLISHED)
            connection.timeout_s = sctp.TIMEOUTS_S[state]
            established = state == sctp.ESTABLISHED != before
        if established and connection.control is not None:
            connection.control.assured = True
        self.connections.restart(connection, self.now)

    def _transmit(self, frame: bytes, packet: Packet, connection: Connection) -> Outcome:
        """Route, local servers, time to live, length, and out (7.1)."""
        server, method = connection.server, connection.method
        if server.address in self.network.local:
            return self._to_local_server(frame, packet, connection)
        hop = self.network.hop(server.address)
        if hop is None:
            return self._answer(packet, errors.HOST_UNREACHABLE, connection)
        if packet.ttl <= 1:
            return self._answer(packet, errors.TIME_EXCEEDED, connection)
        pmtu_disc = bool(self.settings["pmtu_disc"])
        mtu, free = hop.mtu, not packet.df
        if method == Method.TUNNEL:
            outer = len(server.address)
            mtu -= encapsulation_bytes(server.tunnel, 4 if outer == 4 else 6)
            if mtu < (LEAST_MTU4 if outer == 4 else LEAST_MTU6):
                return dropped("no room inside the tunnel")
            free = free or (not pmtu_disc and packet.family == 4)
        if packet.length > mtu and not free:
            return self._answer(packet, errors.TOO_BIG, connection, rest=mtu, ip=bytes(aged(packet)))
        if method == Method.MASQ:
            if not packet.whole:
                return dropped("a transport header cut short")
            ip = bytes(translated(packet, aged(packet), address=server.address, port=connection.port, is_reply=False))
        elif method == Method.TUNNEL:
            source = hop.source4 if len(server.address) == 4 else hop.source6
            ip = encapsulated(packet, server.tunnel, source, server.address, pmtu_disc=pmtu_disc)
        else:
            ip = bytes(aged(packet))
        return _sent(ip, hop)

    def _to_local_server(self, frame: bytes, packet: Packet, connection: Connection) -> Outcome:
        """The server is this host itself (7.2)."""
        if connection.method != Method.MASQ:
            return left(frame, "the server is this host")
        if not packet.whole:
            return dropped("a transport header cut short")
        server = connection.server
        ip = translated(packet, bytearray(packet.ip), address=server.address, port=connection.port, is_reply=False)
        return left(frame[:14] + bytes(ip), "the server is this host")

    def _answer(
        self,
        packet: Packet,
        error: Error,
        connection: Connection | None = None,
        *,
        rest: int = 0,
        ip: bytes | None = None,
    ) -> Outcome:
        """An ICMP error to the client. About a packet of DR or TUN it counts as an answer of the service (8.2)."""
        message = errors.error_about(packet, error, rest, ip)
        if connection is not None and connection.method != Method.MASQ:
            self._count_output(connection, len(message))
        if packet.source in self.network.local:  # IPv6 believes its own addresses from outside
            return dropped("its error is for this host itself")
        hop = self.network.hop(packet.source)
        return _sent(message, hop) if hop is not None else dropped("no route to the client")

    # --- answers of servers ---

    def _count_output(self, connection: Connection, length: int) -> None:
        """A deleted server's counters stand still (1.8)."""
        if not connection.server.available:
            return
        for totals in self._totals(connection.server):
            totals.out_packets += 1
            totals.out_bytes += length

    def reply(self, frame: bytes, packet: Packet, connection: Connection, is_local: bool) -> Outcome:
        """A server's answer (2.7). The host forwards it, and what forwarding refuses, IPVS never sees."""
        hop = self.network.hop(packet.target)
        if not is_local:
            refused = self._not_forwarded(packet, hop)
            if refused:
                return left(frame, refused)
        masq = connection.method == Method.MASQ
        if masq and not packet.whole:
            return dropped("a transport header cut short")
        self._count_output(connection, packet.length)
        connection.no_output = False
        self._advance_state(packet, connection, Direction.OUTPUT)
        if not masq:
            return left(frame, "an answer that needs no change")
        virtual, port = connection.key[3], connection.key[4]
        if is_local or hop is None:
            ip = translated(packet, bytearray(packet.ip), address=virtual, port=port, is_reply=True)
            return left(frame[:14] + bytes(ip), "an answer to this host")
        return _sent(bytes(translated(packet, aged(packet, virtual), address=virtual, port=port, is_reply=True)), hop)

    def _not_forwarded(self, packet: Packet, hop: Hop | None) -> str:
        """Why a router does not forward this packet, or nothing."""
        if not self.network.forwards(packet.family):
            return "this host does not forward"
        if hop is None:
            return "no route"
        if packet.ttl <= 1:
            return "time to live used up"
        if packet.length > hop.mtu and packet.df:
            return "too long"
        return ""


def _sent(ip: bytes, hop: Hop) -> Outcome:
    """Out by a device, in fragments if it must be: whoever may not cut it was asked before."""
    pieces = [ip] if len(ip) <= hop.mtu else cut(ip, hop.mtu)
    return Outcome(Verdict.SENT, tuple((hop.device, framed(piece, hop)) for piece in pieces))

"""The path of a packet through IPVS, from a device to a verdict (IPVS-SEMANTICS 2 and 7)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from pylvs.model.service import Method, Timeouts
from pylvs.reference import forwarding, states
from pylvs.reference.connections import Connection, ConnectionTable, connection_port, is_valid_template, template_key
from pylvs.reference.forwarding import Error, Network, NextHop, decrement_ttl, translate
from pylvs.reference.packet import ABORT, IPSEC, RST, SCTP, TCP, UDP, Packet, parse
from pylvs.reference.schedulers import Flow
from pylvs.reference.server import Server, Totals
from pylvs.reference.states import Direction
from pylvs.reference.tables import FTP, FTP_DATA, Service, Tables

PROTOCOLS = frozenset((TCP, UDP, SCTP)) | IPSEC
A_FRAGMENT = "a fragment: the reference handles whole packets"
UNSERVED = "no service of this family"
STANDBY = "to or from a standby virtual address"
SOURCE_ROUTED = "source-routed: the stack drops it"
LOOPBACK6, BROADCAST4 = bytes(15) + b"\1", b"\xff" * 4
MIN_MTU4, MIN_MTU6 = 68, 1280  # of a tunnel: below, packets are dropped (7.4)


class Verdict(Enum):
    """STACK: the host's own stack handles the frame ("accept"). SENT: the director sent frames ("stolen")."""

    STACK = "stack"
    DROP = "drop"
    SENT = "sent"


class Decision(NamedTuple):
    """A verdict, and the frames sent (device, frame) or the frame for the stack."""

    verdict: Verdict
    sent: tuple[tuple[str, bytes], ...] = ()
    frame: bytes = b""
    reason: str = ""


def drop(reason: str) -> Decision:
    return Decision(Verdict.DROP, reason=reason)


def to_stack(frame: bytes, reason: str = "") -> Decision:
    """Pass a frame to the stack, unmodified or rewritten."""
    return Decision(Verdict.STACK, frame=frame, reason=reason)


class PacketPath:
    """Frames in, decisions out. The director owns the tables, connections and settings."""

    def __init__(
        self,
        network: Network,
        tables: Tables,
        connections: ConnectionTable,
        settings: Mapping[str, int],
        strict: bool = False,
    ) -> None:
        """`strict`: as IPVS also where pylvs differs (`ReferenceDirector`)."""
        self.network = network
        self.tables = tables
        self.connections = connections
        self.settings = settings
        self.strict = strict
        self.timeouts = Timeouts()
        self.totals = Totals()
        self.standby: frozenset[bytes] = frozenset()  # virtual addresses of which another director is master
        self.now = 0.0

    def receive(self, frame: bytes, mark: int = 0) -> Decision:
        """Handle a frame from a device (2.1, 2.2)."""
        if frame[:6] not in self.network.macs:
            return to_stack(frame, "for another host")
        packet = parse(frame)
        if packet is None:
            return to_stack(frame, "malformed, or no IP packet")
        if packet.daddr in self.standby:
            return to_stack(frame, STANDBY)
        if packet.source_routed:
            return to_stack(frame, SOURCE_ROUTED)
        if packet.fragment:
            return to_stack(frame, A_FRAGMENT)
        if packet.protocol not in PROTOCOLS and not packet.headless:
            return to_stack(frame, "not looked at")
        unserved = not self.tables.has_family(packet.family)
        if unserved and (self.strict or packet.headless):
            return to_stack(frame, UNSERVED)
        if packet.headless:
            return self._handle_headless(frame, packet)
        is_local = packet.daddr in self.network.local
        connection = self.connections.find_reply(packet)
        if connection is not None and connection.key[3] in self.standby:
            return to_stack(frame, STANDBY)
        if connection is not None:
            return self.reply(frame, packet, connection, is_local)
        if not is_local:
            return to_stack(frame, "to be routed")
        return self.request(frame, packet, mark)

    def _handle_headless(self, frame: bytes, packet: Packet) -> Decision:
        """Handle a packet that ends within its transport header."""
        if packet.protocol not in PROTOCOLS:
            return drop("an ICMP header cut short")
        served = any(service.address == packet.daddr for service in self.tables)
        return drop("a transport header cut short") if served else to_stack(frame, "no service")

    # --- requests ---

    def request(self, frame: bytes, packet: Packet, mark: int) -> Decision:
        """Handle a packet to an address of this host (2.3)."""
        connection = self.connections.find(packet)
        if connection is None:
            return self._handle_new(frame, packet, mark)
        if not (packet.opens and self._reopens(connection)):
            expires = self.settings["expire_nodest_conn"]
            if connection.server.available or (connection.server.orphaned and not expires):
                return self._forward(frame, packet, connection)
            if not expires:
                return drop("its server was deleted")
        # It ends after scheduling, because it still counts while the scheduler chooses (4.1).
        self.connections.hide(connection)
        decision = self._handle_new(frame, packet, mark)
        self.connections.end(connection, killed=False)
        return decision

    def _reopens(self, connection: Connection) -> bool:
        """Return whether a SYN starts a new connection with the same tuple (2.3 step 1)."""
        if self.settings["expire_nodest_conn"] and connection.server.weight == 0:
            return True
        mode = self.settings["conn_reuse_mode"]
        if not mode or connection.control is not None:
            return False
        if connection.key[0] == SCTP:
            return connection.state == states.SCTP_CLOSED
        if connection.state in (states.TIME_WAIT, states.CLOSE):
            return True
        return bool(mode & 2) and connection.state == states.FIN_WAIT and connection.no_output

    def _handle_new(self, frame: bytes, packet: Packet, mark: int) -> Decision:
        """Handle a packet without a connection (2.4, 2.5)."""
        if not self.tables.has_family(packet.family):
            return to_stack(frame, UNSERVED)
        if packet.protocol in IPSEC:
            return to_stack(frame, "IPsec without a connection of its key exchange")
        if not packet.whole or (packet.protocol == SCTP and packet.chunk is None):
            return drop("a transport header cut short")
        if not self._may_open(packet):
            return to_stack(frame, "opens nothing")
        service = self.tables.find(packet.family, mark, packet.protocol, packet.daddr, packet.dport)
        if service is None:
            return to_stack(frame, "no service")
        if not self._accepts_saddr(packet.saddr):
            return to_stack(frame, "from an address that is not valid as a source")
        if packet.sport == FTP_DATA:
            return to_stack(frame, "from FTP's data port")
        if service.persistent:
            connection = self._schedule_persistent(service, packet)
        elif not service.mark and packet.dport != service.port:
            connection = None
        else:
            connection = self._schedule(service, packet)
        if connection is None:
            return self._handle_no_server(frame, packet, service)
        if not (service.one_packet and packet.protocol == UDP):
            return self._forward(frame, packet, connection)
        self.connections.hide(connection)  # it is never in the table, and ends with the packet (4.10)
        decision = self._forward(frame, packet, connection)
        self.connections.end(connection, killed=False)
        return decision

    def _accepts_saddr(self, saddr: bytes) -> bool:
        """Return whether the kernel accepts the source address of a received packet; it checks that before IPVS.

        See RFC 1122 3.2.1.3 and RFC 4291 2.5.3, 2.7.
        """
        if len(saddr) == 16:
            return saddr[0] != 0xFF and saddr != LOOPBACK6
        return (
            saddr[0] not in (0, 127) and saddr[0] >> 4 != 14 and saddr != BROADCAST4 and saddr not in self.network.local
        )

    def _may_open(self, packet: Packet) -> bool:
        """Return whether the packet may create a connection; each protocol has its own rule (2.4)."""
        if packet.protocol == TCP:
            return not packet.flags & RST and (packet.opens or bool(self.settings["sloppy_tcp"]))
        if packet.protocol == SCTP:
            return packet.chunk != ABORT and (packet.opens or bool(self.settings["sloppy_sctp"]))
        return True

    def _schedule(self, service: Service, packet: Packet) -> Connection | None:
        server = service.scheduler.choose(Flow(packet.saddr, packet.sport, packet.daddr), self.now)
        if server is None:
            return None
        return self._connect(service, packet, server, server.port or packet.dport, None)

    def _schedule_persistent(self, service: Service, packet: Packet) -> Connection | None:
        """Use the server of the client's template without regard to weight or load.

        Without a template, ask the scheduler (5.2).
        """
        key, has_port = template_key(service, packet)
        template = self.connections.find_template(key)
        quiescent = bool(self.settings["expire_quiescent_template"])
        if template is not None and not is_valid_template(template, expire_quiescent=quiescent):
            self.connections.retire(template)
            template = None
        if template is None:
            server = service.scheduler.choose(Flow(packet.saddr, packet.sport, packet.daddr), self.now)
            if server is None:
                return None
            template = Connection(key, server, server.port if has_port else 0, server.given.method, template=True)
            template.timeout_s = service.given.timeout_s
            self.connections.add(template, self.now)
        port = connection_port(service, template, packet)
        connection = self._connect(service, packet, template.server, port, template)
        self.connections.restart(template, self.now)
        return connection

    def _connect(
        self, service: Service, packet: Packet, server: Server, port: int, control: Connection | None
    ) -> Connection:
        """Create a connection, which counts as inactive (2.5 step 6, 4.2)."""
        key = (packet.protocol, packet.saddr, packet.sport, packet.daddr, packet.dport)
        connection = Connection(key, server, port, server.given.method)
        connection.no_output = server.given.method != Method.MASQ
        connection.control = control
        if control is not None:
            control.controls += 1
        self.connections.add(connection, self.now)
        for totals in self._totals(server):
            totals.connections += 1
        return connection

    def _handle_no_server(self, frame: bytes, packet: Packet, service: Service) -> Decision:
        """Handle a packet of a service that has no server for it (2.6)."""
        if service.port == FTP and packet.dport != FTP:
            return to_stack(frame, "not FTP's control connection")
        return self._send_error(packet, forwarding.PORT_UNREACHABLE)

    # --- forwarding ---

    def _totals(self, server: Server) -> tuple[Totals, Totals, Totals]:
        """Return the counters of a server, of its service, and of all services (9.1)."""
        return server.totals, server.service_totals, self.totals

    def _forward(self, frame: bytes, packet: Packet, connection: Connection) -> Decision:
        """Count, change the state, send, restart the timer (2.3 step 8)."""
        for totals in self._totals(connection.server):
            totals.in_packets += 1
            totals.in_bytes += packet.length
        self._advance_state(packet, connection, Direction.INPUT_ONLY if connection.no_output else Direction.INPUT)
        return self._transmit(frame, packet, connection)

    def _advance_state(self, packet: Packet, connection: Connection, direction: Direction) -> None:
        before, established = connection.state, False
        if packet.protocol == UDP:
            connection.timeout_s = self.timeouts.udp_s
            established = direction == Direction.OUTPUT
        elif packet.protocol == TCP and packet.event_flags is not None:
            secure = self.settings["secure_tcp"] == states.SECURE_ON
            state = states.next_tcp_state(before, packet.event_flags, direction, secure)
            connection.enter(state, active=state in states.ACTIVE)
            connection.timeout_s = states.tcp_timeout_s(state, self.timeouts)
            established = state == states.ESTABLISHED != before
        elif packet.protocol == SCTP and packet.event_chunk is not None:
            state = states.next_sctp_state(before, packet.event_chunk, direction)
            connection.enter(state, active=state == states.SCTP_ESTABLISHED)
            connection.timeout_s = states.SCTP_TIMEOUTS_S[state]
            established = state == states.SCTP_ESTABLISHED != before
        if established and connection.control is not None:
            connection.control.assured = True
        self.connections.restart(connection, self.now)

    def _transmit(self, frame: bytes, packet: Packet, connection: Connection) -> Decision:
        """Find the route, check for a local server, TTL and length, and send (7.1)."""
        server, method = connection.server, connection.method
        if server.address in self.network.local:
            return self._to_local_server(frame, packet, connection)
        hop = self.network.next_hop(server.address)
        if hop is None:
            return self._send_error(packet, forwarding.HOST_UNREACHABLE)
        if packet.ttl <= 1:
            return self._send_error(packet, forwarding.TIME_EXCEEDED)
        pmtu_disc = bool(self.settings["pmtu_disc"])
        mtu, free = hop.mtu, not packet.df
        if method == Method.TUNNEL:
            outer = len(server.address)
            mtu -= forwarding.encapsulation_bytes(server.given.tunnel, 4 if outer == 4 else 6)
            if mtu < (MIN_MTU4 if outer == 4 else MIN_MTU6):
                return drop("the MTU inside the tunnel is too small")
            free = free or (not pmtu_disc and packet.family == 4)
        if packet.length > mtu and not free:
            return self._send_error(packet, forwarding.TOO_BIG, rest=mtu, ip=bytes(decrement_ttl(packet)))
        if method == Method.MASQ:
            if not packet.whole:
                return drop("a transport header cut short")
            ip = bytes(
                translate(packet, decrement_ttl(packet), address=server.address, port=connection.port, is_reply=False)
            )
        elif method == Method.TUNNEL:
            saddr = hop.saddr4 if len(server.address) == 4 else hop.saddr6
            ip = forwarding.encapsulate(packet, server.given.tunnel, saddr, server.address, pmtu_disc=pmtu_disc)
        else:
            ip = bytes(decrement_ttl(packet))
        return _sent(ip, hop)

    def _to_local_server(self, frame: bytes, packet: Packet, connection: Connection) -> Decision:
        """Forward to this host itself (7.2)."""
        if connection.method != Method.MASQ:
            return to_stack(frame, "the server is this host")
        if not packet.whole:
            return drop("a transport header cut short")
        server = connection.server
        ip = translate(packet, bytearray(packet.ip), address=server.address, port=connection.port, is_reply=False)
        return to_stack(frame[:14] + bytes(ip), "the server is this host")

    def _send_error(
        self,
        packet: Packet,
        error: Error,
        rest: int = 0,
        ip: bytes | None = None,
    ) -> Decision:
        """Send an ICMP error to the client.

        About a packet of a connection by DR or TUN, it counts as a packet from the service (8.2). Without a route to
        the client it counts nowhere.
        """
        message = forwarding.error_about(packet, error, rest, ip)
        is_own = packet.saddr in self.network.local  # IPv6 accepts its own addresses as a source from outside
        connection, hop = self.connections.find(packet), self.network.next_hop(packet.saddr)
        if connection is not None and connection.method != Method.MASQ and (is_own or hop is not None):
            self._count_output(connection, len(message))
        if is_own:
            return drop("its error is for this host itself")
        return _sent(message, hop) if hop is not None else drop("no route to the client")

    # --- replies ---

    def _count_output(self, connection: Connection, length: int) -> None:
        """Count a packet to the client, unless its server was deleted (1.8), but not with its service."""
        if not (connection.server.available or connection.server.orphaned):
            return
        for totals in self._totals(connection.server):
            totals.out_packets += 1
            totals.out_bytes += length

    def reply(self, frame: bytes, packet: Packet, connection: Connection, is_local: bool) -> Decision:
        """Handle a server's packet (2.7). The host routes it; IPVS does not see what routing refuses."""
        hop = self.network.next_hop(packet.daddr)
        if not is_local:
            refused = self._not_forwarded(packet, hop)
            if refused:
                return to_stack(frame, refused)
        masq = connection.method == Method.MASQ
        if masq and not packet.whole:
            return drop("a transport header cut short")
        self._count_output(connection, packet.length)
        connection.no_output = False
        self._advance_state(packet, connection, Direction.OUTPUT)
        if not masq:
            return to_stack(frame, "a reply that needs no change")
        virtual, port = connection.key[3], connection.key[4]
        if is_local or hop is None:
            ip = translate(packet, bytearray(packet.ip), address=virtual, port=port, is_reply=True)
            return to_stack(frame[:14] + bytes(ip), "a reply to this host")
        return _sent(
            bytes(translate(packet, decrement_ttl(packet, virtual), address=virtual, port=port, is_reply=True)), hop
        )

    def _not_forwarded(self, packet: Packet, hop: NextHop | None) -> str:
        """Return why a router does not forward this packet; empty if it does."""
        if not self.network.forwards(packet.family):
            return "this host does not forward"
        if hop is None:
            return "no route"
        if packet.ttl <= 1:
            return "TTL used up"
        if packet.length > hop.mtu and packet.df:
            return "too long"
        return ""


def _sent(ip: bytes, hop: NextHop) -> Decision:
    """Send by a device, in fragments if necessary. Packets that must not be fragmented were checked before."""
    fragments = [ip] if len(ip) <= hop.mtu else forwarding.fragment(ip, hop.mtu)
    return Decision(Verdict.SENT, tuple((hop.device, forwarding.add_link_header(each, hop)) for each in fragments))

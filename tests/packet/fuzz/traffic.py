"""Draw frames and edits so that connections begin, change states, and end."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    ServiceFlag,
    ServiceKey,
    Tunnel,
    VirtualService,
)
from pylvs.reference.packet import checksum, pseudo_header
from tests.packet.fuzz.site import METHODS, PERSISTENCE_S, SERVER_PORTS, SETTINGS, WEIGHTS
from tests.packet.fuzz.steps import (
    AddServer,
    AddService,
    DeleteServer,
    DeleteService,
    Edit,
    EditServer,
    EditService,
    Set,
    SetStandby,
    Step,
)
from tests.packet.host import MAC, OWN4, OWN6, PREDICTABLE, ROUTER_MAC, SERVERS, VIP4, VIP6, server4, server6

SYN, ACK, FIN, RST, PSH = 2, 16, 1, 4, 8
USUAL_FLAGS = (SYN, ACK, ACK, ACK, ACK | PSH, ACK | PSH, FIN | ACK, FIN, RST, RST | ACK, SYN | ACK)
RARE_FLAGS = (0, 63, SYN | FIN, SYN | RST, PSH, 32, 255, 128)
PAYLOADS = (0, 0, 0, 1, 2, 7, 64, 333, 536)
LONG_PAYLOADS = (1400, 1412, 1420, 1432, 1440, 1441, 1452, 1460, 1461, 1472, 1473, 1500, 1800, 2000)
HOME = bytes.fromhex(MAC.replace(":", ""))
ROUTER = bytes.fromhex(ROUTER_MAC.replace(":", ""))
OWN = {4: ip_address(OWN4).packed, 6: ip_address(OWN6).packed}
VIPS = {4: ip_address(VIP4).packed, 6: ip_address(VIP6).packed}
ROLES = tuple(frozenset(map(ip_address, each)) for each in ((), (), (), (VIP4,), (VIP6,), (VIP4, VIP6), (VIP4, OWN6)))
IKE = 500
FLOWS = 40  # remembered flows
ICMP, TCP, UDP, SCTP, ESP, AH, ICMP6 = 1, 6, 17, 132, 50, 51, 58
CHUNKS = (0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 99)
# Without valid record routes: errors repeat them, which the reference does not; the recording ip_options has them.
OPTIONS4 = (
    b"\1\1\1\0",
    b"\0\0\0\0",
    b"\1" * 40,
    b"\x83\7\4\x0a\0\0\1\0",
    b"\x89\7\4\x0a\0\0\1\0",
    b"\x4d\0\0\0",
    b"\x4d\1\0\0",
    b"\x4d\x28\0\0",
    b"\7\2\0\0",
    b"\7\7\3\0\0\0\0\0",
)
HOP_OPTIONS6 = (  # the kernel drops some of them before IPVS
    b"\1\4\0\0\0\0",
    b"\1\4\0\0\1\0",
    b"\0\0\0\0\0\0",
    b"\0\0\0\0\0\1",
    b"\5\2\0\0\1\0",
    b"\5\1\0\1\1\0",
    b"\x1e\4\0\0\0\0",
    b"\x9e\4\0\0\0\0",
    b"\x1e\5\0\0\0\0",
    b"\x1e\0\x1e\0\1\0",
)
EXTENSIONS6 = ((0, HOP_OPTIONS6), (60, (b"\1\4\0\0\0\0",)), (43, (b"\0\0\0\0\0\0",)))


@dataclass(slots=True)
class Flow:
    """A client's connection with a virtual address."""

    protocol: int
    client: bytes
    port: int
    target: bytes
    target_port: int


def ip_packet(
    source: bytes, target: bytes, protocol: int, payload: bytes, chance: random.Random, with_options: bool = True
) -> bytes:
    """Return an IP packet, mostly with usual fields."""
    rare = chance.random() < 0.1
    ttl = chance.choice((0, 1, 2, 255, 128, 64)) if rare else 64
    tos = chance.randrange(256) if rare else 0
    if len(source) == 16:
        flow = chance.randrange(1 << 20) if rare else 0
        if chance.random() < 0.03:
            for number, contents in chance.sample(EXTENSIONS6, chance.randint(1, 3)):
                payload, protocol = bytes((protocol, 0)) + chance.choice(contents) + payload, number
        head = struct.pack("!IHBB", 6 << 28 | tos << 20 | flow, len(payload), protocol, ttl)
        return head + source + target + payload
    options = chance.choice(OPTIONS4) if with_options and chance.random() < 0.03 and len(payload) < 1000 else b""
    fragment = 0x4000 if chance.random() < 0.5 else 0
    head = struct.pack(
        "!BBHHHBBH",
        0x45 + len(options) // 4,
        tos,
        20 + len(options) + len(payload),
        chance.randrange(65536) if chance.random() < 0.7 else 0,
        fragment,
        ttl,
        protocol,
        0,
    )
    head += source + target + options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def tcp(source: bytes, target: bytes, sport: int, dport: int, flags: int, data: bytes, chance: random.Random) -> bytes:
    """Return a segment, sometimes with a wrong checksum."""
    head = struct.pack("!HHIIBBHHH", sport, dport, chance.getrandbits(32), 1, 0x50, flags, 8192, 0, 0) + data
    check = checksum(pseudo_header(source, target, TCP, len(head)) + head)
    if chance.random() < 0.02:
        check = chance.choice((0, 0xFFFF, chance.randrange(65536)))
    return head[:16] + check.to_bytes(2, "big") + head[18:]


def udp(source: bytes, target: bytes, sport: int, dport: int, data: bytes, chance: random.Random) -> bytes:
    """Return a datagram, sometimes with a wrong or no checksum."""
    head = struct.pack("!HHHH", sport, dport, 8 + len(data), 0) + data
    check = checksum(pseudo_header(source, target, UDP, len(head)) + head) or 0xFFFF
    if chance.random() < 0.1:
        check = chance.choice((0, 0, 0, 0xFFFF, chance.randrange(65536)))
    return head[:6] + check.to_bytes(2, "big") + head[8:]


def sctp(sport: int, dport: int, first: bool, data: bytes, chance: random.Random) -> bytes:
    """Return a packet of one or two chunks with a random checksum."""
    body = b""
    for _ in range(1 if len(data) > 600 else chance.choice((1, 1, 1, 2))):
        kind = 1 if first and not body else chance.choice(CHUNKS)
        length = 4 + len(data) if chance.random() < 0.95 else chance.randrange(40)
        body += struct.pack("!BBH", kind, 0, length) + data + bytes(-len(data) % 4)
    return struct.pack("!HHII", sport, dport, chance.getrandbits(32), chance.getrandbits(32)) + body


def framed(ip: bytes, padding: bytes = b"") -> bytes:
    """Return the frame that the router sends."""
    return HOME + ROUTER + (b"\x08\x00" if ip[0] >> 4 == 4 else b"\x86\xdd") + ip + padding


class Traffic:
    """The frames and edits of one example from its seed; `tables` are the edits before."""

    def __init__(self, tables: list[Edit], seed: int, *, options: bool = True, roles: bool = False) -> None:
        self.options = options  # of IPv4
        self.roles = roles  # some addresses are standby at times
        self.chance = random.Random(seed)
        self.services: dict[ServiceKey, VirtualService] = {}
        self.servers: dict[ServiceKey, dict[DestinationKey, Destination]] = {}
        self.gone: list[tuple[ServiceKey, Destination]] = []
        self.flows: list[Flow] = []
        for edit in tables:
            self._note(edit)

    def _note(self, edit: Edit | SetStandby) -> None:
        if isinstance(edit, AddService | EditService):
            self.services[edit.service.key] = edit.service
            self.servers.setdefault(edit.service.key, {})
        elif isinstance(edit, DeleteService):
            del self.services[edit.key]
            self.gone += [(edit.key, given) for given in self.servers.pop(edit.key).values()]
        elif isinstance(edit, AddServer | EditServer):
            self.servers[edit.key][edit.destination.key] = edit.destination
        elif isinstance(edit, DeleteServer):
            self.gone.append((edit.key, self.servers[edit.key].pop(edit.destination)))

    def steps(self, frames: int, edits: float = 0.01) -> Iterator[Step]:
        """Yield this many frames, with edits between them at this probability."""
        for _ in range(frames):
            if self.chance.random() < edits:
                edit = self._edit()
                if edit is not None:
                    self._note(edit)
                    yield edit
            yield self._frame()

    # --- edits ---

    def _edit(self) -> Edit | SetStandby | None:
        chance = self.chance
        if self.roles and chance.random() < 0.2:
            return SetStandby(chance.choice(ROLES))
        kind = chance.choice(("server", "server", "server", "delete", "delete", "add", "service", "set", "unserve"))
        if kind == "set":
            name = chance.choice(tuple(SETTINGS))
            return Set(name, chance.choice(SETTINGS[name]))
        if kind == "add" and self.gone:
            key, given = chance.choice(self.gone)
            if key not in self.services:
                flags, timeout_s = (ServiceFlag(0), 0) if key.port else (ServiceFlag.PERSISTENT, PERSISTENCE_S)
                return AddService(VirtualService(key, chance.choice(PREDICTABLE), flags, timeout_s))
            if given.key in self.servers[key]:
                return None
            return AddServer(key, self._changed(key, given))
        if not self.services:
            return None
        key = chance.choice(tuple(self.services))
        if kind == "service":
            flags = self.services[key].flags
            if key.port and chance.random() < 0.3:
                flags ^= ServiceFlag.ONE_PACKET
            return EditService(replace(self.services[key], scheduler=chance.choice(PREDICTABLE), flags=flags))
        if kind == "unserve":
            return DeleteService(key) if chance.random() < 0.2 else None
        if not self.servers[key]:
            return None
        given = chance.choice(tuple(self.servers[key].values()))
        if kind == "delete":
            return DeleteServer(key, given.key)
        return EditServer(key, self._changed(key, given))

    def _changed(self, key: ServiceKey, given: Destination) -> Destination:
        """Return a valid edit with another weight, perhaps another method or thresholds."""
        chance = self.chance
        method = given.method
        if chance.random() < 0.2 and given.key.address.version == key.address.version and given.key.port == key.port:
            method = chance.choice(METHODS)
        upper, lower = given.upper, given.lower
        if chance.random() < 0.3:
            upper = chance.choice((0, 1, 3, 10))
            lower = chance.randint(0, upper) if chance.random() < 0.5 else 0
        tunnel = given.tunnel if method == Method.TUNNEL else Tunnel()  # as ipvsadm gives it
        weight = chance.choice(WEIGHTS)
        return replace(given, weight=weight, method=method, upper=upper, lower=lower, tunnel=tunnel)

    # --- frames ---

    def _frame(self) -> bytes:
        kind = self.chance.random()
        if kind < 0.2 or not self.flows:
            return self._request(self._new_flow())
        if kind < 0.7:
            return self._request(self.chance.choice(self.flows))
        if kind < 0.85:
            return self._answer()
        if kind < 0.9:
            return self._elsewhere()
        return self._broken(self._request(self.chance.choice(self.flows)))

    def _client(self, six: bool) -> bytes:
        chance = self.chance
        if chance.random() < 0.05:
            return ip_address((server6 if six else server4)(chance.randint(1, SERVERS))).packed
        if six:
            return bytes.fromhex("20010db8") + bytes(10) + bytes((chance.randrange(3), chance.randrange(40)))
        return bytes((198, 18, chance.randrange(3), chance.randrange(1, 40)))

    def _new_flow(self) -> Flow:
        chance = self.chance
        keys = tuple(self.services)
        if keys and chance.random() < 0.97:
            key = chance.choice(keys)
            protocol, target, port = int(key.protocol), key.address.packed, key.port
            if not port or chance.random() < 0.02:
                port = chance.choice((80, 81, 20, 21, 2000, 50000))
        else:
            protocol = chance.choice((TCP, UDP, SCTP))
            target, port = VIPS[chance.choice((4, 6))], chance.choice((80, 53, 9999))
        source = chance.choice((20, 80, 0, 65535)) if chance.random() < 0.01 else chance.randrange(1024, 1500)
        if port == IKE and chance.random() < 0.8:
            source = IKE
        flow = Flow(protocol, self._client(len(target) == 16), source, target, port)
        if len(self.flows) < FLOWS:
            self.flows.append(flow)
        else:
            self.flows[chance.randrange(FLOWS)] = flow
        return flow

    def _payload(self) -> bytes:
        sizes = LONG_PAYLOADS if self.chance.random() < 0.04 else PAYLOADS
        size = self.chance.choice(sizes)
        return self.chance.randbytes(size) if size < 64 else bytes(range(256)) * (size // 256) + bytes(size % 256)

    def _flags(self, first: bool = False) -> int:
        chance = self.chance
        if first and chance.random() < 0.8:
            return SYN
        return chance.choice(RARE_FLAGS if chance.random() < 0.06 else USUAL_FLAGS)

    def _segment(self, protocol: int, source: bytes, sport: int, target: bytes, dport: int, first: bool) -> bytes:
        chance, data = self.chance, self._payload()
        if protocol == TCP:
            segment = tcp(source, target, sport, dport, self._flags(first), data, chance)
        elif protocol == SCTP:
            segment = sctp(sport, dport, first, data, chance)
        else:
            segment = udp(source, target, sport, dport, data, chance)
        return framed(
            ip_packet(source, target, protocol, segment, chance, self.options),
            bytes(6) if chance.random() < 0.05 else b"",
        )

    def _request(self, flow: Flow) -> bytes:
        first = self.chance.random() < 0.4
        if flow.port == IKE and self.chance.random() < 0.5:
            return self._ipsec(flow.client, flow.target)
        return self._segment(flow.protocol, flow.client, flow.port, flow.target, flow.target_port, first)

    def _ipsec(self, source: bytes, target: bytes) -> bytes:
        chance = self.chance
        protocol = chance.choice((ESP, AH))
        payload = (b"\x11\4\0\0" if protocol == AH else b"") + chance.randbytes(chance.choice((0, 8, 20, 60)))
        return framed(ip_packet(source, target, protocol, payload, chance, self.options))

    def _answer(self) -> bytes:
        """Return a packet from a possible real server behind NAT to a client that may have a connection."""
        flow = self.chance.choice(self.flows)
        version = 4 if len(flow.target) == 4 else 6
        known = [
            given.key
            for key, servers in self.servers.items()
            for given in servers.values()
            if given.method == Method.MASQ and key.protocol == flow.protocol and key.address.version == version
        ]
        if known and self.chance.random() < 0.9:
            key = self.chance.choice(known)
            server, port = key.address.packed, key.port or flow.target_port
        else:
            number = self.chance.randint(1, SERVERS)
            server = ip_address(server4(number) if version == 4 else server6(number)).packed
            port = self.chance.choice(SERVER_PORTS)
        if flow.port == IKE and self.chance.random() < 0.5:
            return self._ipsec(server, flow.client)
        return self._segment(flow.protocol, server, port, flow.client, flow.port, False)

    def _elsewhere(self) -> bytes:
        """Return a packet that the director must pass."""
        chance = self.chance
        six = chance.random() < 0.5
        kind = chance.randrange(5)
        source = self._client(six)
        target = VIPS[6 if six else 4]
        if kind == 0:
            target = OWN[6 if six else 4]
        elif kind == 1:
            target = self._client(six)
        if kind == 4:  # ICMP that quotes nothing, with a whole header or not
            protocol, rest = ICMP6 if six else ICMP, chance.randbytes(chance.randrange(16))
            return framed(ip_packet(source, target, protocol, rest, chance, self.options))
        frame = self._segment(chance.choice((TCP, UDP)), source, 1024, target, chance.choice((80, 9999)), True)
        if kind == 2:
            return bytes.fromhex("0200000000aa") + frame[6:]
        if kind == 3:
            return frame[:12] + chance.choice((b"\x08\x06", b"\x86\xdd", b"\x08\x00", b"\x81\x00")) + frame[14:]
        return frame

    def _broken(self, frame: bytes) -> bytes:
        chance = self.chance
        kind = chance.randrange(6)
        if kind == 0:
            return frame[: chance.randrange(15, len(frame) + 1)]
        if kind == 1:
            return frame[:14] + chance.randbytes(chance.randrange(1, 80))
        if kind == 2:  # one bit of the headers
            at = chance.randrange(14, min(len(frame), 14 + 60))
            return frame[:at] + bytes((frame[at] ^ 1 << chance.randrange(8),)) + frame[at + 1 :]
        if kind == 3:  # a packet cut short, with lengths and checksum that say so
            return _shortened(frame, chance)
        if kind == 4:
            at = chance.randrange(14, len(frame))
            return frame[:at] + chance.randbytes(len(frame) - at)
        return frame + chance.randbytes(chance.randrange(1, 40))


def _shortened(frame: bytes, chance: random.Random) -> bytes:
    ip = frame[14:]
    if ip[0] >> 4 == 4:
        size = (ip[0] & 15) * 4
        length = min(len(ip), size + chance.randrange(0, 24))
        head = ip[:2] + length.to_bytes(2, "big") + ip[4:10] + b"\0\0" + ip[12:size]
        return frame[:14] + head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + ip[size:length]
    length = min(len(ip) - 40, chance.randrange(0, 24))
    return frame[:14] + ip[:4] + length.to_bytes(2, "big") + ip[6 : 40 + length]

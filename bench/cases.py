"""Which packets are measured: the services they belong to, the connections made before, the cases themselves."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from bench import site
from bench.frames import ACK, IN_ORDER, SCATTERED, SYN, Flows, Frame, Question
from bench.harness import (
    FLOWS,
    FLOWS6,
    REPLIES,
    REPLIES6,
    SAME,
    SAME6,
    SAME6_TC,
    SAME_TC,
    SHRINK,
    SHRINK_FLOWS,
    TC,
    TC_REDIRECT,
    TC_SHOT,
    XDP,
    XDP_DROP,
    XDP_REDIRECT,
    XDP_TX,
    Wrapper,
)
from pylvs.model.dataclass import dataclass
from pylvs.model.director import Director
from pylvs.model.service import Destination, DestinationKey, Method, Protocol, ServiceFlag, ServiceKey, VirtualService

CLIENT, CLIENT6 = "198.18.0.7", "fd67::7"
FAR, FAR6 = "198.19.0.9", "fd68::9"  # other hosts, for whose packets this one is a router
MANY_CLIENTS = "10.128.0.0"  # the first client of the random flows,
THREAD_CLIENTS = "10.144.0.0"  # of those across services,
NEW_CLIENTS, STICKY_CLIENTS, LIMITED_CLIENTS = "10.160.0.0", "10.162.0.0", "10.164.0.0"  # of the new ones,
LOGGED_CLIENTS = "10.168.0.0"  # of those that are logged,
TUN_CLIENTS = "10.176.0.0"  # of tunnels,
NAT_CLIENTS = "10.192.0.0"  # of NAT, with one flow each,
MANY_CLIENTS6, NEW_CLIENTS6, NAT_CLIENTS6 = "fd67::a80:0", "fd67::aa0:0", "fd67::ac0:0"  # and of IPv6
NEW_WALK = 1 << 22  # new flows before one comes twice
CLIENT_PORT = 40000
DR, TUN, NAT, MANY, UDP, SIX, STICKY, LIMITED, THREADS = 80, 81, 82, 83, 84, 85, 86, 87, 9000  # ports of the services
MANY_TUN, MANY_NAT, MANY_SIX, NAT_SIX = 88, 89, 90, 91  # and of those of budgets
DENIED, DENIED_CLIENT, DENIED_CLIENTS = 92, "10.184.0.7", "10.184.0.0/16"  # a service that denies these clients
DENIED_FIRST, DENIED_NUMBER = "10.184.0.0", 65536  # the first of its denied clients, and how many there are
NAT_NUMBERS = (1, 64, 4096, 65536)  # of clients; powers of two
NAT_PORT = 8080  # of the real server
SERVICES, FLOWS_EACH = 16, 64  # across services
_PERSISTENT_S = 3600
_NO_LIMIT = 1_000_000_000  # connections at which a server counts as full
_DENIED = "REASON_CLIENT_DENIED"
_SENT = (XDP_TX, XDP_REDIRECT)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int = 9
    repeat: int = 1_000_000
    flows: int = 1 << 20  # a power of two
    new: int = 100_000  # connections in a round of each case; fewer would find the table's pages in no cache
    new_every: int = 3  # rounds
    budgets: bool = True  # measure their rows too, which need a table twice as large
    katran_flows: int = 4_000_000  # capacity of Katran's table for a CPU

    @property
    def part(self) -> int:
        """Return the number of flows of `part_dr`."""
        return min(65536, self.flows // 2)

    @property
    def capacity(self) -> int:
        """Return a capacity that is not nearly exhausted, because half-open connections would end then."""
        established = 3 * self.flows + 2 * NAT_NUMBERS[-1] if self.budgets else self.flows
        made = established + len(new_cases(self)) * self.new * (self.rounds // self.new_every + 1)
        return made + made // 4 + 32768  # an eighth is NAT's alone


QUICK = Size(rounds=3, repeat=20_000, flows=1 << 14, new=2_000, katran_flows=1 << 16)


def key(port: int, protocol: Protocol = Protocol.TCP) -> ServiceKey:
    """Return the key of the service at this port."""
    return ServiceKey(protocol, ip_address(_vip(port)), port)


def _vip(port: int) -> str:
    """Return the address of the service at this port."""
    return site.VIP6 if port in (SIX, MANY_SIX, NAT_SIX) else site.VIP


@dataclass(frozen=True, slots=True)
class Served:
    """A service with equal servers."""

    service: VirtualService
    method: Method = Method.ROUTE
    servers: int = 1
    limit: int = 0

    def destinations(self) -> list[Destination]:
        """Return one destination for each server."""
        port = NAT_PORT if self.method == Method.MASQ else self.service.key.port
        six = self.service.key.address.version == 6
        address_of = site.server6 if six else site.server
        addresses = [address_of(number) for number in range(1, self.servers + 1)]
        return [
            Destination(DestinationKey(ip_address(each), port), self.method, upper=self.limit, lower=self.limit // 2)
            for each in addresses
        ]

    def add_to(self, director: Director) -> None:
        """Add the service and its destinations."""
        director.add_service(self.service)
        for destination in self.destinations():
            director.add_destination(self.service.key, destination)


def services(size: Size) -> list[Served]:
    """Return all services; those of IPv6 only if the kernel has IPv6."""
    sticky = VirtualService(key(STICKY), "rr", ServiceFlag.PERSISTENT, _PERSISTENT_S)
    found = [
        Served(VirtualService(key(DR), "rr")),
        Served(VirtualService(key(TUN), "rr"), Method.TUNNEL),
        Served(VirtualService(key(NAT), "rr"), Method.MASQ),
        Served(VirtualService(key(MANY), "rr"), servers=site.SERVERS),
        Served(VirtualService(key(UDP, Protocol.UDP), "rr")),
        Served(sticky, servers=site.SERVERS),
        Served(VirtualService(key(LIMITED), "rr"), servers=site.SERVERS, limit=_NO_LIMIT),
        Served(VirtualService(key(DENIED), "rr")),
        *(Served(VirtualService(key(THREADS + number), "rr")) for number in range(SERVICES)),
    ]
    if size.budgets:
        found.append(Served(VirtualService(key(MANY_TUN), "rr"), Method.TUNNEL, servers=site.SERVERS))
        found.append(Served(VirtualService(key(MANY_NAT), "rr"), Method.MASQ))
    if site.has_ipv6():
        found.append(Served(VirtualService(key(SIX), "rr")))
        if size.budgets:
            found.append(Served(VirtualService(key(MANY_SIX), "rr"), servers=site.SERVERS))
            found.append(Served(VirtualService(key(NAT_SIX), "rr"), Method.MASQ))
    return found


def request(port: int, flags: int = ACK, source: str = CLIENT) -> Frame:
    """Return a client's packet to a service of TCP. The client has a port for each service."""
    return Frame(source, _vip(port), CLIENT_PORT + port, port, flags)


def _udp() -> Frame:
    return Frame(CLIENT, site.VIP, CLIENT_PORT, UDP, protocol=Protocol.UDP)


def plain(version: int) -> Frame:
    """Return some frame of this version of IP."""
    return request(DR) if version == 4 else request(SIX, source=CLIENT6)


# What no frame of the bench matches, as an operator would write it.
FILTER = "tcp port 80 and host 192.0.2.77"


def unserved() -> Frame:
    """Return a packet of no service."""
    return Frame(CLIENT, site.OWN, CLIENT_PORT, 22)


@dataclass(frozen=True, slots=True)
class Opening:
    """Packets that make the connections of a case: these frames, one after the other, of each flow."""

    frames: tuple[Frame, ...]
    wrapper: Wrapper = SAME
    flows: Flows | None = None

    @property
    def services(self) -> list[ServiceKey]:
        """Return the keys of the services whose connections it makes."""
        first, number = self.frames[0], self.flows.services if self.flows else 1
        return [key(first.target_port + each, first.protocol) for each in range(number)]


def _handshake(port: int, source: str = CLIENT) -> tuple[Frame, ...]:
    return request(port, SYN, source), request(port, ACK, source)


def openings(size: Size) -> list[Opening]:
    """Return the packets that make all connections: a SYN and one or two ACKs of each TCP connection."""
    many = Flows(size.flows, 0, IN_ORDER)
    across = Flows(SERVICES * FLOWS_EACH, 0, IN_ORDER, SERVICES)
    found = [Opening((*_handshake(port), request(port)), SHRINK) for port in (DR, TUN, NAT, STICKY)]
    found.append(Opening((_udp(), _udp())))
    found.append(Opening(_handshake(MANY, MANY_CLIENTS), FLOWS, many))
    found.append(Opening(_handshake(THREADS, THREAD_CLIENTS), FLOWS, across))
    if site.has_ipv6():
        found.append(Opening(_handshake(SIX, CLIENT6), SAME6))
    if size.budgets:
        found += _budget_openings(many)
    return found


def _budget_openings(many: Flows) -> list[Opening]:
    each_client = Flows(NAT_NUMBERS[-1], 0, IN_ORDER, port_bits=0)
    found = [Opening(_handshake(MANY_TUN, TUN_CLIENTS), SHRINK_FLOWS, many)]
    found.append(Opening(_handshake(MANY_NAT, NAT_CLIENTS), FLOWS, each_client))
    if site.has_ipv6():
        found.append(Opening(_handshake(MANY_SIX, MANY_CLIENTS6), FLOWS6, many))
        found.append(Opening(_handshake(NAT_SIX, NAT_CLIENTS6), FLOWS6, each_client))
    return found


@dataclass(frozen=True, slots=True)
class Case:
    """One row: the harness's program, the frame, and what shows that its packets took the right path."""

    name: str
    frame: Frame
    services: tuple[ServiceKey, ...] = ()  # which count its packets
    wrapper: Wrapper = SAME
    verdicts: tuple[int, ...] = _SENT
    replies: bool = False
    flows: Flows | None = None
    traced: bool = False  # while `pylvs trace` runs, with a filter that the packet does not match
    reason: str = ""  # of `enum reason`, which counts its packets


def _foreign() -> list[Case]:
    """Return cases of packets that belong to no service: for this host, for other hosts, and ARP."""
    frames = {
        "routed": (Frame(CLIENT, FAR, CLIENT_PORT, 443), SAME, SAME_TC),
        "udp": (Frame(CLIENT, site.OWN, CLIENT_PORT, 53, protocol=Protocol.UDP), SAME, SAME_TC),
        "arp": (Question(site.ROUTER, site.OWN, 0, 0), SAME, SAME_TC),
    }
    if site.has_ipv6():
        frames["six"] = (Frame(CLIENT6, site.OWN6, CLIENT_PORT, 22), SAME6, SAME6_TC)
        frames["six_routed"] = (Frame(CLIENT6, FAR6, CLIENT_PORT, 443), SAME6, SAME6_TC)
    found = []
    for name, (frame, at_xdp, at_tc) in frames.items():
        found.append(Case(f"foreign_{name}", frame, (), at_xdp, (XDP.passes,)))
        found.append(Case(f"tc_foreign_{name}", frame, (), at_tc, (TC.passes,)))
    return found


def cases(size: Size) -> list[Case]:
    """Return the cases whose packets make no connection."""
    reply = Frame(site.server(1), CLIENT, NAT_PORT, CLIENT_PORT + NAT, ACK, site.server_mac(1))
    threads = tuple(key(THREADS + number) for number in range(SERVICES))
    denied = Flows(DENIED_NUMBER, 0, SCATTERED, port_bits=0)
    across = Flows(SERVICES * FLOWS_EACH, 0, SCATTERED, SERVICES)
    found = [
        Case("no_service", unserved(), verdicts=(XDP.passes,)),
        Case("one_dr", request(DR), (key(DR),)),
        Case("denied", request(DENIED, SYN, DENIED_CLIENT), (), SAME, (XDP_DROP,), reason=_DENIED),
        Case("denied_many", request(DENIED, SYN, DENIED_FIRST), (), FLOWS, (XDP_DROP,), flows=denied, reason=_DENIED),
        Case("no_service_traced", unserved(), verdicts=(XDP.passes,), traced=True),
        Case("one_dr_traced", request(DR), (key(DR),), traced=True),
        Case("one_tun", request(TUN), (key(TUN),), SHRINK),
        Case("nat_forth", request(NAT), (key(NAT),)),
        Case("nat_back", reply, (key(NAT),), replies=True),
        Case("one_udp", _udp(), (key(UDP, Protocol.UDP),)),
        Case("one_persistent", request(STICKY), (key(STICKY),)),
        Case("across", request(THREADS, source=THREAD_CLIENTS), threads, FLOWS, flows=across),
        Case("tc_no_service", unserved(), (), SAME_TC, (TC.passes,)),
        Case("tc_denied", request(DENIED, SYN, DENIED_CLIENT), (), SAME_TC, (TC_SHOT,), reason=_DENIED),
        Case("tc_one_dr", request(DR), (key(DR),), SAME_TC, (TC_REDIRECT,)),
        Case("tc_one_dr_traced", request(DR), (key(DR),), SAME_TC, (TC_REDIRECT,), traced=True),
        Case("tc_nat_forth", request(NAT), (key(NAT),), SAME_TC, (TC_REDIRECT,)),
        Case("tc_nat_back", reply, (key(NAT),), SAME_TC, (TC_REDIRECT,), replies=True),
    ]
    for name, number in (("few_dr", 64), ("some_dr", 1024), ("part_dr", size.part), ("many_dr", size.flows)):
        flows = Flows(number, 0, SCATTERED)
        found.append(Case(name, request(MANY, source=MANY_CLIENTS), (key(MANY),), FLOWS, flows=flows))
    if site.has_ipv6():
        found.append(Case("one_six", request(SIX, source=CLIENT6), (key(SIX),), SAME6))
    return found + _foreign() + (_budget_cases(size) if size.budgets else [])


def _budget_cases(size: Size) -> list[Case]:
    """Return the further cases that budgets compare: random flows of tunnels and of IPv6, and NAT by clients."""
    many = Flows(size.flows, 0, SCATTERED)
    found = [
        Case("many_tun", request(MANY_TUN, source=TUN_CLIENTS), (key(MANY_TUN),), SHRINK_FLOWS, flows=many),
    ]
    if site.has_ipv6():
        frame = request(MANY_SIX, source=MANY_CLIENTS6)
        found.append(Case("many_six", frame, (key(MANY_SIX),), FLOWS6, flows=many))
    found += _nat_cases("nat", MANY_NAT, NAT_CLIENTS, site.server(1), (FLOWS, REPLIES))
    if site.has_ipv6():
        found += _nat_cases("nat6", NAT_SIX, NAT_CLIENTS6, site.server6(1), (FLOWS6, REPLIES6))
    return found


def _nat_cases(name: str, port: int, clients: str, server: str, wrappers: tuple[Wrapper, Wrapper]) -> Iterator[Case]:
    """Yield both directions of NAT, for each number of clients."""
    served = (key(port),)
    reply = Frame(server, clients, NAT_PORT, CLIENT_PORT, ACK, site.server_mac(1))
    for number in NAT_NUMBERS:
        forth = Flows(number, 0, SCATTERED, port_bits=0)
        back = forth._replace(replies=True)
        yield Case(f"{name}_forth_{number}", request(port, source=clients), served, wrappers[0], flows=forth)
        yield Case(f"{name}_back_{number}", reply, served, wrappers[1], replies=True, flows=back)


@dataclass(frozen=True, slots=True)
class NewCase:
    """One row of packets that each make a connection."""

    name: str
    port: int
    clients: str
    wrapper: Wrapper = FLOWS
    logged: bool = False  # while the connection log is on


def new_cases(size: Size) -> list[NewCase]:
    """Return the cases whose packets each make a connection."""
    found = [
        NewCase("new_dr", MANY, NEW_CLIENTS),
        NewCase("new_persistent", STICKY, STICKY_CLIENTS),
        NewCase("new_limited", LIMITED, LIMITED_CLIENTS),
        NewCase("new_logged", MANY, LOGGED_CLIENTS, logged=True),
    ]
    if size.budgets:
        found.append(NewCase("new_tun", MANY_TUN, NEW_CLIENTS, SHRINK_FLOWS))
    if size.budgets and site.has_ipv6():
        found.append(NewCase("new_six", MANY_SIX, NEW_CLIENTS6, FLOWS6))
    return found

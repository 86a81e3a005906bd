"""Which packets are measured: the services they belong to, the connections made before, the cases themselves."""

from __future__ import annotations

from ipaddress import ip_address

from bench import site
from bench.frames import ACK, IN_ORDER, SCATTERED, SYN, Flows, Frame, Question
from bench.harness import (
    FLOWS,
    SAME,
    SAME6,
    SAME6_TC,
    SAME_TC,
    SHRINK,
    TC,
    TC_REDIRECT,
    XDP,
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
NEW_CLIENTS, STICKY_CLIENTS, LIMITED_CLIENTS = "10.160.0.0", "10.162.0.0", "10.164.0.0"  # and of the new ones
NEW_WALK = 1 << 22  # new flows before one comes twice
CLIENT_PORT = 40000
DR, TUN, NAT, MANY, UDP, SIX, STICKY, LIMITED, THREADS = 80, 81, 82, 83, 84, 85, 86, 87, 9000  # ports of the services
NAT_PORT = 8080  # of the real server
SERVICES, FLOWS_EACH = 16, 64  # across services
_PERSISTENT_S = 3600
_NO_LIMIT = 1_000_000_000  # connections at which a server counts as full
_SENT = (XDP_TX, XDP_REDIRECT)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    rounds: int = 9
    repeat: int = 1_000_000
    flows: int = 1 << 20  # a power of two
    new: int = 30_000  # connections in a round of each case

    @property
    def part(self) -> int:
        """Return the number of flows of `part_dr`."""
        return min(65536, self.flows // 2)

    @property
    def capacity(self) -> int:
        """Return a capacity of the connection table that the bench fills by half: half-open connections stay."""
        return 2 * (self.flows + len(NEW_CASES) * self.new * (self.rounds + 1) + 32768)


QUICK = Size(rounds=3, repeat=20_000, flows=1 << 14, new=2_000)


def key(port: int, protocol: Protocol = Protocol.TCP) -> ServiceKey:
    """Return the key of the service at this port."""
    return ServiceKey(protocol, ip_address(site.VIP6 if port == SIX else site.VIP), port)


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
        addresses = [site.SERVER6] if six else [site.server(number) for number in range(1, self.servers + 1)]
        return [
            Destination(DestinationKey(ip_address(each), port), self.method, upper=self.limit, lower=self.limit // 2)
            for each in addresses
        ]

    def add_to(self, director: Director) -> None:
        """Add the service and its destinations."""
        director.add_service(self.service)
        for destination in self.destinations():
            director.add_destination(self.service.key, destination)


def services() -> list[Served]:
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
        *(Served(VirtualService(key(THREADS + number), "rr")) for number in range(SERVICES)),
    ]
    if site.has_ipv6():
        found.append(Served(VirtualService(key(SIX), "rr")))
    return found


def request(port: int, flags: int = ACK, source: str = CLIENT) -> Frame:
    """Return a client's packet to a service of TCP and IPv4."""
    return Frame(source, site.VIP, CLIENT_PORT, port, flags)


def _udp() -> Frame:
    return Frame(CLIENT, site.VIP, CLIENT_PORT, UDP, protocol=Protocol.UDP)


def _six(flags: int) -> Frame:
    return Frame(CLIENT6, site.VIP6, CLIENT_PORT, SIX, flags)


def plain(version: int) -> Frame:
    """Return some frame of this version of IP."""
    return request(DR) if version == 4 else _six(ACK)


@dataclass(frozen=True, slots=True)
class Opening:
    """Packets that make the connections of a case, one of each flow."""

    frame: Frame
    wrapper: Wrapper = SAME
    flows: Flows | None = None


def openings(size: Size) -> list[Opening]:
    """Return the packets that make all connections: a SYN and one or two ACKs of each TCP connection."""
    many = Flows(size.flows, 0, IN_ORDER)
    across = Flows(SERVICES * FLOWS_EACH, 0, IN_ORDER, SERVICES)
    found = [Opening(request(port, flags), SHRINK) for port in (DR, TUN, NAT, STICKY) for flags in (SYN, ACK, ACK)]
    found += [Opening(_udp()), Opening(_udp())]
    found += [Opening(request(MANY, flags, MANY_CLIENTS), FLOWS, many) for flags in (SYN, ACK)]
    found += [Opening(request(THREADS, flags, THREAD_CLIENTS), FLOWS, across) for flags in (SYN, ACK)]
    if site.has_ipv6():
        found += [Opening(_six(flags), SAME6) for flags in (SYN, ACK)]
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
    reply = Frame(site.server(1), CLIENT, NAT_PORT, CLIENT_PORT, ACK, site.server_mac(1))
    other = Frame(CLIENT, site.OWN, CLIENT_PORT, 22)
    threads = tuple(key(THREADS + number) for number in range(SERVICES))
    across = Flows(SERVICES * FLOWS_EACH, 0, SCATTERED, SERVICES)
    found = [
        Case("no_service", other, verdicts=(XDP.passes,)),
        Case("one_dr", request(DR), (key(DR),)),
        Case("one_tun", request(TUN), (key(TUN),), SHRINK),
        Case("nat_forth", request(NAT), (key(NAT),)),
        Case("nat_back", reply, (key(NAT),), replies=True),
        Case("one_udp", _udp(), (key(UDP, Protocol.UDP),)),
        Case("one_persistent", request(STICKY), (key(STICKY),)),
        Case("across", request(THREADS, source=THREAD_CLIENTS), threads, FLOWS, flows=across),
        Case("tc_no_service", other, (), SAME_TC, (TC.passes,)),
        Case("tc_one_dr", request(DR), (key(DR),), SAME_TC, (TC_REDIRECT,)),
        Case("tc_nat_forth", request(NAT), (key(NAT),), SAME_TC, (TC_REDIRECT,)),
        Case("tc_nat_back", reply, (key(NAT),), SAME_TC, (TC_REDIRECT,), replies=True),
    ]
    for name, number in (("few_dr", 64), ("some_dr", 1024), ("part_dr", size.part), ("many_dr", size.flows)):
        flows = Flows(number, 0, SCATTERED)
        found.append(Case(name, request(MANY, source=MANY_CLIENTS), (key(MANY),), FLOWS, flows=flows))
    if site.has_ipv6():
        found.append(Case("one_six", _six(ACK), (key(SIX),), SAME6))
    return found + _foreign()


@dataclass(frozen=True, slots=True)
class NewCase:
    """One row of packets that each make a connection."""

    name: str
    port: int
    clients: str


NEW_CASES = (
    NewCase("new_dr", MANY, NEW_CLIENTS),
    NewCase("new_persistent", STICKY, STICKY_CLIENTS),
    NewCase("new_limited", LIMITED, LIMITED_CLIENTS),
)

"""Draw tables: services, servers, methods, schedulers, flags, settings."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import strategies as st

from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    Tunnel,
    TunnelFlag,
    TunnelKind,
    VirtualService,
)
from tests.packet.fuzz.steps import AddServer, AddService, Edit, Set, SetTimeouts
from tests.packet.host import PREDICTABLE, SERVERS, VIP4, VIP6, server4, server6

PORTS = (80, 443, 53, 21, 8080, 500)
SERVER_PORTS = (80, 8080, 500, 0)
WEIGHTS = (0, 1, 1, 1, 2, 3, 4, 10, 100)
GUE_PORT = 6080
TUNNELS = (
    Tunnel(),
    Tunnel(),
    Tunnel(TunnelKind.GRE),
    Tunnel(TunnelKind.GRE, 0, TunnelFlag.CSUM),
    Tunnel(TunnelKind.GUE, GUE_PORT),
    Tunnel(TunnelKind.GUE, GUE_PORT, TunnelFlag.CSUM),
)
METHODS = (Method.ROUTE, Method.MASQ, Method.TUNNEL)
MASKS4 = (0xFFFFFFFF, 0xFFFFFF00, 0xFFFFFFFC)
MASKS6 = (128, 120, 64, 126, 33)
PERSISTENCE_S = 300
SETTINGS = {
    "conn_reuse_mode": (0, 1, 1, 2, 3),
    "expire_nodest_conn": (0, 0, 1),
    "expire_quiescent_template": (0, 0, 1),
    "pmtu_disc": (1, 1, 0),
    "secure_tcp": (0, 0, 3),
    "sloppy_sctp": (0, 0, 1),
    "sloppy_tcp": (0, 0, 1),
}


@st.composite
def destinations(draw: st.DrawFn, key: ServiceKey) -> Destination:
    """Draw a server of a service; one of the other family needs a tunnel."""
    method = draw(st.sampled_from(METHODS))
    version: int = key.address.version
    if method == Method.TUNNEL and draw(st.integers(0, 3)) == 0:
        version = 10 - version
    number = draw(st.integers(1, SERVERS))
    address = ip_address(server4(number) if version == 4 else server6(number))
    port = draw(st.sampled_from(SERVER_PORTS)) if method == Method.MASQ else key.port
    upper = draw(st.sampled_from((0, 0, 0, 0, 1, 2, 5, 20)))
    lower = draw(st.integers(0, upper)) if upper and draw(st.booleans()) else 0
    weight = draw(st.sampled_from(WEIGHTS))
    tunnel = draw(st.sampled_from(TUNNELS)) if method == Method.TUNNEL else Tunnel()
    return Destination(DestinationKey(address, port), method, weight, upper, lower, tunnel)


@st.composite
def services(draw: st.DrawFn) -> list[Edit]:
    """Draw a service and its servers."""
    six = draw(st.booleans())
    protocol = draw(st.sampled_from((Protocol.TCP, Protocol.TCP, Protocol.UDP, Protocol.SCTP)))
    flags = ServiceFlag(0)
    for flag in ServiceFlag.SCHED_1, ServiceFlag.SCHED_2:
        if draw(st.booleans()):
            flags |= flag
    persistent = draw(st.integers(0, 2)) == 0
    if persistent:
        flags |= ServiceFlag.PERSISTENT
    if draw(st.integers(0, 5)) == 0:
        flags |= ServiceFlag.ONE_PACKET
    port = draw(st.sampled_from(PORTS))
    if persistent and draw(st.integers(0, 3)) == 0:
        port = 0
    key = ServiceKey(protocol, ip_address(VIP6 if six else VIP4), port)
    service = VirtualService(
        key,
        draw(st.sampled_from(PREDICTABLE)),
        flags,
        PERSISTENCE_S if persistent else 0,
        draw(st.sampled_from(MASKS6 if six else MASKS4)) if persistent else -1,
    )
    edits: list[Edit] = [AddService(service)]
    drawn = draw(st.lists(destinations(key), max_size=6, unique_by=lambda given: given.key))
    return [*edits, *(AddServer(key, given) for given in drawn)]


@st.composite
def sites(draw: st.DrawFn) -> list[Edit]:
    """Draw settings, and some services with different keys."""
    edits: list[Edit] = [Set(name, draw(st.sampled_from(values))) for name, values in SETTINGS.items()]
    if draw(st.booleans()):
        # seconds, so many that nothing ends within an example
        edits.append(SetTimeouts(Timeouts(*(draw(st.integers(60, 3000)) for _ in range(3)))))
    seen: set[ServiceKey] = set()
    for drawn in draw(st.lists(services(), min_size=1, max_size=4)):
        first = drawn[0]
        if isinstance(first, AddService) and first.service.key not in seen:
            seen.add(first.service.key)
            edits += drawn
    return edits

"""The lab of a failover: a client, two directors that share the VIP, and a real server."""

from __future__ import annotations

from collections.abc import Mapping

from bench.failover.routing import director_conf, router_conf
from pylvs.lab.network import CLIENT, DIRECTOR, SERVER, Host, Interface, Network, Switch
from pylvs.lab.routing import BIRD, CONFIGURATIONS
from pylvs.model.dataclass import dataclass, replace

PYLVS, KEEPALIVED = "pylvs", "keepalived"
DR, NAT = "DR", "NAT"
VRRP, BFD, BGP = "VRRP, 10 ms", "BFD, 10 ms", "BGP with BFD, 10 ms"
DIRECTORS = "director1", "director2"  # the master, and its backup
CONFIGURATION, SERVICES = "/etc/keepalived/keepalived.conf", "/etc/keepalived/services.conf"
VIP, PORT = "10.66.0.100", 7000
CLIENTS = tuple(f"10.66.0.{number}" for number in range(201, 217))  # one for each trial: no port is used again
KEY = "/etc/keepalived/peer.key"
GATEWAY = "10.66.1.254"  # of the real server, in NAT: it moves with the VIP
SERVER_ADDRESS = {DR: "10.66.0.21", NAT: "10.66.1.21"}
DIP = {"director1": "10.66.0.11", "director2": "10.66.0.12"}
_SYNCED = "global_defs {\n    lvs_sync_daemon eth0\n}\n"
_MULTIPLIER = 3  # 30 ms without a packet end a session


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured together: the program, how it detects a dead master, the method, and whether it is in sync."""

    program: str
    detection: str
    method: str
    sync: bool = False


def network(setup: Setup) -> Network:
    """Return the lab, with the configurations of both directors; no program of pylvs or keepalived runs yet."""
    nat = setup.method == NAT
    inner = "inside" if nat else "lan"
    links = [Switch("lan", "10.66.0.0/24"), *([Switch("inside", "10.66.1.0/24")] if nat else ())]
    address = SERVER_ADDRESS[setup.method]
    server = Host(
        "server",
        SERVER,
        (Interface(inner, "eth0", "02:66:00:01:01:00", (f"{address}/24",)),),
        gateway=GATEWAY if nat else "",
        commands=() if nat else (f"pylvs realserver up {VIP}",),
    )
    addresses = tuple(f"{each}/24" for each in CLIENTS)
    client = Host("client", CLIENT, (Interface("lan", "eth0", "02:66:00:00:0c:00", addresses),))
    if setup.detection == BGP:
        files = {CONFIGURATIONS[BIRD]: router_conf(CLIENTS[0], DIP)}
        client = replace(client, files=files, commands=("service bird start",))
    return Network(
        topology="failover",
        title="failover",
        path="client → the master → real server",
        method="-m" if nat else "-g",
        version=4,
        vip=VIP,
        vip_prefix=32,
        port=80,  # of the web server that each real server of a lab has
        scheduler="rr",
        links=tuple(links),
        hosts=(client, *(_director(setup, name) for name in DIRECTORS), server),
        entry=VIP,
    )


def _director(setup: Setup, name: str) -> Host:
    number = DIRECTORS.index(name)
    cards = [Interface("lan", "eth0", f"02:66:00:00:0d:0{number}", (f"{DIP[name]}/24",))]
    if setup.method == NAT:
        cards.append(Interface("inside", "eth1", f"02:66:00:01:0d:0{number}", (f"10.66.1.1{number + 1}/24",)))
    if setup.detection == BGP:
        routing = {
            CONFIGURATIONS[BIRD]: director_conf(DIP[name], CLIENTS[0]),
            CONFIGURATION: (_SYNCED if setup.sync else "") + virtual_server(setup.method, words="    announce\n"),
        }
        return Host(name, DIRECTOR, tuple(cards), files=routing, commands=("service bird start",))
    routers, services = virtual_routers(setup, name), virtual_server(setup.method)
    files = (
        {CONFIGURATION: routers + services} if setup.program == PYLVS else {CONFIGURATION: routers, SERVICES: services}
    )
    return Host(name, DIRECTOR, tuple(cards), forwarding=setup.method == NAT, files=files, shared_vip_device="eth0")


def pair_of_methods(setup: Setup, ports: Mapping[str, int]) -> Network:
    """Return the lab of NAT with a real server of DR, `direct`, beside it. The directors copy connections, too."""
    made = network(setup)
    hosts = []
    for host in made.hosts:
        if host.name in DIRECTORS:
            other = DIP[next(each for each in DIRECTORS if each != host.name)]
            peer = f"    peer_director {other}\n    peer_key_file {KEY}\n"
            services = "".join(virtual_server(method, port) for method, port in ports.items())
            host = replace(host, files={CONFIGURATION: virtual_routers(setup, host.name, peer) + services})
        hosts.append(host)
    card = Interface("lan", "eth0", "02:66:00:01:02:00", (f"{SERVER_ADDRESS[DR]}/24",))
    direct = Host("direct", SERVER, (card,), commands=(f"pylvs realserver up {VIP}",))
    return replace(made, hosts=(*hosts, direct))


def virtual_server(method: str, port: int = PORT, words: str = "") -> str:
    """Return the service, whose server is not checked: its health is not what is measured."""
    return f"""\
virtual_server {VIP} {port} {{
{words}    lvs_sched rr
    lvs_method {method}
    protocol TCP
    real_server {SERVER_ADDRESS[method]} {port} {{
    }}
}}
"""


def virtual_routers(setup: Setup, name: str, more: str = "") -> str:
    """Return the virtual router of a director, with more words of `global_defs`.

    With BFD the backup has priority 255, so that it waits for nothing, and a fault while its session with the master is
    up. So it takes over as soon as the session ends.
    """
    first, by_bfd = name == DIRECTORS[0], setup.detection == BFD
    waits = by_bfd and not first
    other = DIP[DIRECTORS[1 if first else 0]]
    synced = setup.sync and setup.program == PYLVS
    head = "global_defs {\n    router_id " + name + "\n" + more
    head += "    lvs_sync_daemon eth0 VI_1\n}\n" if synced else "}\n"
    if by_bfd:
        head += (
            f"bfd_instance other {{\n    neighbor_ip {other}\n    source_ip {DIP[name]}\n"
            f"    min_rx 10\n    min_tx 10\n    multiplier {_MULTIPLIER}\n}}\n"
        )
    addresses = [f"{VIP}/32 dev eth0", *([f"{GATEWAY}/24 dev eth1"] if setup.method == NAT else ())]
    words = [
        "interface eth0",
        f"state {'MASTER' if first or waits else 'BACKUP'}",
        "virtual_router_id 51",
        f"priority {255 if waits else 100 if first else 90}",
        "version 3",
        "advert_int 0.01",
        "virtual_ipaddress {",
        *(f"    {each}" for each in addresses),
        "}",
    ]
    if waits:
        words += ["track_bfd {", "    other weight 0 reverse", "}"]
    return head + "vrrp_instance VI_1 {\n" + "".join(f"    {word}\n" for word in words) + "}\n"

"""What counts of ICMP errors: the director's own, those of a server on it, about later fragments, after a removal."""

import contextlib
import socket

import frames as fr
from families.common import Steps, payload, service
from frames import Facts
from plan import plan
from wire import Wire

PLAN = plan(9)
TUNNELS = ("--tun-type gre", "--tun-type gue --tun-port 6080")


def one_packet(wire: Wire, steps: Steps) -> None:
    """Errors of the director about packets without a connection: -o."""
    for method in "dr", "tun":
        steps.under(f"one packet {method}")
        wire.fresh(plan=PLAN)
        a = wire.addresses()
        service(wire, f"-u {a.at(a.vip(1), 53)}", method, [a.at(a.real(1), 53)], options="-o")
        for n in range(3):
            steps.send(
                f"ttl 1, {n}", wire.udp((a.client(1), 2000 + n), (a.vip(1), 53), b"x", ip={"ttl": 1, "ident": 3})
            )
        steps.send("long", wire.udp((a.client(1), 2009), (a.vip(1), 53), payload(1472), ip={"df": True}))
        steps.statistics("statistics")


def unrouted(wire: Wire, steps: Steps) -> None:
    """Errors for a client without a route."""
    steps.under("no route to the client")
    wire.fresh(plan=PLAN)
    a = wire.addresses()
    service(wire, f"-u {a.at(a.vip(1), 53)}", "dr", [a.at(a.real(1), 53)])
    wire.command("ip", "route", "del", "default")
    steps.send("ttl 1", wire.udp((a.far(1), 2000), (a.vip(1), 53), b"x", ip={"ttl": 1}))
    steps.statistics("statistics")


def own_server(wire: Wire, steps: Steps) -> None:
    """A server on the director: a closed port, a fragmented reply."""
    for method in "dr", "tun":
        steps.under(f"own server {method}")
        wire.fresh(plan=PLAN, ip_forward=1)
        a = wire.addresses()
        service(wire, f"-u {a.at(a.vip(1), 53)}", method, [a.at(a.dip, 53)])
        service(wire, f"-u {a.at(a.vip(1), 54)}", method, [a.at(a.dip, 54)])
        for n in range(2):
            steps.send(f"closed port {n}", wire.udp((a.client(1), 2000 + n), (a.vip(1), 53), b"x"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((a.vip(1), 54))
            server.settimeout(5)
            for n, size in enumerate((10, 3000)):
                wire.emit([wire.udp((a.client(1), 2100 + n), (a.vip(1), 54), b"q")])
                with contextlib.suppress(OSError):
                    _, client = server.recvfrom(100)
                    server.sendto(bytes(size), client)
                    steps.note(f"reply of {size} bytes", frames=len(wire.send()))
        steps.statistics("statistics")


def removed(wire: Wire, steps: Steps) -> None:
    """An error about a reply of a removed server, by each tunnel."""
    for each in TUNNELS:
        steps.under(f"removed {each}")
        wire.fresh(plan=PLAN, ip_forward=1)
        a = wire.addresses()
        spec, real = f"-t {a.at(a.vip(1), 80)}", a.at(a.real(1), 80)
        service(wire, spec, "tun", [real], each=each)
        client, vip = (a.client(1), 1800), (a.vip(1), 80)
        steps.send("syn", wire.tcp(client, vip, "S"))
        segment = fr.tcp(vip[0], client[0], 80, 1800, "PA", data=payload(40), seq=7, ack=8)
        quote = fr.ip(vip[0], client[0], fr.TCP, segment, ident=0x55)
        error = wire.icmp(a.far(200), vip[0], 3, 3, 0, quote, ip={"ident": 0x66})
        steps.send("error", error)
        wire.ipvsadm(f"-d {spec} -r {real}")
        steps.send("error after the removal", error)


def later_fragments(wire: Wire, steps: Steps) -> None:
    """Errors whose quote is a first or a later fragment, from either side."""
    for method in "dr", "nat":
        steps.under(f"fragments quoted {method}")
        wire.fresh(plan=PLAN, ip_forward=1)
        a = wire.addresses()
        client, vip = a.client(1), a.vip(1)
        rip = a.real(1) if method == "nat" else vip
        for kind, port in ("-t", 80), ("-u", 53), ("-u", 500):
            service(wire, f"{kind} {a.at(vip, port)}", method, [a.at(a.real(1), port)])
        steps.send("tcp", wire.tcp((client, 1800), (vip, 80), "S"))
        steps.send("udp", wire.udp((client, 1800), (vip, 53), b"x"))
        steps.send("ike", wire.udp((client, 500), (vip, 500), b"x"))
        for side, src, dst, sent in (
            ("client", vip, client, (a.far(200), vip)),
            ("server", client, rip, (a.real(1), client)),
        ):
            ports = (80, 1800, 53, 1800) if side == "client" else (1800, 80, 1800, 53)
            bodies = {
                "tcp": (fr.TCP, fr.tcp(src, dst, *ports[:2], "PA", data=payload(40))),
                "udp": (fr.UDP, fr.udp(src, dst, *ports[2:], payload(40))),
                "ah": (51, bytes([17, 4, 0, 0]) + bytes(40)),
                "esp": (50, bytes(40)),
            }
            for offset in 0, 80:
                for name, (protocol, body) in bodies.items():
                    quote = fr.ip(src, dst, protocol, body, ident=0x55, offset=offset, mf=True)
                    steps.send(f"{side} {name} {offset}", wire.icmp(*sent, 3, 3, 0, quote, ip={"ident": 0x66}))
        steps.statistics("statistics")


def run(wire: Wire) -> list[Facts]:
    steps = Steps(wire)
    for part in (one_packet, unrouted, own_server, removed, later_fragments):
        part(wire, steps)
    return steps

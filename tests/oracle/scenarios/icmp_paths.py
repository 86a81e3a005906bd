"""ICMP errors beyond `icmp_errors`: about each kind of tunnel, passing through, too long, scheduled; nat_icmp_send."""

from __future__ import annotations

import frames as fr
from families.common import KINDS, METHODS, Steps, payload, service
from frames import Facts
from plan import plan
from wire import Wire

UNREACHABLE = {4: (3, 3, 0), 6: (1, 4, 0)}
TUNNELS = ("", "--tun-type gre", "--tun-type gre --tun-csum", "--tun-type gue --tun-port 6080")
RECORD_ROUTE = b"\x07\x0b\x04" + bytes(8)
SCHEDULED = {
    "rr": {},
    "persistent": {"options": "-p 100"},
    "sh": {"scheduler": "sh"},
    "dh": {"scheduler": "dh"},
    "wlc": {"scheduler": "wlc"},
    "udp": {"proto": "udp"},
    "one packet": {"proto": "udp", "options": "-o"},
    "none": {"reals": 0},
    "v6": {"family": 6},
    "nat6": {"family": 6, "method": "nat"},
    "nat": {"method": "nat"},
    "tun": {"method": "tun"},
    "udp nat": {"proto": "udp", "method": "nat"},
}


class Site:
    """A fresh director with one service; its addresses and the ends of one connection."""

    def __init__(
        self,
        wire: Wire,
        steps: Steps,
        name: str,
        *,
        family: int = 4,
        method: str = "dr",
        proto: str = "tcp",
        reals: int = 1,
        each: str = "",
        options: str = "",
        scheduler: str = "rr",
        sysctls: dict[str, int] | None = None,
        route_mtu: dict[str, int] | None = None,
    ) -> None:
        self.wire, self.steps, self.family = wire, steps, family
        steps.under(name)
        wire.fresh(plan=plan(9), ip_forward=1, route_mtu=route_mtu)
        if sysctls:
            wire.sysctl(**sysctls)
        self.a = a = wire.addresses(family)
        port = 8080 if method == "nat" else 80
        self.spec = f"{KINDS[proto]} {a.at(a.vip(1), 80)}"
        servers = [a.at(a.real(n), port) for n in range(1, reals + 1)]
        service(wire, self.spec, method, servers, each=each, options=options, scheduler=scheduler)
        self.client, self.vip, self.real = (a.client(1), 1800), (a.vip(1), 80), (a.real(1), port)

    def connect(self) -> None:
        self.steps.send("syn", self.wire.tcp(self.client, self.vip, "S"))
        self.steps.send("ack", self.wire.tcp(self.client, self.vip, "A"))

    def error(
        self,
        step: str,
        src: str,
        dst: str,
        quote: bytes,
        *,
        kind: tuple[int, int, int] | None = None,
        check: int | None = None,
        **ip: object,
    ) -> None:
        number, code, rest = kind or UNREACHABLE[self.family]
        frame = self.wire.icmp(src, dst, number, code, rest, quote, ip={"ident": 0x66, **ip}, check=check)
        self.steps.send(step, frame)


def segment(src: tuple[str, int], dst: tuple[str, int], size: int = 100, **ip: object) -> bytes:
    body = fr.tcp(src[0], dst[0], src[1], dst[1], "PA", data=payload(size), seq=77, ack=78)
    return fr.ip(src[0], dst[0], fr.TCP, body, **{"ident": 0x55, **ip})


def tunnelled(each: str, dip: str, real: str, original: bytes) -> bytes:
    """A tunnel's packet, as the director sent it."""
    if "gre" in each:
        head = b"\x80\x00\x08\x00\0\0\0\0" if "--tun-csum" in each else b"\0\0\x08\0"
        return fr.ip(dip, real, fr.GRE, head + original, ident=0x77, ttl=60)
    if "gue" in each:
        body = fr.udp(dip, real, 40000, 6080, b"\0\x04\0\0" + original, check=0)
        return fr.ip(dip, real, fr.UDP, body, ident=0x77, ttl=60)
    return fr.ip(dip, real, fr.IPIP, original, ident=0x77, ttl=60)


def tunnels(wire: Wire, steps: Steps) -> None:
    """Errors about a tunnel's packets, and the MTU that they teach."""
    for each in TUNNELS:
        it = Site(wire, steps, f"tunnel {each}", method="tun", each=each)
        a, client, vip = it.a, it.client, it.vip
        it.connect()
        df = segment(client, vip, df=True, tos=0xB9)
        long = wire.packet(segment(client, vip, 1340, df=True))

        def told(step: str, kind: tuple[int, int, int], inner: bytes, **more: object) -> None:
            it.error(step, a.gateway, a.dip, tunnelled(each, a.dip, a.real(1), inner), kind=kind, **more)

        def cut(length: int) -> bytes:
            return tunnelled(each, a.dip, a.real(1), df)[: -len(df)] + df[:length]

        told("3/1", (3, 1, 0), df)
        told("11/0", (11, 0, 0), df)
        told("11/0 with a rest", (11, 0, 0x01020304), df)
        told("12/0", (12, 0, 0x01020304), df)
        told("3/4 1200", (3, 4, 1200), df)
        told("3/4 1200 again", (3, 4, 1200), df)
        steps.send("long", long)
        told("3/4 1200 third", (3, 4, 1200), df)
        told("3/4 1100", (3, 4, 1100), df)
        steps.send("long 2", long)
        told("3/4 1400", (3, 4, 1400), df)
        told("3/4 1600", (3, 4, 1600), df)
        told("3/4 1000 without DF", (3, 4, 1000), segment(client, vip))
        steps.send("long 3", long)
        steps.send("long without DF", wire.packet(segment(client, vip, 1340, ident=0x99)))
        told("3/4 300", (3, 4, 300), df)
        steps.send("long 4", long)
        told("3/4 0", (3, 4, 0), df)
        told("3/4 with high bits", (3, 4, 0x12340320), df)
        told("3/1 bad checksum", (3, 1, 0), df, check=0x1234)
        told("3/1 unknown", (3, 1, 0), segment((client[0], 1801), vip))
        told("3/1 long", (3, 1, 0), segment(client, vip, 1000))
        for name, length in ("ports", 24), ("28", 28), ("22", 22):
            it.error(f"3/1 cut to {name}", a.gateway, a.dip, cut(length), kind=(3, 1, 0))
        told("3/1 first fragment", (3, 1, 0), segment(client, vip, mf=True))
        told("3/1 later fragment", (3, 1, 0), segment(client, vip, offset=80))
        told("3/1 with options", (3, 1, 0), segment(client, vip, options=b"\x01\x01\x01\x01"))
        quote = tunnelled(each, a.dip, a.real(1), df)
        other = quote.replace(fr.packed(a.real(1)), fr.packed(a.real(2)))
        it.error("3/1 other server", a.gateway, a.dip, other, kind=(3, 1, 0))
        it.error("3/1 to the virtual address", a.gateway, vip[0], quote, kind=(3, 1, 0))
        it.error("3/1 to another machine", a.gateway, a.client(3), quote, kind=(3, 1, 0))
        steps.statistics("statistics")
        wire.ipvsadm(f"-d {it.spec} -r {a.at(*it.real)}")
        told("3/1 removed", (3, 1, 0), df)

    it = Site(wire, steps, "route mtu", method="tun", route_mtu={plan(9).v4.real(1): 1300})
    steps.send("syn", wire.tcp(it.client, it.vip, "S"))
    quote = tunnelled("", it.a.dip, it.a.real(1), segment(it.client, it.vip, df=True))
    for mtu in 1400, 1300, 1200, 1000:
        it.error(f"3/4 {mtu}", it.a.gateway, it.a.dip, quote, kind=(3, 4, mtu))
        steps.send(f"long after {mtu}", wire.packet(segment(it.client, it.vip, 1340, df=True)))

    it = Site(wire, steps, "tunnel v6", family=6, method="tun")
    steps.send("syn", wire.tcp(it.client, it.vip, "S"))
    quote = fr.ip(it.a.dip, it.a.real(1), fr.IPV6, segment(it.client, it.vip), ttl=60)
    for kind in (1, 3, 0), (2, 0, 1300), (3, 0, 0):
        it.error(f"{kind}", it.a.gateway, it.a.dip, quote, kind=kind)
    steps.send("long", wire.packet(segment(it.client, it.vip, 1340)))


def passing(wire: Wire, steps: Steps) -> None:
    """To whom an error is addressed, how long it lives, what it quotes, what became of its connection."""
    for family in 4, 6:
        for method in METHODS:
            it = Site(wire, steps, f"passing v{family} {method}", family=family, method=method)
            a, client, vip, real = it.a, it.client, it.vip, it.real
            near, far = a.real(5), a.far(9)
            it.connect()
            reply, request, plain = segment(vip, client), segment(client, real), segment(client, vip)
            for ttl in 64, 3, 2, 1:
                it.error(f"about a reply, ttl {ttl}", far, near, reply, ttl=ttl)
                it.error(f"about a request, ttl {ttl}", near, client[0], request, ttl=ttl)
                it.error(f"about a request to the VIP, ttl {ttl}", near, client[0], plain, ttl=ttl)
                it.error(f"to the VIP about a reply, ttl {ttl}", far, vip[0], reply, ttl=ttl)
            it.error("to the director about a request", near, a.dip, request)
            it.error("to the director about a reply", far, a.dip, reply)
            it.error("to nowhere about a reply", far, a.client(3), reply, tos=0x48)
            proto, stump = (fr.ICMP, b"\3\3\0\0") if family == 4 else (fr.ICMP6, b"\1\4\0\0")
            steps.send("truncated in passing", wire.packet(fr.ip(near, client[0], proto, stump)))
            steps.send("truncated", wire.packet(fr.ip(near, vip[0], proto, stump)))
            it.error("without a quotation", near, client[0], b"")
            it.error("with five bytes of one", near, client[0], reply[:5])
            it.error("odd length", far, vip[0], reply[:77])
            it.error("odd length from the server", near, client[0], request[:77])
            if family == 4:
                it.error("outer options", far, vip[0], reply, options=RECORD_ROUTE)
                it.error("outer options, passing", near, client[0], request, options=RECORD_ROUTE)
                it.error("outer no-ops", far, vip[0], reply, options=b"\x01\x01\x01\x01")
                it.error("quoted options", far, vip[0], segment(vip, client, options=RECORD_ROUTE))
                it.error("quoted options, request", near, client[0], segment(client, real, options=RECORD_ROUTE))
                it.error("quoted bad sum", far, vip[0], segment(vip, client, check=0x1234))
                it.error("first fragment quoted", far, vip[0], segment(vip, client, mf=True))
                it.error("later fragment quoted", far, vip[0], segment(vip, client, offset=80))
                for df in True, False:
                    it.error(f"1500 bytes df {df}", far, vip[0], segment(vip, client, 1400)[:1472], df=df)
                    long = segment(client, real, 1432)[:1472]
                    it.error(f"1500 bytes of the server df {df}", near, client[0], long, df=df)
            else:
                for name, first, head in (
                    ("hop", 0, b"\x06\0\1\4\0\0\0\0"),
                    ("dest", 60, b"\x06\0\1\4\0\0\0\0"),
                    ("fragment", 44, b"\x06\0\0\1\0\0\0\7"),
                    ("late", 44, b"\x06\0\0\x51\0\0\0\7"),
                ):
                    it.error(f"quoted {name}", far, vip[0], fr.ip(vip[0], client[0], first, head + reply[40:]))
                body = bytes([58, 0, 1, 4, 0, 0, 0, 0]) + fr.icmp(far, vip[0], *UNREACHABLE[6], reply)
                steps.send("outer destination options", wire.packet(fr.ip(far, vip[0], 60, body)))
                it.error("1500 bytes", far, vip[0], segment(vip, client, 1400)[:1452])
            steps.both("tables")
            steps.statistics("statistics")
            server = f"{it.spec} -r {a.at(*real)}"
            wire.ipvsadm(f"-d {server}")
            it.error("removed: about a reply", far, vip[0], reply)
            it.error("removed: about a request", near, client[0], request)
            wire.ipvsadm(f"-a {server} {METHODS[method]} -w 0")
            it.error("weight 0: about a reply", far, vip[0], reply)
            it.error("weight 0: about a request", near, client[0], request)
            steps.statistics("statistics then")
            wire.ipvsadm(f"-D {it.spec}")
            it.error("no service: about a reply", far, vip[0], reply)
            it.error("no service: about a request", near, client[0], request)


def small(wire: Wire, steps: Steps) -> None:
    """Errors longer than the route to the server takes."""
    for family in 4, 6:
        for method in METHODS:
            mtu = {plan(9).of(family).real(1): 1300}
            it = Site(wire, steps, f"small mtu v{family} {method}", family=family, method=method, route_mtu=mtu)
            steps.send("syn", wire.tcp(it.client, it.vip, "S"))
            for df in True, False:
                for size in 1000, 1200, 1250, 1350:
                    it.error(f"{size} bytes df {df}", it.a.far(9), it.vip[0], segment(it.vip, it.client, size), df=df)


def scheduling(wire: Wire, steps: Steps) -> None:
    """schedule_icmp: an error about no connection opens one."""
    for name, choice in SCHEDULED.items():
        it = Site(wire, steps, f"schedule {name}", **{"reals": 3, "sysctls": {"schedule_icmp": 1}, **choice})
        a, vip, udp = it.a, it.vip, choice.get("proto") == "udp"

        def quote(n: int, port: int = 80, cport: int = 2000) -> bytes:
            src, dst = (vip[0], port), (a.far(n), cport)
            if udp:
                body = fr.udp(src[0], dst[0], port, cport, payload(40))
                return fr.ip(src[0], dst[0], fr.UDP, body, ident=0x55)
            return segment(src, dst, 40)

        for n in range(1, 7):
            it.error(f"client {n}", a.far(100), vip[0], quote(n))
        steps.both("tables")  # they live for three seconds
        it.error("again", a.far(100), vip[0], quote(2))
        it.error("in passing", a.far(100), a.real(7), quote(12))
        it.error("bad sum", a.far(100), vip[0], quote(13), check=0x1234)
        it.error("ttl 1", a.far(100), vip[0], quote(14), ttl=1)
        it.error("port 20", a.far(100), vip[0], quote(15, cport=20))
        it.error("ports cut", a.far(100), vip[0], quote(16)[: 22 if it.family == 4 else 42])
        it.error("other port", a.far(100), vip[0], quote(17, port=81))
        it.error("other address", a.far(100), a.vip(2), quote(18))
        it.error("from the server's side", a.far(100), a.far(19), quote(19))
        if udp:
            steps.send("then a packet", wire.udp((a.far(1), 2000), vip))
        else:
            steps.send("then an ACK", wire.tcp((a.far(1), 2000), vip, "A"))
            steps.send("then a SYN", wire.tcp((a.far(2), 2000), vip, "S"))
        steps.statistics("statistics")


def unserved(wire: Wire, steps: Steps) -> None:
    """nat_icmp_send: whose answers to nobody are refused."""
    for family in 4, 6:
        steps.under(f"unserved v{family}")
        wire.fresh(plan=plan(9), ip_forward=1)
        wire.sysctl(nat_icmp_send=1)
        a = wire.addresses(family)
        first = f"-t {a.at(a.vip(1), 80)}"
        service(wire, first, "nat", [a.at(a.real(1), 8080)])
        service(wire, f"-t {a.at(a.vip(1), 81)}", "dr", [a.at(a.real(2), 81)])
        service(wire, f"-f 5{a.option}", "nat", [a.at(a.real(3), 0), a.at(a.real(4), 90)])
        service(wire, f"-t {a.at(a.vip(1), 0)}", "nat", [a.at(a.real(5), 0)], options="-p 10")
        client, server = (a.client(1), 1900), (a.real(1), 8080)

        def answer(step: str, real: tuple[str, int] = server, dst: str = client[0], **ip: object) -> None:
            steps.send(step, wire.tcp(real, (dst, 1900), "A", ip={"ident": 0x42, **ip}))

        answer("served")
        answer("tos", tos=0xB9)
        answer("CE", tos=0x03)
        answer("to the director", dst=a.dip)
        answer("to the virtual address", dst=a.vip(1))
        answer("to the second virtual address", dst=a.vip(2))
        answer("ttl 1", ttl=1)
        answer("ttl 2", ttl=2)
        answer("virtual port", (a.real(1), 80))
        answer("direct", (a.real(2), 81))
        answer("marked, port 0", (a.real(3), 1234))
        answer("marked, port 90", (a.real(4), 90))
        answer("all ports", (a.real(5), 1234))
        answer("port 0", (a.real(5), 0))
        steps.send("udp of a mark", wire.udp((a.real(4), 90), client))
        steps.send("udp of tcp", wire.udp(server, client))
        steps.send("long", wire.tcp(server, client, "A", data=payload(1400)))
        steps.send("bad checksum", wire.tcp(server, client, "A", check=0x1234))
        steps.send("RST ACK", wire.tcp(server, client, "RA"))
        head = fr.tcp(server[0], client[0], 8080, 1900)
        steps.send("cut", wire.packet(fr.ip(server[0], client[0], fr.TCP, head[:6])))
        steps.send("cut to 2", wire.packet(fr.ip(server[0], client[0], fr.TCP, head[:2])))
        wire.ipvsadm(f"-e {first} -r {a.at(*server)} -m -w 0")
        answer("weight 0")
        wire.ipvsadm(f"-d {first} -r {a.at(*server)}")
        answer("removed")
        steps.both("tables")
        steps.statistics("statistics")


def run(wire: Wire) -> list[Facts]:
    steps = Steps(wire)
    for part in (tunnels, passing, small, scheduling, unserved):
        part(wire, steps)
    return steps

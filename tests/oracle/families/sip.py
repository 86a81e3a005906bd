"""Persistence by the Call-ID of SIP messages (--pe sip): which text is one, who shares a template, real servers first."""

from __future__ import annotations

from collections.abc import Sequence

import frames as fr
from families.common import METHODS, Steps, service
from families.fragments import cut
from families.sip_texts import FIRST, TEXTS
from plan import Plan
from wire import Endpoint, Wire

PORT = 5060


def message(call: str, *more: str) -> bytes:
    """A request of a call."""
    return FIRST + "".join(f"{line}\r\n" for line in (f"Call-ID: {call}", *more, "")).encode()


def headers(wire: Wire, plan: Plan, *, family: int = 4, method: str = "dr", every: int = 1) -> Steps:
    """Which messages are scheduled, and to whom: a call returns to its server."""
    steps = Steps(wire)
    steps.under(f"headers v{family} {method}")
    wire.fresh(plan=plan)
    a = wire.addresses(family)
    vip = (a.vip(1), PORT)
    service(wire, f"-u {a.at(*vip)}", method, [a.at(a.real(n), PORT) for n in (1, 2, 3)], options="-p 90 --pe sip")
    for number, (name, text) in enumerate(TEXTS):
        if number % every == 0:
            sent = [wire.udp((a.client(1), 7000 + number), vip, text)]
            steps.note(name, choices=wire.receivers(sent))
    steps.note("a message of known length", choices=wire.receivers(_lengths(wire, (a.client(1), 7900), vip)))
    steps.note("table", rows=wire.rows())
    steps.note("persistence", rows=wire.rows("-Ln --persistent-conn"))
    steps.note("templates", connections=[row for row in wire.calls() if row["client"].endswith(":0")])
    return steps


def _lengths(wire: Wire, client: Endpoint, vip: Endpoint) -> list[bytes]:
    """A UDP length that ends in the Call-ID, and bytes of the IP packet behind it."""
    text = message("length@here")
    segment = bytearray(fr.udp(client[0], vip[0], client[1], vip[1], text, check=0 if ":" not in vip[0] else None))
    segment[4:6] = (8 + len(FIRST) + 14).to_bytes(2, "big")
    return [wire.packet(fr.ip(client[0], vip[0], fr.UDP, bytes(segment)))]


def characters(wire: Wire, plan: Plan, *, family: int = 4) -> Steps:
    """Every character in a Call-ID, and behind the short name."""
    steps = Steps(wire)
    steps.under(f"characters v{family}")
    wire.fresh(plan=plan)
    a = wire.addresses(family)
    vip = (a.vip(1), PORT)
    service(wire, f"-u {a.at(*vip)}", "dr", [a.at(a.real(1), PORT)], options="-o -p 90 --pe sip")
    for name, line in ("value", b"i: a%b@h"), ("name", b"i%b:x@h"):
        texts = [FIRST + line % bytes((each,)) + b"\r\n\r\n" for each in range(256)]
        got = wire.receivers([wire.udp((a.client(1), 7000 + n), vip, text) for n, text in enumerate(texts)])
        taken = bytes(each for each, role in enumerate(got) if role == "r1")
        steps.note(f"in the {name}", text=taken.decode("latin-1"))
    steps.rows("counts", "-Ln --persistent-conn")
    return steps


def calls(
    wire: Wire,
    plan: Plan,
    *,
    family: int = 4,
    method: str = "dr",
    scheduler: str = "rr",
    options: str = "",
    mask: str = "",
) -> Steps:
    """Many calls of many clients: one server for a call of a client (or network), whatever its port."""
    steps = Steps(wire)
    steps.under(f"calls v{family} {method} {scheduler} {options} {mask}".strip())
    wire.fresh(plan=plan, ip_forward=int(method == "nat"))
    a = wire.addresses(family)
    vips = [(a.vip(1), PORT), (a.vip(2), PORT)]
    for vip in vips:
        service(
            wire,
            f"-u {a.at(*vip)}",
            method,
            [a.at(a.real(n), 5080) for n in (1, 2, 3)],
            scheduler=scheduler,
            options=f"-p 90 --pe sip {options} {mask}",
            weights=(1, 2, 1),
        )
    sent = []
    for number in range(60):
        client = (a.far(number % 4 * 64 + 1), 5000 + number)
        sent.append(wire.udp(client, vips[number % 2], message(f"{number // 7 % 5}@calls")))
    steps.note("choices", choices=["".join(role[1:] for role in wire.receivers(sent))])
    steps.note("tables", rows=wire.rows(), connections=wire.calls())
    again = [wire.udp((a.far(1), 5000), vips[0], message("other@calls"))]
    steps.note("another call of a known port", choices=wire.receivers(again))
    steps.note("tables then", rows=wire.rows())
    return steps


def changes(wire: Wire, plan: Plan, *, family: int = 4, method: str = "dr", expire: int = 0) -> Steps:
    """A call's server at weight 0, gone, and back; the service without the engine, and with it again; the timer."""
    steps = Steps(wire)
    steps.under(f"changes v{family} {method} expire_quiescent_template {expire}")
    wire.fresh(plan=plan, ip_forward=int(method == "nat"))
    wire.sysctl(expire_quiescent_template=expire)
    a = wire.addresses(family)
    vip, spec = (a.vip(1), PORT), f"-u {a.at(a.vip(1), PORT)}"
    reals = {f"r{n}": a.at(a.real(n), PORT) for n in (1, 2)}
    service(wire, spec, method, list(reals.values()), options="-o -p 300 --pe sip")
    source = iter(range(7000, 8000))

    def send(step: str, call: str = "one@x") -> str:
        got = wire.receivers([wire.udp((a.client(1), next(source)), vip, message(call)) for _ in range(2)])
        steps.note(step, choices=got, connections=wire.calls())
        return got[0]

    home = send("a call")
    send("another call", "two@x")
    wire.ipvsadm(f"-e {spec} -r {reals[home]} {METHODS[method]} -w 0")
    send("its server at weight 0")
    wire.ipvsadm(f"-e {spec} -r {reals[home]} {METHODS[method]} -w 1")
    send("weight 1 again")
    wire.ipvsadm(f"-d {spec} -r {reals[home]}")
    send("its server removed")
    wire.ipvsadm(f"-a {spec} -r {reals[home]} {METHODS[method]} -w 1")
    send("its server back")
    wire.ipvsadm(f"-E {spec} -s rr -p 300")
    send("without the engine")
    wire.ipvsadm(f"-E {spec} -s rr -p 200 --pe sip -o")
    send("with the engine")
    wire.ipvsadm(f"-E {spec} -s rr --pe sip")
    send("without persistence")
    return steps


def lifetime(wire: Wire, plan: Plan, *, family: int = 4, seconds: int = 4) -> Steps:
    """A template's timer: refreshed by each message of -o; held by a connection without it."""
    steps = Steps(wire)
    steps.under(f"lifetime v{family} -p {seconds}")
    wire.fresh(plan=plan)
    a = wire.addresses(family)
    for n, options in (1, "-o"), (2, ""):
        service(
            wire,
            f"-u {a.at(a.vip(n), PORT)}",
            "dr",
            [a.at(a.real(r), PORT) for r in (1, 2, 3)],
            options=f"{options} -p {seconds} --pe sip",
        )
    wire.ipvsadm("--set 0 0 3")

    def send(step: str, port: int) -> None:
        sent = [wire.udp((a.client(1), port), (a.vip(n), PORT), message(f"life{n}@x")) for n in (1, 2)]
        steps.note(step, choices=[wire.receivers([frame])[0] for frame in sent], connections=wire.calls())

    send("first", 6000)
    wire.pause(2)
    send("2 s later", 6001)
    last = wire.age()
    for after in 2.0, seconds + 3.5:
        wire.pause_until(last + after)
        steps.note(f"{after} s after it", rows=wire.rows(), connections=wire.calls())
    send("anew", 6002)
    return steps


def servers_first(
    wire: Wire, plan: Plan, *, family: int = 4, method: str = "nat", options: str = "-o -p 90", port: int = PORT
) -> Steps:
    """Messages of real servers: replies of -o, requests of a call that no client began, and others that stay as sent."""
    steps = Steps(wire)
    steps.under(f"servers v{family} {method} {options} port {port}")
    wire.fresh(plan=plan, ip_forward=1)
    a = wire.addresses(family)
    vip = (a.vip(1), PORT)
    spec = f"-u {a.at(*vip)}"
    reals = [(a.real(n), port) for n in (1, 2, 3)]
    service(wire, spec, method, [a.at(*real) for real in reals], options=f"{options} --pe sip")
    client, far = (a.client(1), 5070), (a.far(9), 5071)

    def send(step: str, *sent: bytes) -> None:
        steps.note(step, out=wire.send(*sent), rows=wire.rows(), connections=wire.calls())

    def from_server(n: int, to: Endpoint, text: bytes, own: int = port) -> bytes:
        return wire.udp((a.real(n), own), to, text)

    send("a client's call", wire.udp(client, vip, message("c1@x")))
    for n in 1, 2, 3:
        send(f"answered by r{n}", from_server(n, client, message("c1@x")))
    send("the client again", wire.udp(client, vip, message("c1@x")))
    send("r1 begins a call", from_server(1, far, message("s1@x")))
    send("r1 again", from_server(1, far, message("s1@x")))
    send("the called one answers", wire.udp(far, vip, message("s1@x")))
    send("its other port answers", wire.udp((far[0], 5072), vip, message("s1@x")))
    send("r2 goes on with that call", from_server(2, (far[0], 5073), message("s1@x")))
    send("the called one answers r2", wire.udp((far[0], 5073), vip, message("s1@x")))
    send("without a Call-ID", from_server(1, (far[0], 5074), b"hello"))
    send("from another port", from_server(1, (far[0], 5075), message("s2@x"), port + 1))
    send("from no server", from_server(4, (far[0], 5076), message("s3@x")))
    send("to the director", from_server(1, (a.dip, 5077), message("s4@x")))
    send("with TTL 1", wire.udp(reals[0], (far[0], 5078), message("s5@x"), ip={"ttl": 1}))
    wire.sysctl(nat_icmp_send=1)
    send("without a Call-ID, nat_icmp_send", from_server(1, (far[0], 5079), b"hello"))
    send("a call, nat_icmp_send", from_server(1, (far[0], 5080), message("s6@x")))
    wire.sysctl(nat_icmp_send=0)
    wire.ipvsadm(f"-e {spec} -r {a.at(*reals[0])} {METHODS[method]} -w 0")
    send("from a server at weight 0", from_server(1, (far[0], 5081), message("s7@x")))
    wire.ipvsadm(f"-d {spec} -r {a.at(*reals[0])}")
    send("from a removed server", from_server(1, (far[0], 5082), message("s8@x")))
    steps.statistics("statistics")
    return steps


def two_services(wire: Wire, plan: Plan, *, family: int = 4) -> Steps:
    """A real server of several services: which of them its own calls belong to."""
    steps = Steps(wire)
    steps.under(f"two services v{family}")
    a = wire.addresses(family)
    kinds: tuple[tuple[str, Sequence[str]], ...] = (
        ("both", ("-p 90 --pe sip", "-p 90 --pe sip")),
        ("the first", ("-p 90 --pe sip", "-p 90")),
        ("the last", ("-p 90", "-p 90 --pe sip")),
    )
    for name, options in kinds:
        wire.fresh(plan=plan, ip_forward=1)
        for n, given in enumerate(options, 1):
            service(wire, f"-u {a.at(a.vip(n), PORT)}", "nat", [a.at(a.real(1), PORT)], options=f"-o {given}")
        out = wire.send(wire.udp((a.real(1), PORT), (a.far(3), 5070), message("s@x")))
        steps.note(f"{name} with the engine", out=out, connections=wire.calls())
    return steps


def marked(wire: Wire, plan: Plan, *, family: int = 4, method: str = "dr", options: str = "-p 90") -> Steps:
    """A firewall mark joins ports and addresses; only UDP is served."""
    steps = Steps(wire)
    steps.under(f"mark v{family} {method} {options}")
    wire.fresh(plan=plan, ip_forward=int(method == "nat"))
    a = wire.addresses(family)
    for proto in "udp", "tcp":
        for n in 1, 2:
            wire.mark(proto, a.vip(n), "5060,5062", 3)
    service(wire, f"-f 3{a.option}", method, [a.at(a.real(n), 0) for n in (1, 2, 3)], options=f"{options} --pe sip")
    for number in range(8):
        vip = (a.vip(1 + number % 2), 5060 + number // 2 % 2 * 2)
        steps.note(
            f"{number}: a call",
            choices=wire.receivers([wire.udp((a.client(1), 6000 + number), vip, message(f"{number // 4}@x"))]),
        )
    steps.note("no Call-ID", choices=wire.receivers([wire.udp((a.client(1), 6100), (a.vip(1), PORT), b"hello")]))
    steps.send("TCP", wire.tcp((a.client(1), 6101), (a.vip(1), PORT)))
    steps.send("from a server", wire.udp((a.real(1), PORT), (a.far(1), 5070), message("0@x")))
    steps.note("tables", rows=wire.rows(), connections=wire.calls())
    return steps


def other_services(wire: Wire, plan: Plan, *, family: int = 4) -> Steps:
    """The engine on services of TCP, of every port, without persistence, and without a server."""
    steps = Steps(wire)
    steps.under(f"others v{family}")
    wire.fresh(plan=plan, ip_forward=1)
    a = wire.addresses(family)
    reals = [a.at(a.real(n), PORT) for n in (1, 2)]
    service(wire, f"-t {a.at(a.vip(1), PORT)}", "dr", reals, options="-p 90 --pe sip")
    steps.send("TCP", wire.tcp((a.client(1), 6000), (a.vip(1), PORT)))
    service(wire, f"-u {a.at(a.vip(2), 0)}", "dr", reals, options="-p 90 --pe sip")
    for port in 5060, 5061, 5062:
        sent = [wire.udp((a.client(1), 6000 + port), (a.vip(2), port), message("every@x"))]
        steps.note(f"port {port} of every port", choices=wire.receivers(sent))
    service(wire, f"-u {a.at(a.vip(3), PORT)}", "nat", reals, options="--pe sip")
    for number, text in enumerate((message("np@x"), message("np@x"), b"hello")):
        steps.send(f"{number}: without persistence", wire.udp((a.client(1), 6200 + number), (a.vip(3), PORT), text))
    steps.send("without persistence, from a server", wire.udp((a.real(1), PORT), (a.far(1), 5070), b"hello"))
    steps.send("without persistence, answered", wire.udp((a.far(1), 5070), (a.vip(3), PORT), b"hello"))
    wire.ipvsadm(f"-A -u {a.at(a.vip(4), PORT)} -s rr -p 90 --pe sip")
    steps.send("without a server", wire.udp((a.client(1), 6300), (a.vip(4), PORT), message("no@x")))
    steps.send("without a server and a Call-ID", wire.udp((a.client(1), 6301), (a.vip(4), PORT), b"hello"))
    steps.note("tables", rows=wire.rows(), connections=wire.calls())
    return steps


def in_fragments(wire: Wire, plan: Plan, *, family: int = 4, method: str = "nat") -> Steps:
    """A message in fragments, whose Call-ID is in the last one or cut in two; and the server's answer in fragments."""
    steps = Steps(wire)
    steps.under(f"fragments v{family} {method}")
    wire.fresh(plan=plan, ip_forward=1)
    a = wire.addresses(family)
    vip, ident = (a.vip(1), PORT), 100
    service(wire, f"-u {a.at(*vip)}", method, [a.at(a.real(n), PORT) for n in (1, 2, 3)], options="-o -p 90 --pe sip")
    for number, (length, sizes) in enumerate(((100, (48,)), (1100, (1136,)), (1390, (1400,)), (2000, (8, 1400)))):
        text = FIRST + b"Via: " + b"v" * length + b"\r\nCall-ID: frag@here\r\nCSeq: 1 INVITE\r\n\r\n"
        ways = ("request", (a.client(1), 6000 + number), vip), ("answer", (a.real(1), PORT), (a.client(1), 6000))
        for name, src, dst in ways:
            ident += 1
            segment = fr.udp(src[0], dst[0], src[1], dst[1], text)
            sent = [wire.packet(part) for part in cut(src[0], dst[0], fr.UDP, segment, sizes, ident)]
            steps.note(f"{number}: {name}", out=wire.send(*sent))
    steps.note("tables", rows=wire.rows(), connections=wire.calls())
    return steps

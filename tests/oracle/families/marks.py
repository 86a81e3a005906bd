"""Services of firewall marks: beside services of addresses, with every option, without a usable server."""

from __future__ import annotations

import random

from families.common import Steps, letters, service
from plan import Plan
from wire import Wire


def bypass(
    wire: Wire,
    plan: Plan,
    *,
    family: int = 4,
    weight: int | None = 0,
    routed: bool = True,
    seconds: int = 0,
    mark: int = 5,
    cache_bypass: int = 1,
) -> Steps:
    """cache_bypass: what becomes of packets to an address of the director and to a far one without a usable server."""
    steps = Steps(wire)
    six = ["-6"] if family == 6 else []
    steps.under(f"bypass {cache_bypass} v{family} weight {weight} routed {routed} -p {seconds}")
    wire.fresh(plan=plan, ip_forward=0)
    a = wire.addresses(family)
    wire.sysctl(cache_bypass=cache_bypass)
    for address in a.vip(1), a.far(77):
        wire.mark("tcp", address, "80,443", mark)
        wire.mark("udp", address, "53", mark)
    wire.ipvsadm(f"-A -f {mark}{a.option} -s rr {f'-p {seconds}' if seconds else ''}")
    if weight is not None:
        wire.ipvsadm(f"-a -f {mark}{a.option} -r {a.at(a.real(2), 0)} -g -w {weight}")
    if routed:
        wire.command("ip", *six, "rule", "add", "fwmark", str(mark), "lookup", "100")
        wire.command("ip", *six, "route", "add", "local", "default", "dev", "lo", "table", "100")
    for number, target in enumerate((a.vip(1), a.far(77))):
        client = (a.client(1), 2500 + number)
        for flags in "S", "A", "PA", "FA", "R":
            steps.send(f"to {number}: {flags}", wire.tcp(client, (target, 80), flags, ip={"ident": 6}))
        steps.send(f"to {number}: UDP", wire.udp(client, (target, 53), b"hello", ip={"ident": 6}))
        steps.send(f"to {number}: ttl 1", wire.tcp((a.client(1), 2600), (target, 443), ip={"ident": 6, "ttl": 1}))
        steps.both(f"tables {number}")
    steps.note("stats", rows=wire.rows("-Ln --stats"))
    if weight is not None:
        wire.ipvsadm(f"-e -f {mark}{a.option} -r {a.at(a.real(2), 0)} -g -w 1")
        steps.send("weight 1: known", wire.udp((a.client(1), 2501), (a.far(77), 53), b"hello", ip={"ident": 6}))
        steps.send("weight 1: new", wire.tcp((a.client(1), 2700), (a.far(77), 80), ip={"ident": 6}))
        steps.both("tables at last")
    return steps


def bypass_states(wire: Wire, plan: Plan, *, family: int = 4, mark: int = 5) -> Steps:
    """The states of connections that go past a service: its packets are the client's alone, yet not marked as such."""
    steps = Steps(wire)
    six = ["-6"] if family == 6 else []
    steps.under(f"bypass states v{family}")
    wire.fresh(plan=plan, ip_forward=0)
    a = wire.addresses(family)
    wire.sysctl(cache_bypass=1)
    target = a.far(77)
    wire.mark("tcp", target, "80", mark)
    wire.ipvsadm(f"-A -f {mark}{a.option} -s rr")
    wire.command("ip", *six, "rule", "add", "fwmark", str(mark), "lookup", "100")
    wire.command("ip", *six, "route", "add", "local", "default", "dev", "lo", "table", "100")
    for number, flags in enumerate(("S", "S A", "S FA", "S A FA", "S A FA FA", "S A FA A", "S A R", "S A FA R")):
        for place, each in enumerate(flags.split(), 1):
            frame = wire.tcp((a.client(1), 2500 + number), (target, 80), each, ip={"ident": 6})
            steps.send(f"{flags}: {place}", frame)
    steps.both("states")
    for number in range(8):
        client = (a.client(1), 2500 + number)
        steps.send(f"SYN again {number}", wire.tcp(client, (target, 80), "S", ip={"ident": 6}))
    steps.both("states after another SYN")
    return steps


def precedence(wire: Wire, plan: Plan, *, family: int = 4, method: str = "dr", mark: int = 7) -> Steps:
    """A mark wins over an address, an address takes the rest, and families are apart; then services come and go."""
    steps = Steps(wire)
    steps.under(f"precedence v{family} {method} mark {mark}")
    wire.fresh(plan=plan, ip_forward=1)
    a = wire.addresses(family)
    other = "" if family == 6 else " -6"
    wire.mark("tcp", a.vip(1), "80", mark)
    wire.mark("udp", a.vip(1), "80,53", mark)
    service(wire, f"-t {a.at(a.vip(1), 80)}", method, [a.at(a.real(1), 80)])
    service(wire, f"-t {a.at(a.vip(1), 81)}", method, [a.at(a.real(2), 81)])
    wire.ipvsadm(f"-A -f {mark}{other} -s rr")
    clients = iter(range(3000, 4000))

    def ask(step: str) -> None:
        for name, packet in (
            ("TCP 80", wire.tcp((a.client(1), next(clients)), (a.vip(1), 80), ip={"ident": 6})),
            ("TCP 81", wire.tcp((a.client(1), next(clients)), (a.vip(1), 81), ip={"ident": 6})),
            ("UDP 53", wire.udp((a.client(1), next(clients)), (a.vip(1), 53), b"?", ip={"ident": 6})),
            ("unmarked UDP", wire.udp((a.client(1), next(clients)), (a.vip(1), 54), b"?", ip={"ident": 6})),
            ("ACK", wire.tcp((a.client(1), next(clients)), (a.vip(1), 80), "A", ip={"ident": 6})),
            ("from port 20", wire.tcp((a.client(2), 20), (a.vip(1), 80), "S", ip={"ident": 6})),
        ):
            steps.send(f"{step}: {name}", packet)
        steps.both(f"{step}: tables")

    ask("the mark of the other family")
    service(wire, f"-f {mark}{a.option}", method, [a.at(a.real(3), 0)])
    ask("with the mark")
    wire.ipvsadm(f"-e -f {mark}{a.option} -r {a.at(a.real(3), 0)} {FLAGS[method]} -w 0")
    ask("its server at weight 0")
    wire.ipvsadm(f"-d -f {mark}{a.option} -r {a.at(a.real(3), 0)}")
    ask("its server gone")
    wire.ipvsadm(f"-D -f {mark}{a.option}")
    ask("the service gone")
    return steps


FLAGS = {"dr": "-g", "nat": "-m", "tun": "-i"}


def options(
    wire: Wire,
    plan: Plan,
    *,
    family: int = 4,
    method: str = "dr",
    mark: int = 0x80000001,
    scheduler: str = "rr",
    flags: str = "",
    upper: int = 0,
    real_port: int = 0,
    seed: int = 1,
) -> Steps:
    """Many clients of one mark over TCP and UDP, two addresses and several ports: who gets them, and the tables."""
    steps = Steps(wire)
    steps.under(f"options v{family} {method} {scheduler} {flags} -x {upper} server port {real_port} mark {mark}")
    wire.fresh(plan=plan, ip_forward=1)
    a, draw = wire.addresses(family), random.Random(seed)
    wire.mark("", a.vip(1), "", mark)
    wire.mark("tcp", a.vip(2), "443", mark)
    spec = f"-f {mark}{a.option}"
    wire.ipvsadm(f"-A {spec} -s {scheduler} {flags}")
    for number, weight in enumerate((1, 3, 2), 1):
        limit = f"-x {upper}" if upper else ""
        wire.ipvsadm(f"-a {spec} -r {a.at(a.real(number), real_port)} {FLAGS[method]} -w {weight} {limit}")
    sent = []
    for number in range(60):
        client, port = (a.far(draw.randrange(1, 20)), 5000 + number), draw.choice((0, 21, 80, 443, 5060))
        kind = draw.choice(("tcp", "tcp", "udp"))
        if kind == "udp":
            sent.append(wire.udp(client, (a.vip(1), port), b"?"))
        else:
            sent.append(wire.tcp(client, draw.choice(((a.vip(1), port), (a.vip(2), 443)))))
    steps.note("choices", choices=letters(wire.receivers(sent)))
    steps.both("tables")
    for port in 0, 80:
        steps.send(f"to port {port}", wire.tcp((a.client(3), 6000 + port), (a.vip(1), port), ip={"ident": 6}))
    steps.both("tables at last")
    return steps

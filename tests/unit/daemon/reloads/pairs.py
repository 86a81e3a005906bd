"""Random pairs of configurations: a first one, and one that a few edits of an operator make of it.

A configuration is drawn as a value, and written in keepalived's language: the daemon reads the text. What the second
differs in is known from the values alone, without the product's code.

To add trackers: a field `tracks` of `Router`, lines for it in `Router.text`, and an edit in `EDITS`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read_text
from pylvs.daemon.loading import Loaded
from pylvs.netlink.links import Device

VIPS, PORTS, SERVERS, MARKS = range(1, 5), (80, 443, 8080), range(1, 6), (7, 8)
ROUTERS, ADDRESSES, DEVICES = range(1, 4), range(1, 6), ("eth0", "eth1")
SORRY = 9


@dataclass(frozen=True)
class Server:
    """A real server. `check` is "none", "tcp", "misc" or "agent"; the last two set weights."""

    number: int
    port: int = 80  # 0: written without one
    weight: int = 1
    check: str = "tcp"
    inhibit: bool = False
    method: str = ""  # "": that of the service

    def text(self) -> Iterator[str]:
        yield f" real_server 10.0.0.{self.number}{f' {self.port}' if self.port else ''} {{\n  weight {self.weight}\n"
        yield "  inhibit_on_failure\n" if self.inhibit else ""
        yield f"  lvs_method {self.method}\n" if self.method else ""
        if self.check == "tcp":
            yield "  TCP_CHECK {\n   connect_port 80\n  }\n"
        elif self.check == "misc":
            yield "  MISC_CHECK {\n   misc_path /bin/true\n   misc_dynamic\n  }\n"
        elif self.check == "agent":
            yield "  AGENT_CHECK {\n   connect_port 9\n  }\n"
        yield " }\n"


@dataclass(frozen=True)
class Service:
    """A virtual_server: `head` is "plain", "mark" or "group". Its entries are addresses with ports, and marks."""

    number: int
    head: str
    entries: tuple[tuple[int, int], ...] = ()  # last octet of a VIP, and a port
    marks: tuple[int, ...] = ()
    method: str = "DR"
    scheduler: str = "rr"
    persistence: int = 0
    quorum: int = 1
    sorry: bool = False
    delay_loop: int = 6
    servers: tuple[Server, ...] = ()

    def text(self) -> Iterator[str]:
        lines = [f" 192.0.2.{vip} {port}\n" for vip, port in self.entries] + [
            f" fwmark {mark}\n" for mark in self.marks
        ]
        if self.head == "group":
            yield f"virtual_server_group G{self.number} {{\n{''.join(lines)}}}\n"
            yield f"virtual_server group G{self.number} {{\n"
        else:
            yield f"virtual_server{lines[0].rstrip()} {{\n"
        yield f" delay_loop {self.delay_loop}\n lb_algo {self.scheduler}\n lb_kind {self.method}\n"
        yield " protocol TCP\n" if self.entries else ""
        yield f" persistence_timeout {self.persistence}\n" if self.persistence else ""
        yield f" quorum {self.quorum}\n"
        yield f" sorry_server 10.0.0.{SORRY} 80\n" if self.sorry else ""
        for each in self.servers:
            yield from each.text()
        yield "}\n"

    @property
    def head_key(self) -> tuple[object, ...]:
        """What tells two configurations that this is the same service."""
        return (self.head, self.number) if self.head == "group" else (self.head, self.entries, self.marks)

    @property
    def keys(self) -> set[tuple[int, int, int]]:
        """The services in the table: VIP, port, mark."""
        return {(vip, port, 0) for vip, port in self.entries} | {(0, 0, mark) for mark in self.marks}

    def method_of(self, server: Server) -> str:
        return server.method or self.method


@dataclass(frozen=True)
class Router:
    """A vrrp_instance."""

    number: int
    device: str = "eth0"
    vrid: int = 51
    priority: int = 100
    addresses: tuple[int, ...] = ()
    advert_int: int = 1
    preempt: bool = True

    def text(self) -> Iterator[str]:
        yield f"vrrp_instance V{self.number} {{\n interface {self.device}\n virtual_router_id {self.vrid}\n"
        yield f" priority {self.priority}\n advert_int {self.advert_int}\n"
        yield "" if self.preempt else " nopreempt\n"
        yield " virtual_ipaddress {\n" + "".join(f"  198.51.100.{each}\n" for each in self.addresses) + " }\n}\n"


@dataclass(frozen=True)
class Configuration:
    """A configuration: services, virtual routers and timeouts (0: not written)."""

    services: tuple[Service, ...] = ()
    routers: tuple[Router, ...] = ()
    timeouts: tuple[int, int, int] = (0, 0, 0)
    script_user: str = "root"
    comment: str = ""
    grouped: bool = False  # all virtual routers are in a sync group

    def text(self) -> str:
        """Return the file."""
        named = [
            f" {name} {value}" for name, value in zip(("tcp", "tcpfin", "udp"), self.timeouts, strict=True) if value
        ]
        parts = [f"# {self.comment}\nglobal_defs {{\n script_user {self.script_user}\n"]
        parts += [f" lvs_timeouts{''.join(named)}\n"] if named else []
        parts += ["}\n", *(line for each in self.services for line in each.text())]
        parts += [line for each in self.routers for line in each.text()]
        if self.grouped and len(self.routers) > 1:
            parts += ["vrrp_sync_group S {\n group {\n", *(f"  V{each.number}\n" for each in self.routers), " }\n}\n"]
        return "".join(parts)

    def loaded(self) -> Loaded:
        """Return what the daemon reads of the file, on a machine that has the devices."""
        document, findings = read_text(self.text(), "test.conf")
        assert findings == ()
        devices = [Device(at, name, bytes(6), "", True, False, 1500, 0, 0, ()) for at, name in enumerate(DEVICES, 1)]
        compiled = compile_document(document, devices)
        wrong = [each for each in compiled.findings if each.refuses_reload]
        assert not wrong, f"{wrong[0]}\n{self.text()}"
        return Loaded(compiled.configuration, compiled.findings)

    @property
    def by_head(self) -> dict[tuple[object, ...], Service]:
        return {each.head_key: each for each in self.services}

    @property
    def keys(self) -> set[tuple[int, int, int]]:
        return {key for each in self.services for key in each.keys}


class Drawn:
    """Draws the pairs of one seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def pair(self) -> tuple[Configuration, Configuration]:
        """Return two configurations."""
        first = self.first()
        second = first
        for _ in range(self.rng.choice((0, 1, 1, 1, 2, 2, 3, 5))):
            second = self.rng.choice(EDITS)(self, second)
        return first, second

    def first(self) -> Configuration:
        rng, made = self.rng, Configuration(timeouts=self._timeouts())
        for _ in range(rng.choice((1, 2, 2, 3))):
            made = self.add_service(made)
        for _ in range(rng.choice((0, 1, 1, 2))):
            made = self.add_router(made)
        return replace(made, grouped=rng.random() < 0.3)

    def _timeouts(self) -> tuple[int, int, int]:
        rng = self.rng
        if rng.random() < 0.5:
            return 0, 0, 0
        return rng.choice((0, 0, 600)), rng.choice((0, 0, 60)), rng.choice((0, 0, 15, 30))

    def server(self, number: int, method: str) -> Server:
        rng = self.rng
        return Server(
            number,
            rng.choice((80, 80, 8080)) if method == "NAT" else rng.choice((80, 80, 0)),
            rng.choice((1, 1, 2, 5, 0)),
            rng.choice(("tcp", "tcp", "misc", "agent", "none")),
            rng.random() < 0.2,
        )

    def _entry(self, taken: set[tuple[int, int, int]]) -> tuple[int, int] | None:
        free = [(vip, port) for vip in VIPS for port in PORTS if (vip, port, 0) not in taken]
        return self.rng.choice(free) if free else None

    def add_service(self, before: Configuration) -> Configuration:
        rng, taken = self.rng, before.keys
        free = [mark for mark in MARKS if (0, 0, mark) not in taken]
        kind = rng.choice(("plain", "group", "group", "mark") if free else ("plain", "group"))
        entries: list[tuple[int, int]] = []
        for _ in range({"plain": 1, "mark": 0}.get(kind, rng.choice((1, 2, 2, 3)))):
            entry = self._entry(taken | {(*each, 0) for each in entries})
            entries += [entry] if entry else []
        marks = (rng.choice(free),) if kind == "mark" or (kind == "group" and free and rng.random() < 0.3) else ()
        if not entries and not marks:
            return before
        method = rng.choice(("DR", "DR", "TUN", "NAT"))
        servers = tuple(self.server(each, method) for each in rng.sample(SERVERS, rng.choice((1, 2, 3))))
        number = max((each.number for each in before.services), default=0) + 1
        made = Service(
            number,
            kind,
            tuple(entries),
            marks,
            method,
            rng.choice(("rr", "wrr", "wlc", "sh")),
            rng.choice((0, 0, 300)),
            rng.choice((1, 1, 2)),
            rng.random() < 0.3,
            servers=servers,
        )
        return replace(before, services=(*before.services, self.valid(made)))

    @staticmethod
    def valid(service: Service) -> Service:
        """Return the service with a quorum that its servers can reach."""
        total = sum(each.weight for each in service.servers)
        return replace(service, quorum=min(service.quorum, max(total, 1)))

    def add_router(self, before: Configuration) -> Configuration:
        rng = self.rng
        numbers = [each for each in ROUTERS if each not in {router.number for router in before.routers}]
        held = {each for router in before.routers for each in router.addresses}
        addresses = [each for each in ADDRESSES if each not in held]
        if not numbers or not addresses:
            return before
        number = rng.choice(numbers)
        chosen = tuple(rng.sample(addresses, min(len(addresses), rng.choice((1, 1, 2)))))
        made = Router(number, rng.choice(DEVICES), 50 + number, rng.choice((100, 150)), chosen)
        return replace(before, routers=(*before.routers, made))

    def one_service(self, before: Configuration, change: Callable[[Service], Service | None]) -> Configuration:
        """Change one service; None removes it."""
        if not before.services:
            return before
        chosen = self.rng.choice(before.services)
        after = change(chosen)
        if after is None:
            return replace(before, services=tuple(each for each in before.services if each is not chosen))
        services = tuple(self.valid(after) if each is chosen else each for each in before.services)
        return replace(before, services=services)

    def one_server(self, before: Configuration, change: Callable[[Service, Server], Server | None]) -> Configuration:
        """Change one server; None removes it, unless it is the last one."""

        def edit(service: Service) -> Service:
            chosen = self.rng.choice(service.servers)
            after = change(service, chosen)
            changed = [after if each is chosen else each for each in service.servers]
            kept = tuple(each for each in changed if each is not None)
            return replace(service, servers=kept or service.servers)

        return self.one_service(before, edit)

    def one_router(self, before: Configuration, change: Callable[[Router], Router | None]) -> Configuration:
        """Change one virtual router; None removes it."""
        if not before.routers:
            return before
        chosen = self.rng.choice(before.routers)
        changed = [change(each) if each is chosen else each for each in before.routers]
        return replace(before, routers=tuple(each for each in changed if each is not None))

    # --- edits ---

    def entries(self, before: Configuration) -> Configuration:
        """Add an entry to a group, or remove one."""

        def edit(service: Service) -> Service:
            if service.head != "group":
                return service
            many = len(service.entries) + len(service.marks) > 1
            if many and self.rng.random() < 0.5:
                every = [*service.entries, *service.marks]
                gone = self.rng.choice(every)
                entries = tuple(each for each in service.entries if each != gone)
                return replace(service, entries=entries, marks=tuple(each for each in service.marks if each != gone))
            entry = self._entry(before.keys)
            return service if entry is None else replace(service, entries=(*service.entries, entry))

        return self.one_service(before, edit)

    def weight(self, before: Configuration) -> Configuration:
        return self.one_server(before, lambda _, each: replace(each, weight=self.rng.choice((0, 1, 3, 7))))

    def check(self, before: Configuration) -> Configuration:
        checks = ("tcp", "misc", "agent", "none")
        return self.one_server(before, lambda _, each: replace(each, check=self.rng.choice(checks)))

    def inhibit(self, before: Configuration) -> Configuration:
        return self.one_server(before, lambda _, each: replace(each, inhibit=not each.inhibit))

    def remove_server(self, before: Configuration) -> Configuration:
        return self.one_server(before, lambda _, each: None)

    def add_server(self, before: Configuration) -> Configuration:
        def edit(service: Service) -> Service:
            free = [each for each in SERVERS if each not in {server.number for server in service.servers}]
            if not free:
                return service
            servers = list(service.servers)
            servers.insert(self.rng.randint(0, len(servers)), self.server(self.rng.choice(free), service.method))
            return replace(service, servers=tuple(servers))

        return self.one_service(before, edit)

    def remove_service(self, before: Configuration) -> Configuration:
        return before if len(before.services) < 2 else self.one_service(before, lambda _: None)

    def setting(self, before: Configuration) -> Configuration:
        rng = self.rng

        def edit(service: Service) -> Service:
            name, values = rng.choice(
                (
                    ("scheduler", ("rr", "wrr", "wlc", "sh")),
                    ("persistence", (0, 300, 600)),
                    ("quorum", (1, 2, 3)),
                    ("sorry", (True, False)),
                    ("delay_loop", (6, 8)),
                )
            )
            changed: dict[str, Any] = {name: rng.choice(values)}
            return replace(service, **changed)

        return self.one_service(before, edit)

    def method(self, before: Configuration) -> Configuration:
        return self.one_server(before, lambda _, each: replace(each, method=self.rng.choice(("DR", "TUN"))))

    def timeouts(self, before: Configuration) -> Configuration:
        return replace(before, timeouts=self._timeouts())

    def order(self, before: Configuration) -> Configuration:
        """Write the blocks in another order, and another comment."""
        services, routers = list(before.services), list(before.routers)
        self.rng.shuffle(services)
        self.rng.shuffle(routers)
        shuffled = (replace(each, servers=tuple(self.rng.sample(each.servers, len(each.servers)))) for each in services)
        return replace(before, services=tuple(shuffled), routers=tuple(routers), comment="another")

    def remove_router(self, before: Configuration) -> Configuration:
        return self.one_router(before, lambda _: None)

    def router(self, before: Configuration) -> Configuration:
        rng = self.rng
        name, values = rng.choice(
            (
                ("device", DEVICES),
                ("priority", (90, 100, 200)),
                ("advert_int", (1, 2)),
                ("preempt", (True, False)),
                ("addresses", None),
            )
        )
        if values is not None:
            changed: dict[str, Any] = {name: rng.choice(values)}
            return self.one_router(before, lambda each: replace(each, **changed))
        held = {each for router in before.routers for each in router.addresses}
        free = [each for each in ADDRESSES if each not in held]

        def edit(router: Router) -> Router:
            if free and (len(router.addresses) < 2 or rng.random() < 0.5):
                return replace(router, addresses=(*router.addresses, rng.choice(free)))
            return replace(router, addresses=router.addresses[1:] or router.addresses)

        return self.one_router(before, edit)

    def grouping(self, before: Configuration) -> Configuration:
        return replace(before, grouped=not before.grouped)


Edit = Callable[[Drawn, Configuration], Configuration]
EDITS: tuple[Edit, ...] = (
    *(Drawn.entries,) * 4,
    *(Drawn.weight,) * 3,
    Drawn.check,
    Drawn.inhibit,
    *(Drawn.remove_server,) * 2,
    *(Drawn.add_server,) * 2,
    Drawn.add_service,
    Drawn.remove_service,
    *(Drawn.setting,) * 3,
    Drawn.method,
    *(Drawn.timeouts,) * 2,
    *(Drawn.order,) * 2,
    Drawn.add_router,
    Drawn.remove_router,
    *(Drawn.router,) * 4,
    Drawn.grouping,
)

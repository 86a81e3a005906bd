"""Random configurations, and random changes of them for reloads.

Service number N has the name `web-N` or `www-N` and the address 192.0.2.N, so both have its number. A service or
server has scripts in every configuration of a simulation or in none. Each script's name tells its subject.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import ip_address

from pylvs.model.addresses import Address
from pylvs.model.checks import AgentCheck, Check, HttpCheck, MiscCheck, Pace, Script, Target, TcpCheck, Url
from pylvs.model.dataclass import replace
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey, Timeouts
from pylvs.model.wanted import Configuration, GlobalSettings, WantedServer, WantedService

SERVICES, SERVERS = 4, 5  # numbers of services, and of real servers: 10.0.0.N
SORRY = 200  # the sorry server of service N is 10.0.0.(200 + N)


def vip(number: int) -> Address:
    """Return the name of service number N."""
    return ip_address(f"192.0.2.{number}")


def number_of(name: str) -> int:
    """Return the number in a service's name."""
    return int(name.rpartition("-")[2])


def real(number: int) -> DestinationKey:
    """Return the key of real server number N."""
    return DestinationKey(ip_address(f"10.0.0.{number}"), 80)


def last_octet(key: DestinationKey) -> int:
    """Return the number of a real server."""
    return key.address.packed[-1]


class Drawn:
    """Draws the configurations of one seed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.notified = rng.random() < 0.8  # whether there are scripts at all
        self.exclusive = rng.random() < 0.06
        self.flush = rng.random() < 0.05
        self.via_vip = rng.random() < 0.1
        self.shared = rng.random() < 0.25
        self.dynamic = rng.random() < 0.5  # checks that set weights
        self.misc = rng.random() < 0.5  # checks that run scripts
        self.hands_off = not (self.exclusive or self.flush)  # services of others are let be

    def first(self) -> Configuration:
        """Draw the first configuration."""
        rng = self.rng
        numbers = rng.sample(range(1, SERVICES + 1), rng.choice((1, 1, 2, 2, 3)))
        return Configuration(tuple(self.service(number) for number in numbers), self.settings())

    def settings(self) -> GlobalSettings:
        """Draw global settings."""
        rng = self.rng
        return GlobalSettings(
            exclusive=self.exclusive and rng.random() < 0.5,
            lvs_flush=self.flush and rng.random() < 0.5,
            lvs_flush_on_stop="all" if self.flush and rng.random() < 0.5 else "",
            lvs_timeouts=Timeouts(900, rng.choice((60, 120)), 300) if rng.random() < 0.2 else None,
            script_user=rng.choice(("", "", "", "probe")),
        )

    def service(self, number: int) -> WantedService:
        """Draw a `virtual_server`."""
        rng = self.rng
        alpha = rng.random() < 0.25
        chosen = rng.sample(range(1, SERVERS + 1), rng.choice((1, 1, 2, 2, 3, 4)))
        servers = tuple(self.server(number, each, alpha) for each in chosen)
        total = sum(each.destination.weight for each in servers)
        quorum = rng.randint(1, max(total, 1)) if rng.random() < 0.6 else 1
        sorry: Destination | None = None
        if rng.random() < 0.5:
            sorry = Destination(real(SORRY + number), weight=rng.choice((1, 1, 3)))
            if rng.random() < 0.05:
                sorry = Destination(rng.choice(servers).destination.key)
        return WantedService(
            f"web-{number}",
            self.keys(number),
            scheduler=rng.choice(("wlc", "rr", "sh")),
            servers=servers,
            sorry_server=sorry,
            sorry_server_inhibit=rng.random() < 0.2,
            quorum=quorum,
            hysteresis=rng.randint(0, quorum - 1) if rng.random() < 0.5 else 0,
            quorum_up=self.script("quorum", f"web-{number}", "", "up"),
            quorum_down=self.script("quorum", f"web-{number}", "", "down"),
            alpha=alpha,
            omega=rng.random() < 0.3,
            ha_suspend=rng.random() < 0.2,
            virtualhost=rng.choice(("", "", "example.org")),
        )

    def keys(self, number: int) -> tuple[ServiceKey, ...]:
        """Draw one key, or those of a group."""
        first = ServiceKey(Protocol.TCP, vip(number), 80)
        second = ServiceKey(Protocol.TCP, vip(number), 443)
        third = ServiceKey.of_mark(100 + number)
        return self.rng.choice(((first,), (first,), (first,), (first, second), (second,), (first, third)))

    def server(self, service: int, number: int, alpha: bool) -> WantedServer:
        """Draw a `real_server`."""
        rng = self.rng
        alpha = alpha or rng.random() < 0.1
        checks: list[Check] = []
        for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
            check = self.check(service, number, alpha)
            if check not in checks:
                checks.append(check)
        return WantedServer(
            Destination(real(number), weight=rng.choice((0, 1, 1, 1, 2, 3, 5))),
            tuple(checks),
            inhibit_on_failure=rng.random() < 0.3,
            alpha=alpha,
            notify_up=self.script("server", f"web-{service}", str(number), "up"),
            notify_down=self.script("server", f"web-{service}", str(number), "down"),
        )

    def check(self, service: int, number: int, alpha: bool) -> Check:
        """Draw a checker of a real server."""
        rng = self.rng
        shared = self.shared and rng.random() < 0.7
        pace = Pace(
            delay_loop_s=rng.choice((2.0, 2.5, 3.0) if not shared else (2.0,)),
            timeout_s=rng.choice((0.5, 1.0) if not shared else (1.0,)),
            retry=rng.choice((0, 1, 1, 2) if not shared else (1,)),
            delay_before_retry_s=rng.choice((0.5, 1.0) if not shared else (0.5,)),
            warmup_s=rng.choice((0.0, 1.0, 3.0) if not shared else (1.0,)),
            alpha=alpha,
            shared=shared,
        )
        target = Target(real(number).address, 80, via_vip=self.via_vip and rng.random() < 0.5)
        kind = rng.random()
        if kind < 0.25 and self.dynamic:
            return AgentCheck(pace=pace, target=target)
        if kind < 0.5 and self.misc:
            script = Script(("misc", str(service), str(number)))
            return MiscCheck(pace=pace, script=script, dynamic=self.dynamic and rng.random() < 0.5)
        if kind < 0.7:
            urls = tuple(Url(f"/{each}") for each in range(rng.choice((1, 2))))
            return HttpCheck(pace=pace, target=target, urls=urls, fast_recovery=rng.random() < 0.5)
        return TcpCheck(pace=pace, target=target)

    def script(self, kind: str, service: str, server: str, direction: str) -> Script | None:
        """Return a script, the same for the same arguments."""
        if not self.notified or (number_of(service) + len(kind) + len(direction)) % 5 == 0:
            return None
        return Script(("notify", kind, service, server, direction))

    def _named(self, service: WantedService, name: str) -> WantedService:
        """Return the service with another name, and with the scripts of that name."""
        servers = (
            replace(
                each,
                notify_up=self.script("server", name, str(last_octet(each.destination.key)), "up"),
                notify_down=self.script("server", name, str(last_octet(each.destination.key)), "down"),
            )
            for each in service.servers
        )
        return replace(
            service,
            name=name,
            servers=tuple(servers),
            quorum_up=self.script("quorum", name, "", "up"),
            quorum_down=self.script("quorum", name, "", "down"),
        )

    # --- reloads ---

    def changed(self, before: Configuration) -> Configuration:
        """Draw a configuration that differs from this one."""
        configuration = before
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            kinds: tuple[Callable[[Configuration], Configuration], ...] = (
                *(self._another_server,) * 3,
                *(self._another_service,) * 3,
                self._other_settings,
                self._services_come_and_go,
                self._other_order,
            )
            configuration = self.rng.choice(kinds)(configuration)
        return configuration

    def _other_settings(self, before: Configuration) -> Configuration:
        return replace(before, settings=self.settings())

    def _other_order(self, before: Configuration) -> Configuration:
        services = list(before.services)
        self.rng.shuffle(services)
        return replace(before, services=tuple(services))

    def _services_come_and_go(self, before: Configuration) -> Configuration:
        services = list(before.services)
        taken = {number_of(each.name) for each in services}
        free = [number for number in range(1, SERVICES + 1) if number not in taken]
        if free and (len(services) < 2 or self.rng.random() < 0.5):
            services.insert(self.rng.randint(0, len(services)), self.service(self.rng.choice(free)))
        elif len(services) > 1:
            services.pop(self.rng.randrange(len(services)))
        return replace(before, services=tuple(services))

    def _another_service(self, before: Configuration) -> Configuration:
        if not before.services:
            return before
        rng = self.rng
        at = rng.randrange(len(before.services))
        old = before.services[at]
        new = self.service(number_of(old.name))
        fields = rng.sample(
            (
                "keys",
                "scheduler",
                "servers",
                "sorry_server",
                "sorry_server_inhibit",
                "quorum",
                "name",
                "omega",
                "ha_suspend",
                "virtualhost",
            ),
            rng.choice((1, 1, 2)),
        )
        values = {name: getattr(new, name) for name in fields}
        if "quorum" in fields:
            values["hysteresis"] = new.hysteresis
        name = f"{rng.choice(('web', 'www'))}-{number_of(old.name)}" if "name" in fields else old.name
        found = self._named(replace(old, **values), name)
        return replace(before, services=(*before.services[:at], found, *before.services[at + 1 :]))

    def _another_server(self, before: Configuration) -> Configuration:
        if not before.services:
            return before
        rng = self.rng
        at = rng.randrange(len(before.services))
        old = before.services[at]
        number = number_of(old.name)
        servers = list(old.servers)
        present = {last_octet(each.destination.key) for each in servers}
        free = [each for each in range(1, SERVERS + 1) if each not in present]
        kind = rng.random()
        if kind < 0.3 and free:
            servers.append(self.server(number, rng.choice(free), old.alpha))
        elif kind < 0.5 and servers:
            servers.pop(rng.randrange(len(servers)))
        elif servers:
            index = rng.randrange(len(servers))
            was = servers[index]
            new = self.server(number, last_octet(was.destination.key), old.alpha)
            names = rng.sample(("destination", "checks", "inhibit_on_failure"), rng.choice((1, 1, 2)))
            servers[index] = replace(was, **{name: getattr(new, name) for name in names})
        found = self._named(replace(old, servers=tuple(servers)), old.name)
        return replace(before, services=(*before.services[:at], found, *before.services[at + 1 :]))

"""What a seed decides: the routers, their configuration, their clocks, and every fault with its time.

Times are seconds of the simulation. All lengths are multiples of the longest advertisement interval of the routers. So
a virtual router with an interval of 50 ms gets into the same situations as one with 2 s.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from itertools import permutations

from pylvs.model.addresses import Address
from pylvs.model.checks import Script
from pylvs.model.dataclass import dataclass, replace
from pylvs.model.routing import HeldAddress
from pylvs.model.vrrp import (
    MULTICAST_V4,
    MULTICAST_V6,
    OWNER,
    Announcements,
    Authentication,
    Peer,
    SendingLimit,
    Track,
    Tracks,
    VrrpConfiguration,
    VrrpGroup,
    VrrpInstance,
    VrrpScript,
    VrrpSettings,
)

FOREVER = math.inf
MAX_DRIFT = 0.03  # of a clock
SCRIPT, NEW_SCRIPT = "chk", "new"
DOWN_KINDS = ("kill", "stop", "off")  # faults during which no process runs on the host
LINK_KINDS = ("cut", "loss", "delay")
KINDS = (
    *("cut",) * 4,
    *("loss",) * 3,
    *("delay",) * 3,
    *("stall",) * 3,
    *("kill",) * 2,
    *("stop",) * 2,
    "off",
    *("carrier",) * 2,
    "admin",
    *("script",) * 2,
    "remove",
    "reload",
    "yield",
)

Pairs = tuple[tuple[int, int], ...]  # sender and receiver


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault from `begin` to `end`, of `host` or of the links `pairs`, on network `lan`."""

    kind: str
    begin: float
    end: float
    host: int = -1
    lan: int = 0
    pairs: Pairs = ()
    value: float = 0.0  # probability of loss, longest delay, new priority
    second: float = 0.0  # probability of duplication

    @property
    def tracks_more(self) -> bool:
        """Return whether a reload adds a track_script, whose first result comes at the end of the fault."""
        return self.kind == "reload" and int(self.value) % 2 == 1

    def __str__(self) -> str:
        until = "to the end" if self.end == FOREVER else f"to {self.end:.4f}"
        span = f"{self.begin:9.4f} {until:>13}"
        if self.kind in LINK_KINDS:
            links = " ".join(f"r{sender}>r{receiver}" for sender, receiver in self.pairs)
            more = {
                "cut": "",
                "loss": f" of {self.value:.0%}",
                "delay": f" up to {self.value:.4f} s, {self.second:.0%} duplicated",
            }[self.kind]
            return f"{span}  {self.kind}{more} on lan{self.lan}: {links}"
        details = {
            "carrier": f" of eth{self.lan} lost",
            "admin": f": eth{self.lan} set down",
            "remove": " of an address",
        }
        if self.kind == "reload":
            more = f", tracks {NEW_SCRIPT}, known at {self.end:.4f}" if self.tracks_more else ""
            return f"{self.begin:9.4f} {'':>13}  reload r{self.host}: priority {self.value:.0f}{more}"
        return f"{span}  {self.kind} r{self.host}{details.get(self.kind, '')}"


@dataclass(slots=True)
class HostPlan:
    """One router: when it starts, its clock, and its configuration."""

    starts_at: float
    rate: float  # seconds of its clock in one of the simulation
    offset: float
    configuration: VrrpConfiguration
    sources: tuple[Address, ...]  # by network


@dataclass(slots=True)
class Plan:
    """Everything that a seed decides."""

    seed: int
    hosts: list[HostPlan]
    lans: int
    faults: list[Fault]
    heals_at: float
    delay_s: tuple[float, float] = (0.0, 0.0)  # of the whole network: least, and how much more at most
    unit_s: float = 1.0  # the longest advertisement interval
    describe: Callable[[list[HostPlan]], list[str]] = lambda _: []

    def __str__(self) -> str:
        return "\n".join(self.describe(self.hosts))


@lru_cache(maxsize=4096)
def address(text: str) -> Address:
    """Parse an address, each once in all seeds."""
    return ip_address(text)


@lru_cache(maxsize=4096)
def interface(text: str) -> IPv4Interface | IPv6Interface:
    """Parse an address with its prefix, once for each text."""
    return ip_interface(text)


def make(seed: int) -> Plan:
    """The plan of a seed."""
    return _Maker(seed).make()


class _Maker:
    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._random = random.Random(seed)
        draw = self._random
        self._count = draw.choice((2, 2, 2, 3, 3, 3, 4, 5))
        self._family = draw.choice((4, 4, 6))
        self._version = 3 if self._family == 6 else draw.choice((2, 3))
        self._unicast = draw.random() < 0.3
        # "group": two virtual routers in a sync group on two networks. "two": two on one network, without a group.
        self._shape = draw.choices(("one", "group", "two"), (80, 12, 8))[0]
        self._lans = 2 if self._shape == "group" else 1
        self._unit_s = float(draw.choice((1, 1, 2))) if self._version == 2 else draw.choice((0.05, 0.1, 0.5, 1.0, 2.0))
        self._authentication = draw.choice((None, None, None, *Authentication)) if self._version == 2 else None
        self._addresses = draw.randint(1, 3)
        weight = draw.choice((-50, -20, 20, 50, 0))
        self._track = Track(SCRIPT, weight, reverse=weight != 0 and draw.random() < 0.1)
        self._announcements = Announcements(
            repeat=draw.choice((1, 2, 5)),
            delay_s=draw.choice((0, 1, 1, 5)),
            refresh_s=draw.choice((0, 0, 0, 1, 3)),
            lower_priority_repeat=draw.choice((0, 1, 5)),
            lower_priority_delay_s=draw.choice((0, 1)),
        )
        self._limit_s = draw.choice((0.0,) * 7 + (0.01,))

    def make(self) -> Plan:
        draw = self._random
        unit = self._unit_s
        heals_at = unit * draw.uniform(5, 16)
        faults = self._faults(heals_at)
        hosts = self._hosts()
        least = unit * draw.choice((0.0001, 0.001, 0.05))
        delay_s = least, least * draw.choice((0, 0.5, 3))
        return Plan(self._seed, hosts, self._lans, faults, heals_at, delay_s, unit, self._describe)

    # --- routers ---

    def _hosts(self) -> list[HostPlan]:
        draw = self._random
        policy = draw.choice(("different", "different", "equal", "owner", "few"))
        preempt = draw.choice(("yes", "yes", "yes", "no", "mixed", "delay"))
        lower_unanswered, higher_answered = draw.random() < 0.15, draw.random() < 0.7
        sources = self._sources()
        hosts = []
        for number in range(self._count):
            base = self._priority(policy, number)
            patient = preempt == "delay" and base != OWNER
            common = VrrpInstance(
                name="VI_1",
                vrid=51,
                family=self._family,
                version=self._version,
                priority=base,
                advert_interval_s=self._interval(),
                preempt=preempt in ("yes", "delay") or (preempt == "mixed" and draw.random() < 0.5),
                preempt_delay_s=self._unit_s * draw.choice((0.5, 2, 5)) if patient else 0.0,
                authentication=self._authentication,
                password=b"secret" if self._authentication else b"",
                multicast=MULTICAST_V4 if self._family == 4 else MULTICAST_V6,
                announcements=self._announcements,
                lower_priority_unanswered=lower_unanswered,
                higher_priority_answered=higher_answered,
                starts_as_master=draw.random() < 0.5,  # which counts for an owner alone
                tracks=Tracks() if self._shape == "group" else Tracks(scripts=(self._track,)),
            )
            starts_at = self._unit_s * (draw.uniform(0, 3) if draw.random() < 0.3 else draw.uniform(0, 0.1))
            rate = 1 + draw.uniform(-MAX_DRIFT, MAX_DRIFT) * draw.choice((0, 0.01, 1))
            configuration = self._configuration(common, number, sources)
            hosts.append(HostPlan(starts_at, rate, draw.uniform(0, 1000), configuration, tuple(sources[number])))
        return hosts

    def _configuration(self, common: VrrpInstance, number: int, sources: list[list[Address]]) -> VrrpConfiguration:
        instances = []
        for index in range(1 if self._shape == "one" else 2):
            lan = index if self._shape == "group" else 0
            priority = common.priority
            if self._shape == "two" and index and priority != OWNER:
                priority = 255 - priority  # the other router has the higher priority for the second one
            peers = [each[lan] for at, each in enumerate(sources) if at != number] if self._unicast else []
            instances.append(
                replace(
                    common,
                    name=f"VI_{index + 1}",
                    vrid=51 + index,
                    interface=f"eth{lan}",
                    priority=priority,
                    addresses=self._virtual(index, lan),
                    excluded=self._excluded(index, lan),
                    peers=tuple(Peer(each) for each in peers),
                )
            )
        groups: tuple[VrrpGroup, ...] = ()
        if self._shape == "group":
            group = VrrpGroup(name="VG", members=("VI_1", "VI_2"), tracks=Tracks(scripts=(self._track,)))
            groups = (group,)
        limits = (SendingLimit(devices=(), arp_s=self._limit_s, neighbour_s=self._limit_s),) if self._limit_s else ()
        return VrrpConfiguration(
            instances=tuple(instances),
            groups=groups,
            scripts=(VrrpScript(name=SCRIPT, script=Script(("/bin/true",)), track=self._track),),
            settings=VrrpSettings(limits=limits),
        )

    def _sources(self) -> list[list[Address]]:
        """Each router's address on each network, in one order: a sync group cannot settle ties in two orders."""
        numbers = self._random.sample(range(1, 50), self._count)
        pattern = "10.0.{}.{}" if self._family == 4 else "fe80::{}:{}"
        return [[address(pattern.format(lan, number)) for lan in range(self._lans)] for number in numbers]

    def _virtual(self, index: int, lan: int) -> tuple[HeldAddress, ...]:
        if self._family == 4:
            made = [f"10.0.{lan}.{100 + 10 * index + each}/24" for each in range(self._addresses)]
        else:
            made = [f"fe80::{lan}:{index + 1}00/64"]  # RFC 9568, 5.2.9: the first one is link-local
            made += [f"fd00:{lan}::{index}:{each}/64" for each in range(1, self._addresses)]
        return tuple(HeldAddress(interface=interface(each)) for each in made)

    def _excluded(self, index: int, lan: int) -> tuple[HeldAddress, ...]:
        """One address of the other family, which the advertisements leave out."""
        if self._addresses != 3:
            return ()
        other = f"fd00:{lan}:e::{index + 1}/64" if self._family == 4 else f"10.1.{lan}.{100 + index}/24"
        return (HeldAddress(interface=interface(other)),)

    def _priority(self, policy: str, number: int) -> int:
        draw = self._random
        if policy == "owner" and (number == 0 or draw.random() < 0.02):
            return OWNER
        if policy == "equal":
            return 100
        return draw.choice((90, 100, 110)) if policy == "few" else draw.randint(1, 254)

    def _interval(self) -> float:
        """Routers of version 3 may differ: a backup takes over the master's interval (RFC 9568, 6.1)."""
        if self._version == 3 and self._random.random() < 0.1:
            return max(0.01, round(self._unit_s / self._random.choice((2, 4)), 2))
        return self._unit_s

    # --- faults ---

    def _faults(self, heals_at: float) -> list[Fault]:
        draw = self._random
        faults = []
        lost: set[int] = set()  # hosts that do not return
        for _ in range(draw.choice((0, 1, 2, 3, 4, 5, 6, 8))):
            kind = draw.choice(KINDS)
            begin = draw.uniform(0, heals_at)
            end = min(heals_at, begin + self._unit_s * draw.choice((0.3, 1, 3, 6)) * draw.uniform(0.3, 1.5))
            fault = self._fault(kind, begin, end)
            if fault.kind in ("stop", "off", "carrier", "admin") and draw.random() < 0.25:
                if len(lost | {fault.host}) < self._count:  # one router at least runs at the end
                    lost.add(fault.host)
                    fault = replace(fault, end=FOREVER)
            elif fault.kind == "script" and self._track.weight and draw.random() < 0.3:
                fault = replace(fault, end=FOREVER)
            faults.append(fault)
        faults.sort(key=lambda fault: fault.begin)
        return faults

    def _fault(self, kind: str, begin: float, end: float) -> Fault:
        draw = self._random
        host, lan = draw.randrange(self._count), draw.randrange(self._lans)
        if kind not in LINK_KINDS:
            value = float(draw.randint(1, 254)) if kind == "reload" else end - begin
            return Fault(kind, begin, end, host=host, lan=lan, value=value)
        value = draw.choice((0.1, 0.5, 0.9)) if kind == "loss" else self._unit_s * draw.choice((0.05, 0.5, 2))
        return Fault(kind, begin, end, lan=lan, pairs=self._pairs(), value=value, second=draw.choice((0, 0.1, 0.5)))

    def _pairs(self) -> Pairs:
        """Links in one direction: between two sides both ways, from one side to the other, or any of them."""
        draw = self._random
        every = tuple(permutations(range(self._count), 2))
        shape = draw.choice(("sides", "sides", "one way", "any", "all"))
        if shape == "all":
            return every
        if shape == "any":
            return tuple(sorted(draw.sample(every, draw.randint(1, len(every)))))
        side = set(draw.sample(range(self._count), draw.randint(1, self._count - 1)))
        both = shape == "sides"
        return tuple(
            (a, b) for a, b in every if (a in side and b not in side) or (both and b in side and a not in side)
        )

    def _describe(self, hosts: list[HostPlan]) -> list[str]:
        first = hosts[0].configuration.instances[0]
        how = "unicast" if self._unicast else "multicast"
        proof = f", {self._authentication.value}" if self._authentication else ""
        lines = [f"VRRPv{self._version} over IPv{self._family}, {how}{proof}, {self._shape}: {first.announcements}"]
        for number, host in enumerate(hosts):
            for instance in host.configuration.instances:
                preempt = "preempt" if instance.preempt else "nopreempt"
                if instance.preempt_delay_s:
                    preempt += f" after {instance.preempt_delay_s:g} s"
                lines.append(
                    f"r{number} {instance.name} on {instance.interface}: priority {instance.priority}, every "
                    f"{instance.advert_interval_s:g} s, {preempt}, {host.sources[int(instance.interface[-1])]}, starts "
                    f"at {host.starts_at:.4f}, clock x {host.rate:.4f}"
                )
        weight = self._track.weight
        lines.append(f"track_script: weight {weight}{' reverse' if self._track.reverse else ''}")
        return lines

"""Evaluate the rules that `nft -j list ruleset` prints (libnftables-json(5)).

A condition that is not known here makes a rule uncertain, and so what follows it: then the decision is UNKNOWN.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_network
from math import inf
from typing import Any

from pylvs.doctor.packet_filter.packet import (
    ICMP6_TYPES,
    PASSED,
    PROTOCOLS,
    WITH_PORTS,
    Decision,
    Limit,
    Maybe,
    Packet,
    Translation,
    Verdict,
    address_or_none,
    both,
    either,
    same_device,
    turned,
)
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation

PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
OF_IPTABLES = {"filter", "nat", "mangle", "raw", "security"}
_PORT = re.compile(r'"field": "dport"}}, "right": (\d+)')
_DEPTH = 16  # jumps within jumps, as in the kernel
_WITHOUT_EFFECT = {"counter", "log", "comment", "map", "dup", "flow", "last"}
_PER_ELEMENT = {"set", "meter"}  # statements that may apply a limit to each element
_LIMITS = {"limit", "quota", "ct count"}
_CONDITIONS = {"match", "xt", "connlimit"} | _PER_ELEMENT | _LIMITS
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_TAKING = {"dnat", "redirect", "tproxy", "synproxy"}  # the packet gets another address, or a proxy has it
_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
_VERSIONS = {4: "ipv4", 6: "ipv6"}
_ETHERTYPES = {4: ("ip", 0x0800), 6: ("ip6", 0x86DD)}
_OWN_TABLES = ("pylvs", "keepalived")  # rules of virtual routers
_OUTWARD = ("forward", "output", "postrouting", "egress")
_NUMBERS = PROTOCOLS | ICMP6_TYPES
_STATES = {True: "new", False: "established"}
Object = Mapping[str, Any]


class _Unknown(Exception):
    """A condition cannot be evaluated. The text is the rule with it, if a verdict depends on that."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain with its rules; a base chain has a hook."""

    family: str
    table: str
    name: str
    hook: str
    priority: int
    policy: str
    kind: str
    devices: tuple[str, ...]
    rules: tuple[Object, ...]

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.name}"


class Ruleset:
    """The rules of this network namespace."""

    def __init__(self, text: str) -> None:
        """Parse what nft prints. Raises InvalidOperation."""
        try:
            listed = [next(iter(each.items())) for each in json.loads(text)["nftables"]]
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
            raise InvalidOperation("not what nft -j list ruleset prints") from None
        self._text = text
        rules: dict[tuple[str, str, str], list[Object]] = {}
        self._sets: dict[tuple[str, str, str], Object] = {}
        for kind, found in listed:
            if kind == "rule":
                rules.setdefault((found["family"], found["table"], found["chain"]), []).append(found)
            elif kind in ("set", "map"):
                self._sets[found["family"], found["table"], found["name"]] = found
            elif kind in _LIMITS:
                self._sets[found["family"], found["table"], f"{kind} {found['name']}"] = found
        self._chains = {
            key: _chain(found, rules.get(key, ()))
            for kind, found in listed
            if kind == "chain"
            for key in [(found["family"], found["table"], found["name"])]
        }

    def has_table(self, family: str, name: str) -> bool:
        """Return whether a table with a chain is there."""
        return any(key[:2] == (family, name) for key in self._chains)

    def base_chains(self, hook: str, families: Iterable[str]) -> list[Chain]:
        """Return the base chains of a hook, in the order in which packets pass them."""
        wanted = set(families)
        found = [each for each in self._chains.values() if each.hook == hook and each.family in wanted]
        return sorted(found, key=lambda each: each.priority)

    def decision(self, chain: Chain, packet: Packet, vip: str = "", tracked: bool = True) -> Decision:
        """Return what a base chain decides on a packet; `vip` is the address that a rule may name.

        `tracked`: no chain before has the packet left out of connection tracking.
        """
        walk = _Walk(self._chains, self._sets, packet, vip, chain, tracked)
        try:
            decided = walk.chain(chain, 0)
        except _Unknown as error:
            return Decision(Verdict.UNKNOWN, str(error))
        if decided is not None:
            return decided
        if chain.policy != "drop":
            return PASSED
        text, limits = f"the policy of chain {chain} is drop", tuple(walk.limits)
        return Decision(Verdict.DROP, text, accept=accepting(chain, packet, vip), limits=limits)

    def tracks(self, chain: Chain, packet: Packet) -> bool:
        """Return whether connection tracking sees a packet that has passed a base chain."""
        walk = _Walk(self._chains, self._sets, packet, "", chain)
        with suppress(_Unknown):
            walk.chain(chain, 0)
        return walk.tracked

    def translation(self, chain: Chain, packet: Packet) -> Translation | None:
        """Return what a base chain makes of a packet's destination; None: nothing, or it cannot be known."""
        walk = _Walk(self._chains, self._sets, packet, "", chain)
        try:
            walk.chain(chain, 0)
        except _Unknown:
            return None
        if walk.taken is None:
            return None
        rule, kind, content = walk.taken
        named = content if isinstance(content, Mapping) else {}
        address, port = named.get("addr"), named.get("port", packet.dport)
        target = address_or_none(address) if kind == "dnat" else None
        if not isinstance(port, int) or (kind == "dnat" and address is not None and target is None):
            return None
        if kind == "dnat" and target is None:
            target = packet.daddr
        return Translation(target, port, f"{described(rule)} has the verdict {kind}", removing(rule))

    def translated_ports(self) -> set[int]:
        """Return the ports that rules with dnat or redirect name."""
        found = set[int]()
        for chain in self._chains.values():
            for rule in chain.rules:
                text = json.dumps(rule.get("expr", ()))
                if '"dnat"' in text or '"redirect"' in text:
                    found |= {int(number) for number in _PORT.findall(text)}
        return found

    def rules_naming(self, address: str) -> Iterator[tuple[Chain, Object]]:
        """Yield the rules that name an address, directly or in a set."""
        if f'"{address}"' not in self._text:
            return
        for chain in self._chains.values():
            for rule in chain.rules:
                if self.names(chain, rule, address):
                    yield chain, rule

    def dropping(self, packet: Packet, vip: str, is_known: Callable[[Chain], bool]) -> Iterator[Decision]:
        """Yield the rules that name an address and would drop this packet of some client."""
        for chain, rule in self.rules_naming(vip):
            if is_known(chain) or chain.table.startswith(_OWN_TABLES) or chain.hook in _OUTWARD:
                continue
            parts = [next(iter(each.items())) for each in rule.get("expr", ())]
            walk = _Walk(self._chains, self._sets, packet, vip, chain)
            holds = both(walk.condition(kind, content, chain) for kind, content in parts if _is_of_all(kind, content))
            if holds is not False and any(kind in ("drop", "reject") for kind, _ in parts):
                yield walk.drop(chain, rule, next(kind for kind, _ in parts if kind in ("drop", "reject")))

    def names(self, chain: Chain, rule: Object, address: str) -> bool:
        """Return whether a rule names an address itself, not a network around it."""
        text = json.dumps(rule.get("expr", ()))
        sets = [each for key, each in self._sets.items() if key[:2] == (chain.family, chain.table)]
        named = [each for each in sets if f'"@{each["name"]}"' in text]
        return f'"{address}"' in text or any(f'"{address}"' in json.dumps(each.get("elem", ())) for each in named)


def accepting(chain: Chain, packet: Packet, vip: str) -> str:
    """Return the command that lets packets as this one pass a base chain."""
    words = []
    if packet.arp:
        words = [f"arp daddr ip {packet.daddr}" if packet.iif else f"arp saddr ip {packet.saddr}"]
    else:
        family = "ip" if packet.daddr.version == 4 else "ip6"
        side = "saddr" if vip and str(packet.saddr) == vip else "daddr"
        words.append(f"{family} {side} {getattr(packet, side)}")
        names = {number: name for name, number in PROTOCOLS.items()}
        port = packet.sport if side == "saddr" else packet.dport
        if packet.protocol in WITH_PORTS and port:
            words.append(f"{names[packet.protocol]} {'sport' if side == 'saddr' else 'dport'} {port}")
        elif packet.icmp_type >= 0:
            words = [f"icmpv6 type {packet.icmp_type}"]
        elif packet.protocol not in WITH_PORTS:
            words.append(f"meta l4proto {packet.protocol}")
    return f"nft insert rule {chain} {' '.join(words)} accept"


def described(rule: Object) -> str:
    """Return a rule in words: where it is, and its number."""
    return f"rule {rule.get('handle', '?')} of chain {rule['family']} {rule['table']} {rule['chain']}"


def removing(rule: Object) -> str:
    """Return the command that removes a rule."""
    return f"nft delete rule {rule['family']} {rule['table']} {rule['chain']} handle {rule.get('handle')}"


def _chain(found: Object, rules: Sequence[Object]) -> Chain:
    priority = found.get("prio", 0)
    devices = found.get("dev", ())
    return Chain(
        found["family"],
        found["table"],
        found["name"],
        found.get("hook", ""),
        priority if isinstance(priority, int) else PRIORITIES.get(priority, 0),
        found.get("policy", "accept"),
        found.get("type", ""),
        (devices,) if isinstance(devices, str) else tuple(devices),
        tuple(rules),
    )


class _Walk:
    """One packet on its way through the chains of a base chain."""

    def __init__(
        self,
        chains: Mapping[tuple[str, str, str], Chain],
        sets: Mapping[tuple[str, str, str], Object],
        packet: Packet,
        vip: str,
        base: Chain,
        tracked: bool = True,
    ) -> None:
        self._chains, self._sets, self._packet, self._vip, self._base = chains, sets, packet, vip, base
        self.taken: tuple[Object, str, Any] | None = None  # the rule that translates the destination
        self._mark: int | None = 0
        self.tracked = tracked
        self.limits = list[Limit]()  # that the packet exceeds

    def chain(self, chain: Chain, depth: int) -> Decision | None:
        """Return the decision of a chain; None at its end. Raises _Unknown."""
        if depth > _DEPTH:
            raise _Unknown
        for rule in chain.rules:
            decided, ends = self._rule(chain, rule, depth)
            if decided is not None or ends:
                return decided
        return None

    def _rule(self, chain: Chain, rule: Object, depth: int) -> tuple[Decision | None, bool]:
        """Return the decision of a rule, and whether its chain ends. Raises _Unknown."""
        holds: Maybe = True
        for part in rule.get("expr", ()):
            kind, content = next(iter(part.items()))
            if kind in _CONDITIONS and not self._is_target(part):
                limited = self._limited(kind, content, chain, rule)
                holds = both((holds, self.condition(kind, content, chain) if limited is None else limited))
                if holds is False:
                    return None, False
            elif kind in _WITHOUT_EFFECT:
                continue
            elif kind == "mangle":
                self._mark = None  # rules on marks cannot be known from here on
            elif kind == "notrack":
                self.tracked = False
            elif holds is None:
                raise _Unknown(f"{described(rule)} may have the verdict {kind}")
            else:
                return self._statement(kind, content, chain, rule, depth)
        return None, False

    def _limited(self, kind: str, content: Any, chain: Chain, rule: Object) -> bool | None:
        """Return whether a condition of rate, number or chance holds, and note a limit that is exceeded; None: another.

        One packet alone is below each limit.
        """
        if kind in _PER_ELEMENT:
            statements = content.get("stmt", []) if isinstance(content, Mapping) else []
            found = [each for each in _listed(statements) if each.keys() & _LIMITS]
            if not found:
                return True
            kind, content = next(iter(found[0].items()))
        if kind == "match" and '"numgen"' in json.dumps(content["left"]):
            return self._by_chance(rule)
        if kind not in _LIMITS:
            return None
        if isinstance(content, str):
            content = self._sets.get((chain.family, chain.table, f"{kind} {content}"))
        if not isinstance(content, Mapping):
            return None
        if self._packet.exceeds:
            self.limits.append(Limit(described(rule), _most(kind, content), _words(kind, content)))
        return self._packet.exceeds == bool(content.get("inv", False))

    def _by_chance(self, rule: Object) -> bool:
        """Return whether a rule that chooses at random has this packet: at worst one that drops has it."""
        drops = any(each.keys() & {"drop", "reject"} for each in rule["expr"])
        if self._packet.exceeds:
            self.limits.append(Limit(described(rule), 0, "numgen"))
        return self._packet.exceeds == drops

    @staticmethod
    def _is_target(part: Object) -> bool:
        return isinstance(part.get("xt"), Mapping) and part["xt"].get("type") == "target"

    def _statement(
        self, kind: str, content: Any, chain: Chain, rule: Object, depth: int
    ) -> tuple[Decision | None, bool]:
        if kind in ("dnat", "redirect"):
            self.taken = rule, kind, content
        if kind == "accept" or kind in _TAKING:
            return PASSED, True
        if kind in ("masquerade", "snat"):
            return PASSED, True
        if kind in ("drop", "reject"):
            return self.drop(chain, rule, kind), True
        if kind == "return":
            return None, True
        if kind in ("jump", "goto"):
            decided = self.chain(self._called(chain, content["target"]), depth + 1)
            return decided, decided is not None or kind == "goto"
        if kind == "vmap":
            return self._by_map(content, chain, rule, depth)
        raise _Unknown

    def _by_map(self, content: Any, chain: Chain, rule: Object, depth: int) -> tuple[Decision | None, bool]:
        for key, verdict in self._elements(content["data"], chain):
            found = self._equals(content["key"], key, chain)
            if found is None:
                raise _Unknown
            if found:
                kind, target = next(iter(verdict.items()))
                return (None, False) if kind == "continue" else self._statement(kind, target, chain, rule, depth)
        return None, False

    def _called(self, chain: Chain, name: str) -> Chain:
        found = self._chains.get((chain.family, chain.table, name))
        if found is None:
            raise _Unknown
        return found

    def drop(self, chain: Chain, rule: Object, kind: str) -> Decision:
        """Return the drop by a rule."""
        counters = [each["counter"] for each in rule["expr"] if isinstance(each.get("counter"), Mapping)]
        named = bool(self._vip) and f'"{self._vip}"' in json.dumps(rule["expr"])
        return Decision(
            Verdict.DROP,
            f"{described(rule)} has the verdict {kind}",
            named=named,
            remove=removing(rule),
            accept=accepting(self._base, self._packet, self._vip),
            packets=counters[0]["packets"] if counters else None,
            limits=tuple(self.limits),
        )

    def condition(self, kind: str, content: Any, chain: Chain) -> Maybe:
        """Return whether a condition holds."""
        if kind != "match":
            return None
        operator, right = content.get("op", "=="), content["right"]
        try:
            if operator in ("==", "in", "!="):
                return turned(self._equals(content["left"], right, chain), operator == "!=")
            value = self._value(content["left"])
        except _Unknown:
            return None
        if isinstance(value, int) and isinstance(right, int):
            return {"<": value < right, ">": value > right, "<=": value <= right, ">=": value >= right}.get(operator)
        return None

    def _equals(self, left: Any, right: Any, chain: Chain) -> Maybe:
        try:
            value = self._value(left)
        except _Unknown:
            return None
        if isinstance(right, list) and left.keys() & {"ct"}:
            return either(_same(value, each) for each in right)
        return either(_same(value, each) for each in self._members(right, chain))

    def _members(self, right: Any, chain: Chain) -> Iterator[Any]:
        """Yield what a right side may equal: one value, or the elements of a set."""
        if isinstance(right, Mapping) and "set" in right:
            yield from (_element(each) for each in _listed(right["set"]))
        elif isinstance(right, str) and right.startswith("@"):
            found = self._sets.get((chain.family, chain.table, right[1:]))
            yield from (_element(each) for each in _listed((found or {}).get("elem", ())))
        else:
            yield right

    def _elements(self, data: Any, chain: Chain) -> Iterator[tuple[Any, Any]]:
        """Yield keys and values of a map."""
        if isinstance(data, str) and data.startswith("@"):
            data = {"set": (self._sets.get((chain.family, chain.table, data[1:])) or {}).get("elem", ())}
        for key, verdict in data["set"]:
            yield _element(key), verdict

    def _value(self, left: Any) -> Any:
        """Return the packet's value of the left side of a condition. Raises _Unknown."""
        if not isinstance(left, Mapping):
            raise _Unknown
        kind, content = next(iter(left.items()))
        if kind == "concat":
            return [self._value(each) for each in content]
        if kind == "&":
            value, mask = self._value(content[0]), _flag_bits(content[1])
            if isinstance(value, int) and mask is not None:
                return value & mask
            raise _Unknown
        if kind == "payload":
            return self._payload(content)
        if kind == "meta":
            return self._meta(content["key"])
        if kind == "ct" and content.get("key") == "state":
            return _STATES[self._packet.new] if self.tracked else "untracked"
        if kind == "ct" and content.get("key") in ("mark", "status"):
            return 0
        if kind == "fib" and content.get("result") == "type" and content.get("flags") in ("daddr", ["daddr"]):
            return "local" if self._packet.iif else "unicast"
        raise _Unknown

    def _payload(self, content: Any) -> Any:
        packet = self._packet
        protocol, field = content.get("protocol"), content.get("field")
        if protocol == "ether" and field == "type":
            return self._meta("protocol")
        if packet.arp or protocol == "arp":
            return self._of_arp(protocol, field)
        if protocol in ("ip", "ip6"):
            if (protocol == "ip6") != (packet.daddr.version == 6):
                return _Never()
            if field in ("saddr", "daddr"):
                return getattr(packet, field)
            if field in ("protocol", "nexthdr"):
                return packet.protocol
            raise _Unknown
        if protocol == "icmpv6" and packet.protocol == PROTOCOLS["icmpv6"]:
            return self._of_icmp6(field)
        names = {"tcp": 6, "udp": 17, "sctp": 132, "th": packet.protocol}
        if protocol not in names:
            return _Never() if PROTOCOLS.get(protocol, packet.protocol) != packet.protocol else _raise()
        if names[protocol] != packet.protocol:
            return _Never()
        if field in ("sport", "dport"):
            return getattr(packet, field)
        if field == "flags":
            return packet.tcp_flags
        raise _Unknown

    def _of_arp(self, protocol: str, field: str) -> Any:
        packet = self._packet
        if not packet.arp or protocol in ("ip", "ip6"):
            return _Never()
        known: dict[str, Any] = {"htype": 1, "ptype": 0x0800, "hlen": 6, "plen": 4}
        known |= {"operation": "request" if packet.new else "reply"}
        known |= {"saddr ip": packet.saddr, "daddr ip": packet.daddr}
        if protocol == "arp" and field in known:
            return known[field]
        raise _Unknown

    def _of_icmp6(self, field: str) -> int:
        if field == "type" and self._packet.icmp_type >= 0:
            return self._packet.icmp_type
        raise _Unknown

    def _meta(self, key: str) -> Any:
        packet = self._packet
        known: dict[str, Any] = {
            "l4proto": packet.protocol,
            "nfproto": _VERSIONS[packet.daddr.version],
            "protocol": "arp" if packet.arp else _ETHERTYPES[packet.daddr.version][0],
            "iifname": packet.iif,
            "oifname": packet.oif,
            "iif": packet.iif,
            "oif": packet.oif,
            "pkttype": "host",
        }
        if key == "mark" and self._mark is not None:
            return self._mark
        if key not in known:
            raise _Unknown
        return known[key]


def _most(kind: str, limit: Mapping[str, Any]) -> float:
    """Return how many packets a second, or connections, a limit lets pass; infinite if it counts bytes."""
    if kind == "ct count":
        return float(limit.get("val", inf))
    if kind == "quota" or limit.get("rate_unit", "packets") != "packets":
        return inf
    return float(limit["rate"]) / _SECONDS.get(limit.get("per", "second"), 1)


def _words(kind: str, limit: Mapping[str, Any]) -> str:
    """Return a limit as nft writes it, without its burst."""
    over = "over " if limit.get("inv") else ""
    if kind == "ct count":
        return f"ct count {over}{limit.get('val')}"
    if kind == "quota":
        return f"quota {over}{limit.get('val', limit.get('bytes'))} {limit.get('val_unit', 'bytes')}"
    unit = limit.get("rate_unit", "")
    return f"limit rate {over}{limit['rate']}{' ' if unit else ''}{unit}/{limit.get('per', 'second')}"


class _Never:
    """The value of a field that this packet does not have: it equals nothing."""


def _raise() -> Any:
    raise _Unknown


def _is_of_all(kind: str, content: Any) -> bool:
    """Return whether this is a condition that holds for all clients or for none."""
    return kind == "match" and '"saddr"' not in json.dumps(content)


def _listed(elements: Any) -> Sequence[Any]:
    return elements if isinstance(elements, list) else [elements]


def _element(found: Any) -> Any:
    return found["elem"]["val"] if isinstance(found, Mapping) and "elem" in found else found


def _flag_bits(value: Any) -> int | None:
    if isinstance(value, int):
        return value
    names = value if isinstance(value, list) else [value]
    if isinstance(value, Mapping) and "|" in value:
        parts = [_flag_bits(each) for each in value["|"]]
        return None if None in parts else sum(part or 0 for part in parts)
    if all(isinstance(each, str) and each in _FLAGS for each in names):
        return sum(_FLAGS[each] for each in names)
    return None


def _same(value: Any, wanted: Any) -> Maybe:
    """Return whether a value of the packet equals a value of a rule."""
    if isinstance(value, _Never):
        return False
    if isinstance(wanted, Mapping):
        return _within(value, wanted)
    if isinstance(value, list):
        return None
    if isinstance(wanted, list):
        bits = _flag_bits(wanted)
        return value == bits if bits is not None else either(_same(value, each) for each in wanted)
    if isinstance(value, int):
        number = wanted if isinstance(wanted, int) else _NUMBERS.get(str(wanted), _flag_bits(wanted))
        return None if number is None else value == number
    if isinstance(value, str):
        return wanted == "*" or same_device(str(wanted), value, "*")
    other = address_or_none(wanted)
    return None if other is None else value == other


def _within(value: Any, wanted: Mapping[str, Any]) -> Maybe:
    """Return whether a value is in a prefix, a range or a concatenation."""
    kind, content = next(iter(wanted.items()))
    if kind == "prefix":
        address = address_or_none(str(value))
        return address in ip_network(f"{content['addr']}/{content['len']}", strict=False) if address else None
    if kind == "range":
        first, last = content
        if isinstance(value, int) and isinstance(first, int) and isinstance(last, int):
            return first <= value <= last
        address, low, high = (address_or_none(str(each)) for each in (value, first, last))
        if address and low and high and address.version == low.version == high.version:
            return int(low) <= int(address) <= int(high)
        return None
    if kind == "concat" and isinstance(value, list) and len(value) == len(content):
        return both(_same(*pair) for pair in zip(value, content, strict=True))
    if kind == "|":
        bits = _flag_bits(wanted)
        return None if bits is None else value == bits
    return None

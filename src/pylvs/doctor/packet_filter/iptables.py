"""Evaluate the rules that `iptables-save -c` and `ip6tables-save -c` print, those of the legacy tables as well.

A match or a target that is not known here makes a rule uncertain, and so what follows it: then the decision is UNKNOWN.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from math import inf
from typing import NamedTuple

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
from pylvs.model.addresses import Address
from pylvs.model.dataclass import replace

_COUNTS = re.compile(r"^\[(\d+):\d+\] ")
_ORDER = ("raw", "mangle", "nat", "filter", "security")  # at a hook
_DEPTH = 16
_HOOK = "PREROUTING"
_OUTWARD = ("FORWARD", "OUTPUT", "POSTROUTING")
_PASSING = {"ACCEPT", "DNAT", "REDIRECT", "TPROXY", "SNAT", "MASQUERADE", "NETMAP"}
_WITHOUT_EFFECT = {"LOG", "NFLOG", "TRACE", "TEE", "AUDIT", "NOTRACK", "CT", "TCPMSS", "CHECKSUM", "DSCP", "TOS", "TTL"}
_WITHOUT_EFFECT |= {"HL", "CONNMARK", "SET", "CLASSIFY"}
_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63, "NONE": 0}
_SYN_MASK = 0x17
_NEEDS_NOTHING = {"tcp", "udp", "sctp", "multiport", "conntrack", "state", "comment", "limit", "addrtype", "iprange"}
_NEEDS_NOTHING |= {"mark", "icmp", "icmp6", "hashlimit", "connlimit", "recent", "statistic"}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_UP_TO = ("--limit", "--hashlimit-upto", "--hashlimit", "--connlimit-upto")
_ABOVE = ("--hashlimit-above", "--connlimit-above", "--hitcount")
_OF_LIMITS = ("--limit-", "--hashlimit-", "--connlimit-")  # their other options change no verdict
_OF_RECENT = {"--set", "--seconds", "--name", "--mask", "--rsource", "--rdest", "--rttl", "--reap"}
_OF_CHANCE = {"--probability", "--every", "--packet"}


class Rule(NamedTuple):
    """A rule: the words behind the chain's name, and the packets that it counted."""

    words: tuple[str, ...]
    packets: int | None


class Chain(NamedTuple):
    """A chain: its policy ("-" for a chain that others call), the packets that this counted, and its rules."""

    policy: str
    packets: int
    rules: list[Rule]


class Tables:
    """All tables that one command prints."""

    def __init__(self, text: str, command: str) -> None:
        """Parse them. `command` edits them, as ip6tables-legacy. Lines of another form are left out."""
        self.command = command
        self._text = text
        self._taken = list[tuple[str, Rule, str]]()  # rules that translated the destination of a packet
        self._limits = list[Limit]()  # those that a packet exceeds
        self.chains: dict[str, dict[str, Chain]] = {}
        table = ""
        for line in text.split("\n"):  # not splitlines: a comment may have a separator of Unicode
            if line.startswith("*"):
                table = line[1:].strip()
                self.chains[table] = {}
            elif line.startswith(":") and table:
                name, policy, *counts = line[1:].split()
                packets = int(counts[0].strip("[]").partition(":")[0]) if counts else 0
                self.chains[table][name] = Chain(policy, packets, [])
            elif table and "-A " in line:
                self._append(table, line)

    def _append(self, table: str, line: str) -> None:
        counted = _COUNTS.match(line)
        try:
            _, chain, *words = shlex.split(_COUNTS.sub("", line))
        except ValueError:
            return
        if chain in self.chains[table]:
            packets = int(counted[1]) if counted else None
            self.chains[table][chain].rules.append(Rule(tuple(words), packets))

    def decisions(self, hook: str, packet: Packet, vip: str = "") -> Iterator[Decision]:
        """Yield what each table decides at a hook, as INPUT."""
        for table in sorted(self.chains, key=lambda each: _ORDER.index(each) if each in _ORDER else 0):
            if hook in self.chains[table]:
                yield self._decision(table, hook, packet, vip)

    def _decision(self, table: str, hook: str, packet: Packet, vip: str) -> Decision:
        self._limits.clear()
        try:
            decided = self._walk(table, hook, hook, packet, vip, 0)
        except _Unknown as error:
            return Decision(Verdict.UNKNOWN, str(error))
        chain = self.chains[table][hook]
        if decided is not None:
            return decided
        if chain.policy != "DROP":
            return PASSED
        text = f"the policy of {self._chain_text(table, hook)} is DROP"
        return Decision(
            Verdict.DROP,
            text,
            accept=self._accepting(table, hook, packet, vip),
            packets=chain.packets or None,
            limits=tuple(self._limits),
        )

    def translation(self, packet: Packet) -> Translation | None:
        """Return what the table nat makes of a packet's destination; None: nothing, or it cannot be known."""
        if _HOOK not in self.chains.get("nat", {}):
            return None
        self._taken.clear()
        try:
            self._walk("nat", _HOOK, _HOOK, packet, "", 0)
        except _Unknown:
            return None
        if not self._taken:
            return None
        name, rule, target = self._taken[0]
        words = rule.words
        given = _option(words, "--to-destination") or _option(words, "--to-ports") or ""
        address, port = (None, given) if target == "REDIRECT" else _endpoint(given)
        if port and not port.isdigit():
            return None  # one of several
        text = f"a rule of {self._chain_text('nat', name)}: {shlex.join(words)}"
        there = None if target == "REDIRECT" else address or packet.daddr
        return Translation(there, int(port) if port else packet.dport, text, self.removing("nat", name, rule))

    def translated_ports(self) -> set[int]:
        """Return the ports that rules of the table nat name."""
        rules = (rule for chain in self.chains.get("nat", {}).values() for rule in chain.rules)
        found = (_option(rule.words, option) or "" for rule in rules for option in ("--dport", "--dports"))
        return {int(port) for text in found for port in text.split(",") if port.isdigit()}

    def _chain_text(self, table: str, chain: str) -> str:
        return f"chain {chain} of table {table} ({self.command})"

    def _walk(self, table: str, base: str, name: str, packet: Packet, vip: str, depth: int) -> Decision | None:
        """Return the decision of a chain; None at its end. Raises _Unknown."""
        chains = self.chains[table]
        if depth > _DEPTH or name not in chains:
            raise _Unknown
        for rule in chains[name].rules:
            holds, target, goto = matches(rule.words, packet)
            if packet.exceeds and holds != matches(rule.words, replace(packet, exceeds=False))[0]:
                text = f"a rule of {self._chain_text(table, name)}: {shlex.join(rule.words)}"
                self._limits.append(Limit(text, _most(rule.words)))
            if holds is False or not target or target in _WITHOUT_EFFECT:
                continue
            if holds is None:
                raise _Unknown(f"a rule of chain {name} of table {table} may have the target {target}")
            if target in ("DNAT", "REDIRECT"):
                self._taken.append((name, rule, target))
            if target in _PASSING:
                return PASSED
            if target in ("DROP", "REJECT"):
                return self._drop(table, base, name, rule, packet, vip)
            if target == "RETURN":
                return None
            if target not in chains:
                raise _Unknown
            decided = self._walk(table, base, target, packet, vip, depth + 1)
            if decided is not None or goto:
                return decided
        return None

    def _drop(self, table: str, base: str, name: str, rule: Rule, packet: Packet, vip: str) -> Decision:
        return Decision(
            Verdict.DROP,
            f"a rule of {self._chain_text(table, name)}: {shlex.join(rule.words)}",
            named=bool(vip) and any(each.partition("/")[0] == vip for each in rule.words),
            remove=self.removing(table, name, rule),
            accept=self._accepting(table, base, packet, vip),
            packets=rule.packets,
            limits=tuple(self._limits),
        )

    def removing(self, table: str, chain: str, rule: Rule) -> str:
        """Return the command that removes a rule."""
        return f"{self.command} {_in(table)}-D {chain} {shlex.join(rule.words)}"

    def _accepting(self, table: str, base: str, packet: Packet, vip: str) -> str:
        """Return the command that lets packets as this one pass."""
        reply = bool(vip) and str(packet.saddr) == vip
        words = [f"-s {vip}" if reply else f"-d {packet.daddr}"]
        names = {number: name for name, number in PROTOCOLS.items()}
        if packet.icmp_type >= 0:
            words = ["-p ipv6-icmp", f"--icmpv6-type {packet.icmp_type}"]
        else:
            words.append(f"-p {names.get(packet.protocol, packet.protocol)}")
        port = packet.sport if reply else packet.dport
        if packet.protocol in WITH_PORTS and port:
            words.append(f"--sport {port}" if reply else f"--dport {port}")
        return f"{self.command} {_in(table)}-I {base} {' '.join(words)} -j ACCEPT"

    def dropping(self, packet: Packet, vip: str) -> Iterator[Decision]:
        """Yield the rules that name an address and would drop this packet of some client."""
        for table, name, rule in self.rules_naming(vip):
            holds, target, _ = matches(_for_all(rule.words), packet)
            if name not in _OUTWARD and holds is not False and target in ("DROP", "REJECT"):
                yield self._drop(table, name, name, rule, packet, vip)

    def rules_naming(self, address: str) -> Iterator[tuple[str, str, Rule]]:
        """Yield table, chain and rule of the rules that name an address itself."""
        if address not in self._text:
            return
        for table, chains in self.chains.items():
            for name, chain in chains.items():
                for rule in chain.rules:
                    if any(each.partition("/")[0] == address for each in rule.words):
                        yield table, name, rule


def _option(words: tuple[str, ...], name: str) -> str | None:
    """Return the value of an option of a rule."""
    return words[words.index(name) + 1] if name in words[:-1] else None


def _endpoint(text: str) -> tuple[Address | None, str]:
    """Split ADDRESS[:PORT] or [ADDRESS]:PORT."""
    address, _, port = text.rpartition(":") if "]:" in text or text.count(":") == 1 else (text, "", "")
    return address_or_none(address.strip("[]")), port


def _for_all(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of a rule without those on the client's address."""
    if "-s" not in words:
        return words
    at = words.index("-s")
    start = at - 1 if at and words[at - 1] == "!" else at
    return words[:start] + words[at + 2 :]


class _Unknown(Exception):
    """A rule cannot be evaluated. The text names it, if a verdict depends on that."""


def _in(table: str) -> str:
    return "" if table == "filter" else f"-t {table} "


def matches(words: tuple[str, ...], packet: Packet) -> tuple[Maybe, str, bool]:
    """Return whether a rule matches a packet, its target ("" for none), and whether it does not return from there."""
    parts, target, goto, negated = list[Maybe](), "", False, False
    at = 0
    while at < len(words):
        word = words[at]
        value = words[at + 1] if at + 1 < len(words) else ""
        if word == "!":
            negated, at = True, at + 1
            continue
        if word in ("-j", "-g"):
            target, goto = value, word == "-g"
            break  # what follows belongs to the target
        step = 1 if value == "!" or value.startswith("-") else 2  # an option without a value
        if word == "-m":
            parts.append(True if value in _NEEDS_NOTHING else None)
        elif word == "--tcp-flags":
            step = 3
            parts.append(turned(_flags(value, words[at + 2] if at + 2 < len(words) else "", packet), negated))
        elif word == "--syn":
            step = 1
            parts.append(turned(packet.protocol == 6 and packet.tcp_flags & _SYN_MASK == 2, negated))
        elif word == "--comment":
            parts.append(True)
        else:
            limited = _limited(word, words, packet)
            parts.append(turned(_condition(word, value, packet) if limited is None else limited, negated))
        negated, at = False, at + step
    return both(parts), target, goto


def _limited(option: str, words: tuple[str, ...], packet: Packet) -> bool | None:
    """Return whether a condition of rate, number or chance holds; None for another one.

    One packet alone is below each limit. At worst a rule that drops at random has it, and no other one.
    """
    if option in _UP_TO:
        return not packet.exceeds
    if option in _ABOVE:
        return packet.exceeds
    if option == "--mode" and "statistic" in words:
        return packet.exceeds == (_option(words, "-j") in ("DROP", "REJECT"))
    of_recent = "recent" in words and (option in _OF_RECENT or option in ("--update", "--rcheck"))
    if of_recent and (option in _OF_RECENT or "--hitcount" in words):
        return True
    if (option in _OF_CHANCE and "statistic" in words) or option.startswith(_OF_LIMITS):
        return True
    return None


def _most(words: tuple[str, ...]) -> float:
    """Return how many packets a second, or connections, the limit of a rule lets pass; infinite if it counts bytes."""
    if "statistic" in words:
        return 0
    if (hits := _option(words, "--hitcount")) is not None:
        return _number(hits) / max(_number(_option(words, "--seconds") or "1"), 1)
    value = next(filter(None, (_option(words, each) for each in (*_UP_TO, *_ABOVE))), "")
    number, _, unit = value.partition("/")
    return _number(number) / _SECONDS.get(unit[:1], 1)


def _number(text: str) -> float:
    return float(text) if text.isdigit() else inf


def _condition(option: str, value: str, packet: Packet) -> Maybe:
    """Return whether one condition holds."""
    if option in ("-s", "-d"):
        return _in_network(value, packet.saddr if option == "-s" else packet.daddr)
    if option in ("-i", "-o"):
        return same_device(value, packet.iif if option == "-i" else packet.oif, "+")
    if option == "-p":
        number = PROTOCOLS.get(value, int(value) if value.isdigit() else -1)
        return None if number < 0 and value != "all" else value in ("all", "0") or number == packet.protocol
    if option in ("--dport", "--dports", "--sport", "--sports"):
        return _in_ports(value, packet.dport if option.startswith("--d") else packet.sport)
    if option in ("--ctstate", "--state"):
        return ("NEW" if packet.new else "ESTABLISHED") in value.split(",")
    if option in ("--src-range", "--dst-range"):
        return _in_range(value, packet.saddr if option == "--src-range" else packet.daddr)
    if option in ("--icmpv6-type", "--icmp-type"):
        kind = value.partition("/")[0]
        wanted = int(kind) if kind.isdigit() else ICMP6_TYPES.get(kind)
        return None if wanted is None or packet.icmp_type < 0 else wanted == packet.icmp_type
    if option == "--dst-type":
        return ("LOCAL" if packet.iif else "UNICAST") in value.split(",")
    return None


def _in_network(text: str, address: object) -> Maybe:
    try:
        return either(address in ip_network(each, strict=False) for each in text.split(","))
    except ValueError:
        return None


def _in_range(text: str, address: object) -> Maybe:
    first, _, last = text.partition("-")
    try:
        return int(ip_address(first)) <= int(ip_address(str(address))) <= int(ip_address(last or first))
    except ValueError:
        return None


def _in_ports(text: str, port: int) -> Maybe:
    parts = list[Maybe]()
    for ports in text.split(","):
        first, colon, last = ports.partition(":")
        if not (first or colon) or not (first + last).isdigit():
            return None
        parts.append(int(first or 0) <= port <= (int(last or 65535) if colon else int(first)))
    return either(parts)


def _flags(mask: str, wanted: str, packet: Packet) -> Maybe:
    try:
        bits = sum(_FLAGS[each] for each in mask.split(","))
        return packet.protocol == 6 and packet.tcp_flags & bits == sum(_FLAGS[each] for each in wanted.split(","))
    except KeyError:
        return None

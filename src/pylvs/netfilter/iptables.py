"""Parse the output of `iptables-save` and `ip6tables-save`: mangle PREROUTING or INPUT, and the chains they call."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address, summarize_address_range
from typing import Any

from pylvs.model.errors import InvalidOperation, excerpt
from pylvs.model.marks import ALL_BITS, Ranges, checked_device, joined
from pylvs.model.marks.words import link_address, network, number_of, protocol_number
from pylvs.netfilter.chains import (
    CONNTRACK,
    DROPS,
    DSCP_CLASSES,
    MARKS,
    TCP_FLAGS,
    CannotExpress,
    Clause,
    Hook,
    Position,
    Rule,
    Skipped,
    compose,
    condition,
    of_state,
    ports,
)

_FLAGS = TCP_FLAGS | {"all": 63, "none": 0}
_COUNTS = re.compile(r"^\[\d+:\d+\] ")
_WITHOUT_EFFECT = {"LOG", "NFLOG", "TRACE", "TEE", "AUDIT"}
# Others may match without an option (socket, rpfilter, frag), so that a rule would apply to all packets.
_MATCHES = {"tcp", "udp", "sctp", "multiport", "iprange", "mark", "mac", "tos", "dscp", "pkttype", "comment"}
_OF_STATE = "conntrack", "state"  # matches; their states hold for packets that open connections, or never
_UNSUPPORTED_MATCHES = {
    "conntrack": CONNTRACK,
    "state": CONNTRACK,
    "connmark": CONNTRACK,
    "set": "it asks an ipset, whose entries change behind a rule's back",
}
_UNSUPPORTED_TARGETS = {
    "DROP": f"it {DROPS}",
    "CONNMARK": "it keeps marks in connection tracking",
    "SET": "it changes an ipset",
    "TPROXY": "it sends packets to a local socket",
}


def has_tables(text: str) -> bool:
    """Return whether a table is in a text, be it empty."""
    return any(line.lstrip().startswith("*") for line in text.split("\n"))


def hooks(text: str, six: bool = False, source: str = "", position: Position = MARKS) -> list[Hook]:
    """Return the base chains. They are of IPv4, unless `six` is set or the text names IPv6.

    `source` is the name of the text in locations. Raises InvalidOperation.
    """
    found: list[Hook] = []
    family, table = 6 if six else 4, ""
    chains: dict[str, list[Rule | Skipped]] = {}
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: a comment may have a separator of Unicode
        line = line.strip()
        if line.startswith("#"):
            tool = re.search(r"\b(ip6?tables)(?:-nft|-legacy)?-save\b", line)
            family = family if tool is None else (6 if tool[1] == "ip6tables" else 4)
        elif line.startswith("*"):
            table, chains = line[1:], {}
        elif line.startswith(":") and len(line[1:].split()) > 1:
            chains[line[1:].split()[0]] = []
            if table == position.table and line[1:].split()[:2] == [position.chain, "DROP"] and not position.verdicts:
                chains[position.chain].append(Skipped(f"{source}line {number}", line, f"a policy that {DROPS}"))
        elif line == "COMMIT":
            if table == position.table and position.chain in chains:
                name = f"{table} {position.chain}"
                found.append(Hook(name, position.priority, family, chains[position.chain], chains))
            table = ""
        elif line:
            _append_rule(chains, table, f"{source}line {number}", _COUNTS.sub("", line), position)
    if table:
        raise InvalidOperation(f"the table {table} has no COMMIT: what was saved ends too early")
    return found


def _append_rule(
    chains: dict[str, list[Rule | Skipped]], table: str, location: str, line: str, position: Position
) -> None:
    try:
        words = shlex.split(line)
    except ValueError:
        words = []
    if not table or len(words) < 2 or words[0] not in ("-A", "--append"):
        raise InvalidOperation(f"{location}: {excerpt(line)}: not what iptables-save prints")
    if table != position.table:
        return
    if words[1] not in chains:
        raise InvalidOperation(f"{location}: {excerpt(line)}: the chain {words[1]} was not declared")
    parser = _RuleParser(words[2:], set(chains), position)
    try:
        chains[words[1]].append(parser.rule(location, line))
    except (CannotExpress, InvalidOperation) as error:
        chains[words[1]].append(parser.skipped(Skipped(location, line, str(error))))


class _RuleParser:
    """A parser of the words of one rule."""

    def __init__(self, words: list[str], chains: set[str], position: Position) -> None:
        self.position = position
        self.words = words
        self.chains = chains
        self.at = 0
        self.protocol = 0
        self.match = ""  # the latest -m
        self.clauses: list[Clause] = []

    def value(self, option: str) -> str:
        """Return the word behind an option. Raises CannotExpress."""
        if self.at >= len(self.words):
            raise CannotExpress(f"{option} has no value")
        self.at += 1
        return self.words[self.at - 1]

    def rule(self, location: str, text: str) -> Rule:
        """Parse the whole rule. Raises CannotExpress, InvalidOperation."""
        target, arguments, goto = "", [], False
        while self.at < len(self.words):
            turned = self.words[self.at] == "!"
            self.at += turned
            option = self.value("!")
            if option in ("-j", "--jump", "-g", "--goto"):
                target, goto = self.value(option), option in ("-g", "--goto")
                arguments, self.at = self.words[self.at :], len(self.words)
            elif option in ("-m", "--match"):
                self.match = self.value(option)
                if self.match not in _MATCHES and not (self.match in _OF_STATE and self.position != MARKS):
                    reason = f"{self.position.command} has no condition like -m {self.match}"
                    raise CannotExpress(_UNSUPPORTED_MATCHES.get(self.match, reason))
            elif option in _CONDITIONS:
                self.clauses.extend(_CONDITIONS[option](self, self.value(option), turned))
            elif option == "--comment":
                self.value(option)
            elif option == "--syn":
                self.clauses.append((condition(turned, tcp_flags=(0x02, 0x17)),))
            else:
                where = f"-m {self.match} " if self.match and not option.startswith(("-f", "--fragment")) else ""
                raise CannotExpress(f"{self.position.command} has no condition like {where}{option}")
        return self._with_target(Rule(location, text, tuple(self.clauses)), target, arguments, goto)

    def skipped(self, rule: Skipped) -> Skipped:
        """Return the rule with its conditions that are known, and the chain that it calls."""
        self.protocol, self.clauses = 0, []
        any_target, target = False, ""
        for at, word in enumerate(self.words):
            option, turned = _ALIASES.get(word, word), at > 0 and self.words[at - 1] == "!"
            self.at = at + 1
            try:
                if option in ("-j", "--jump", "-g", "--goto"):
                    target = self.value(option)
                elif option == "--match-set":
                    self.value(option)
                    any_target |= "dst" in self.value(option).split(",")
                elif option in _CONDITIONS:
                    self.clauses.extend(_CONDITIONS[option](self, self.value(option), turned))
            except (CannotExpress, InvalidOperation):
                any_target |= _CONDITIONS.get(option) in _OF_TARGET
        chains = tuple({target} & self.chains)
        clauses, accepts = tuple(self.clauses), target == "ACCEPT"
        return replace(rule, chains=chains, clauses=clauses, any_target=any_target, accepts=accepts)

    def _with_target(self, rule: Rule, target: str, arguments: list[str], goto: bool) -> Rule:
        """Return the rule with what its target does. Raises CannotExpress, InvalidOperation."""
        if target in self.chains:
            return replace(rule, verdict="goto" if goto else "jump", chain=target)
        if target in ("ACCEPT", "RETURN"):
            return replace(rule, verdict=target.lower())
        if target in self.position.verdicts:
            return replace(rule, verdict=self.position.verdicts[target])
        if self.position != MARKS:
            raise CannotExpress(f"the target {target} decides nothing" if target else "it has no target")
        if not target or target in _WITHOUT_EFFECT:
            raise CannotExpress("it changes no mark, and leads nowhere")
        if target == "MARK":
            mask, value = _marking(arguments)
            return replace(rule, mask=mask, value=value)
        raise CannotExpress(_UNSUPPORTED_TARGETS.get(target, f"the target {target} is not one of marks"))


def _marking(words: list[str]) -> tuple[int, int]:
    """Return mask and value of MARK's options. Raises CannotExpress."""
    found = (0, 0)
    for option, text in zip(words[::2], words[1::2], strict=False):
        value, _, mask = text.partition("/")
        bits = number_of(value, ALL_BITS, "a mark")
        within = number_of(mask, ALL_BITS, "a mask") if mask else ALL_BITS
        done = {
            "--set-xmark": (within, bits),
            "--set-mark": (within | bits, bits),
            "--and-mark": (~bits & ALL_BITS, 0),
            "--or-mark": (bits, bits),
            "--xor-mark": (0, bits),
        }.get(option)
        if done is None:
            raise CannotExpress(f"MARK has no option {option}")
        found = compose(*found, *done)
    if not words or len(words) % 2:
        raise CannotExpress("MARK does not say which mark")
    return found


Condition = Callable[[_RuleParser, str, bool], Iterator[Clause]]  # of an option's value, perhaps negated


def _protocol(reader: _RuleParser, text: str, turned: bool) -> Iterator[Clause]:
    reader.protocol = protocol_number({"icmpv6": "58", "ipv6-icmp": "58"}.get(text, text))
    if reader.protocol:
        yield (condition(turned, protocol=reader.protocol),)


def _field(name: str, parse: Callable[[str], Any]) -> Condition:
    """Return the condition that a field of a mark rule has the parsed value."""

    def read(_: _RuleParser, text: str, turned: bool) -> Iterator[Clause]:
        yield (condition(turned, **{name: parse(text)}),)

    return read


def _address_range(side: str) -> Condition:
    def read(_: _RuleParser, text: str, turned: bool) -> Iterator[Clause]:
        first, _dash, last = text.partition("-")
        try:
            networks = list(summarize_address_range(ip_address(first), ip_address(last or first)))
        except (TypeError, ValueError):
            raise CannotExpress(f"{text}: not a range of addresses") from None
        if turned:  # in none of the networks
            yield from ((condition(True, **{side: each}),) for each in networks)
        else:
            yield tuple(condition(**{side: each}) for each in networks)

    return read


def _device(reader: _RuleParser, text: str, turned: bool) -> Iterator[Clause]:
    if text.endswith("+"):
        if text != "+":
            raise CannotExpress(f"-i {text}: {reader.position.command} knows whole names of devices")
        if turned:
            yield ()
        return
    yield (condition(turned, device=checked_device(text)),)


def _ranges(text: str) -> Ranges:
    def one(part: str) -> tuple[int, int]:
        first, colon, last = part.partition(":")
        low = number_of(first or "0", 0xFFFF, "a port")
        return low, (number_of(last or "65535", 0xFFFF, "a port") if colon else low)

    return joined(one(part) for part in text.split(","))


def _port(side: str) -> Condition:
    def read(reader: _RuleParser, text: str, turned: bool) -> Iterator[Clause]:
        if reader.protocol not in (6, 17, 132):
            raise CannotExpress("ports of a protocol that IPVS does not schedule")
        yield ports(side, _ranges(text), turned)

    return read


def _either_port(reader: _RuleParser, text: str, turned: bool) -> Iterator[Clause]:
    sides = [clause for side in ("source_ports", "target_ports") for clause in _port(side)(reader, text, turned)]
    if turned:  # neither port matches
        yield from sides
    else:
        yield tuple(each for clause in sides for each in clause)


def _masked(text: str, most: int, what: str) -> tuple[int, int]:
    """Parse VALUE or VALUE/MASK; without a mask all bits count."""
    value, slash, mask = text.partition("/")
    bits = number_of(mask, most, "a mask") if slash else most
    return number_of(value, most, what), bits


def _mark(_: _RuleParser, text: str, turned: bool) -> Iterator[Clause]:
    wanted, bits = _masked(text, ALL_BITS, "a mark")
    if wanted & ~bits:  # no mark matches: the value has bits outside the mask
        if not turned:
            yield ()
        return
    yield (condition(turned, mark=(wanted, bits)),)


def _tos(text: str) -> tuple[int, int]:
    value, bits = _masked(text, 0xFF, "a type of service")
    return value & bits, bits


def _dscp_class(text: str) -> tuple[int, int]:
    if text.lower() not in DSCP_CLASSES:
        raise CannotExpress(f"{text}: no such DSCP class")
    return DSCP_CLASSES[text.lower()] << 2, 0xFC


def _packet_type(_: _RuleParser, text: str, turned: bool) -> Iterator[Clause]:
    if (text in ("unicast", "host")) == turned:
        yield ()  # other packet types never reach a service


def _state(reader: _RuleParser, text: str, turned: bool) -> Iterator[Clause]:
    if reader.position == MARKS:
        raise CannotExpress(CONNTRACK)
    yield from of_state(text.split(","), turned)


def _flag_bits(text: str) -> int:
    bits = 0
    for name in text.split(","):
        if name.lower() not in _FLAGS:
            raise CannotExpress(f"{name}: no such flag of TCP")
        bits |= _FLAGS[name.lower()]
    return bits


def _tcp_flags(reader: _RuleParser, text: str, turned: bool) -> Iterator[Clause]:
    mask, value = _flag_bits(text), _flag_bits(reader.value("--tcp-flags"))
    if value & ~mask:
        raise CannotExpress("TCP flags that are not looked at")
    yield (condition(turned, tcp_flags=(value, mask)),)


_CONDITIONS: dict[str, Condition] = {
    option: read
    for options, read in (
        ("-p --protocol", _protocol),
        ("-s --source", _field("source", network)),
        ("-d --destination", _field("target", network)),
        ("--src-range", _address_range("source")),
        ("--dst-range", _address_range("target")),
        ("-i --in-interface", _device),
        ("--sport --source-port --sports --source-ports", _port("source_ports")),
        ("--dport --destination-port --dports --destination-ports", _port("target_ports")),
        ("--ports", _either_port),
        ("--mark", _mark),
        ("--mac-source", _field("link", link_address)),
        ("--tos", _field("tos", _tos)),
        ("--dscp", _field("tos", lambda text: (number_of(text, 63, "a DSCP") << 2, 0xFC))),
        ("--dscp-class", _field("tos", _dscp_class)),
        ("--pkt-type", _packet_type),
        ("--tcp-flags", _tcp_flags),
        ("--ctstate --state", _state),
    )
    for option in options.split()
}
_OF_TARGET = {_CONDITIONS["-d"], _CONDITIONS["--dst-range"]}
_ALIASES = {"--ctorigdst": "-d"}  # a packet that opens a connection is not translated yet

"""Parse the output of `nft -j list ruleset`: base chains that set marks, or those of input."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import collapse_addresses, ip_address, ip_network, summarize_address_range
from typing import Any

from pylvs.model.errors import InvalidOperation
from pylvs.model.marks import ALL_BITS, Network, Ranges, checked_device, joined
from pylvs.model.marks.words import link_address, protocol_number
from pylvs.netfilter.chains import (
    CONNTRACK,
    DROPS,
    DSCP_CLASSES,
    MARKS,
    TCP_FLAGS,
    CannotExpress,
    Clause,
    Hook,
    NoEquivalent,
    Position,
    Rule,
    Skipped,
    compose,
    condition,
    of_state,
    ports,
)

_FAMILIES = {"ip": 4, "ip6": 6, "inet": 0}
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_MARKING = '"mangle":{"key":{"meta":{"key":"mark"}}'
_WITHOUT_EFFECT = ("counter", "log", "comment", "continue", "set", "notrack", "dup")  # on marks and their order
_UNSUPPORTED = {
    "mangle": "it changes packets otherwise than by marks",
    "drop": f"it {DROPS}",
    "reject": "it refuses packets; pylvs mark marks them",
    "vmap": "it decides by a map",
    "limit": "it counts packets over time",
    "xt": "iptables wrote it: import what iptables-save prints",
}
_FLAGS = TCP_FLAGS | {"ecn": 64, "cwr": 128}
_DSCP = DSCP_CLASSES | {"df": 0}
_ETHER_TYPES = {"ip": 4, "ip6": 6, "0x0800": 4, "0x86dd": 6, 0x0800: 4, 0x86DD: 6, 8: 4}
_OTHER_PROTOCOLS = {"icmp": 1, "igmp": 2, "esp": 50, "ah": 51, "icmpv6": 58}  # whose fields no service has
_NFPROTO = {"ipv4": 4, "ipv6": 6, 2: 4, 10: 6}
_TURNED = {"==": False, "in": False, "!=": True}
_UNKNOWN_FORM = (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration)
Object = Mapping[str, Any]


def has_tables(text: str) -> bool:
    """Return whether a table or a chain is in a ruleset. Raises InvalidOperation."""
    return any(kind in ("table", "chain") for kind, _ in _objects(text))


def hooks(text: str, position: Position = MARKS) -> list[Hook]:
    """Return the base chains of a ruleset. Raises InvalidOperation."""
    objects = _objects(text)
    chains: dict[tuple[str, str], dict[str, list[Rule | Skipped]]] = {}
    maps: dict[tuple[str, str], dict[str, Any]] = {}
    bases: list[Object] = []
    for kind, found in objects:
        if kind == "chain" and found.get("family") in _FAMILIES:
            chains.setdefault((found["family"], found["table"]), {})[found["name"]] = []
            if found.get("hook") == position.hook:
                bases.append(found)
        elif kind == "map":
            maps.setdefault((found["family"], found["table"]), {})[found["name"]] = found.get("elem")
    for kind, found in objects:
        if kind == "rule":
            table = found["family"], found["table"]
            where = chains.get(table, {})
            if found.get("chain") in where:
                where[found["chain"]] += _read(found, maps.get(table, {}), position)
    found_hooks = (_hook(base, chains[base["family"], base["table"]], position) for base in bases)
    return [hook for hook in found_hooks if hook is not None]


def _objects(text: str) -> list[tuple[str, Object]]:
    """Return kind and content of each listed object. Raises InvalidOperation."""
    try:
        listed = [next(iter(each.items())) for each in json.loads(text)["nftables"]]
        for kind, found in listed:
            if kind in ("chain", "rule", "map"):
                for name in ("family", "table", "chain" if kind == "rule" else "name"):
                    if not isinstance(found[name], str):
                        raise ValueError(name)
        return listed
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        raise InvalidOperation("not what nft -j list ruleset prints: no list of nftables in JSON") from None


def _hook(base: Object, chains: Mapping[str, Sequence[Rule | Skipped]], position: Position) -> Hook | None:
    """Return a base chain; None for one of marks if neither it nor a chain that it calls sets any."""
    name = f"{base['family']} {base['table']} {base['name']}"
    rules = list(chains[base["name"]])
    reached = _reached(rules, chains)
    if position == MARKS and not any(_concerns_marks(rule) for rule in reached):
        return None
    if position == MARKS and base.get("policy") == "drop":
        rules.append(Skipped(name, f"chain {name} policy drop", f"a policy that {DROPS}"))
    priority = base.get("prio", 0)
    number = priority if isinstance(priority, int) else _PRIORITIES.get(priority, 0)
    return Hook(name, number, _FAMILIES[base["family"]], rules, chains)


def _reached(rules: Sequence[Rule | Skipped], chains: Mapping[str, Sequence[Rule | Skipped]]) -> list[Rule | Skipped]:
    """Return these rules and those of all chains that they call, directly or indirectly."""
    found, seen = list(rules), set[str]()
    for rule in found:  # which grows
        for chain in (rule.chain,) if isinstance(rule, Rule) else rule.chains:
            if chain not in seen:
                seen.add(chain)
                found.extend(chains.get(chain, ()))
    return found


def _concerns_marks(rule: Rule | Skipped) -> bool:
    return bool(rule.mask or rule.value) if isinstance(rule, Rule) else _MARKING in rule.text


def _read(rule: Object, maps: Mapping[str, Any], position: Position) -> Iterator[Rule | Skipped]:
    """Yield a rule of a table with these named maps, and what it accepts by a verdict map as a rule of its own."""
    location = f"{rule['family']} {rule['table']} {rule['chain']} handle {rule.get('handle', '?')}"
    expressions = rule.get("expr", [])
    if position != MARKS and (accepting := _accepting(expressions, maps)):
        yield _read_one(location, accepting, maps, position)
    yield _read_one(location, expressions, maps, position)


def _read_one(location: str, expressions: Any, maps: Mapping[str, Any], position: Position) -> Rule | Skipped:
    text = json.dumps(expressions, separators=(",", ":"))
    try:
        return _rule(location, text, expressions, position)
    except NoEquivalent as error:
        reason = f"{position.command} {error}"
    except (CannotExpress, InvalidOperation) as error:
        reason = str(error)
    except _UNKNOWN_FORM:
        reason = "pylvs does not know this form of rule"
    accepts = isinstance(expressions, list) and {"accept": None} in expressions
    return Skipped(location, text, reason, _called(expressions, maps), *_known(expressions, position), accepts)


def _accepting(expressions: Any, maps: Mapping[str, Any]) -> list[Object] | None:
    """Return a rule's expressions with a match of what its verdict map accepts in place of the map; None without one.

    If its form is unknown, it may accept anything: an empty map is in its place.
    """
    for at, expression in enumerate(expressions if isinstance(expressions, list) else ()):
        if not (isinstance(expression, Mapping) and "vmap" in expression):
            continue
        try:
            key, data = expression["vmap"]["key"], expression["vmap"]["data"]
            elements = data["set"] if isinstance(data, Mapping) else maps[data.removeprefix("@")] or ()
            accepted = [value for value, verdict in elements if "accept" in verdict]
        except _UNKNOWN_FORM:
            return [*expressions[:at], {"vmap": {}}, {"accept": None}]
        match = {"match": {"op": "==", "left": key, "right": {"set": accepted}}}
        return [*expressions[:at], match, {"accept": None}] if accepted else None
    return None


def _known(expressions: Any, position: Position) -> tuple[tuple[Clause, ...], bool]:
    """Return the clauses of the matches that are known, and whether one of an IP destination is not."""
    clauses: list[Clause] = []
    any_target = False
    for expression in expressions if isinstance(expressions, list) else ():
        try:
            clauses += _clauses(expression["match"], position)
        except (CannotExpress, InvalidOperation, *_UNKNOWN_FORM):
            text = json.dumps(expression)
            any_target |= "daddr" in text and '"ether"' not in text
            numbers = [number for name, number in _OTHER_PROTOCOLS.items() if f'"protocol": "{name}"' in text]
            clauses += [(condition(protocol=each),) for each in numbers]
    return tuple(clauses), any_target


def _called(expressions: Any, maps: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the chains that these expressions jump to, also by verdict maps."""
    found, named, waiting = set[str](), set[str](), [expressions]
    while waiting:
        expression = waiting.pop()
        if isinstance(expression, list):
            waiting += expression
        elif isinstance(expression, str) and expression[1:] in maps and expression not in named:  # "@name"
            named.add(expression)
            waiting.append(maps[expression[1:]])
        elif isinstance(expression, Mapping):
            jumps = [expression[kind] for kind in ("jump", "goto") if isinstance(expression.get(kind), Mapping)]
            found |= {jump["target"] for jump in jumps if isinstance(jump.get("target"), str)}
            waiting += expression.values()
    return tuple(sorted(found))


def _only(expression: Object) -> tuple[str, Any]:
    """Return kind and content of an expression. Raises ValueError if it has more than one."""
    ((kind, content),) = expression.items()
    return kind, content


def _rule(location: str, text: str, expressions: Sequence[Object], position: Position) -> Rule:
    clauses, mask, value, verdict, chain = [], 0, 0, "", ""
    for expression in expressions:
        kind, content = _only(expression)
        if verdict:
            raise CannotExpress("it has a statement behind its verdict")
        if kind == "match":
            if mask or value:
                raise CannotExpress("it has a condition after it sets the mark")
            clauses.extend(_clauses(content, position))
        elif kind == "mangle" and content["key"] == {"meta": {"key": "mark"}}:
            mask, value = compose(mask, value, *_marking(content["value"]))
        elif kind in ("accept", "return", *position.verdicts.values()):
            verdict = kind
        elif kind in ("jump", "goto"):
            verdict, chain = kind, content["target"]
        elif kind not in _WITHOUT_EFFECT:
            raise CannotExpress(_UNSUPPORTED.get(kind, f"{position.command} has nothing like {kind}"))
        elif kind == "set":
            _check_set(content)
    return Rule(location, text, tuple(clauses), mask, value, verdict, chain)


def _check_set(content: Mapping[str, Any]) -> None:
    """Raise CannotExpress if an element that is added to a set has a statement that may end the rule, as `limit`."""
    for statement in content.get("stmt", ()):
        kind, _ = _only(statement)
        if kind != "counter":
            raise CannotExpress(_UNSUPPORTED.get(kind, f"it adds to a set with {kind}"))


def _marking(value: Any) -> tuple[int, int]:
    """Return mask and value of `meta mark set`. Raises CannotExpress."""
    if isinstance(value, int):
        return ALL_BITS, value & ALL_BITS
    if value == {"meta": {"key": "mark"}}:
        return 0, 0
    if isinstance(value, Mapping) and len(value) == 1:
        operator, (inner, bits) = next(iter(value.items()))
        if isinstance(bits, int) and operator in ("&", "|", "^"):
            before = _marking(inner)
            done = {"&": (~bits & ALL_BITS, 0), "|": (bits, bits), "^": (0, bits)}[operator]
            return compose(*before, *done)
    raise CannotExpress("it computes the mark from what is not a mark")


def _clauses(match: Mapping[str, Any], position: Position) -> list[Clause]:
    """Return the clauses of a match.

    Raises CannotExpress if mark rules have no equivalent, KeyError, TypeError or similar for an unknown form.
    """
    operator, left, right = match.get("op", "=="), match["left"], match["right"]
    kind, what = _only(left)
    if kind == "&":
        return _masked(operator, what, right)
    if kind == "meta":
        return _meta(operator, what["key"], right)
    if kind == "payload":
        return _payload(operator, what, right)
    if kind == "ct" and what.get("key") == "state" and position != MARKS:
        return of_state(_states(right), _turned(operator))
    if kind == "ct":
        raise CannotExpress(CONNTRACK)
    raise NoEquivalent(f"has no condition like {kind}")


def _values(right: Any) -> list[Any]:
    """Return the elements of an anonymous set, or the one value. Raises CannotExpress."""
    if isinstance(right, str) and right.startswith("@"):
        raise CannotExpress(f"it uses the set {right}, whose elements may change at any time")
    if isinstance(right, Mapping) and "set" in right:
        found = right["set"]
        values = found if isinstance(found, list) else [found]
        return [each["elem"]["val"] if isinstance(each, Mapping) and "elem" in each else each for each in values]
    return [right]


def _states(right: Any) -> list[str]:
    """Return the states of connection tracking in `ct state new,established`, or in a set."""
    states = _values(right)
    return [each for state in states for each in (state if isinstance(state, list) else [state])]


def _turned(operator: str) -> bool:
    if operator not in _TURNED:
        raise NoEquivalent(f"has no comparison like {operator}")
    return _TURNED[operator]


def _one_of(operator: str, field: str, values: Iterable[Any]) -> list[Clause]:
    """Return a clause of alternatives, one for each value of a rule's field; if negated, one clause for each."""
    conditions = [condition(operator == "!=", **{field: value}) for value in values]
    return [(each,) for each in conditions] if _turned(operator) else [tuple(conditions)]


def _meta(operator: str, key: str, right: Any) -> list[Clause]:
    values = _values(right)
    if key == "mark":
        if operator in ("<", ">", "<=", ">=") or any(not isinstance(each, int) for each in values):
            raise NoEquivalent("compares marks with single values")
        return _one_of(operator, "mark", [(each & ALL_BITS, ALL_BITS) for each in values])
    if key in ("iifname", "iif"):
        if any("*" in str(each) for each in values):
            raise NoEquivalent("knows whole names of devices")
        return _one_of(operator, "device", [checked_device(str(each)) for each in values])
    if key == "l4proto":
        return _protocols(operator, values)
    if key in ("nfproto", "protocol"):
        known = _NFPROTO if key == "nfproto" else _ETHER_TYPES
        wanted = {known[each] for each in values if each in known}
        found = {4, 6} - wanted if _turned(operator) else wanted
        return [tuple(condition(family=each) for each in sorted(found))]
    if key == "pkttype":
        here = any(each in ("host", "unicast", 0) for each in values)
        return [] if here != _turned(operator) else [()]
    raise NoEquivalent(f"has no condition like meta {key}")


def _protocols(operator: str, values: Sequence[Any]) -> list[Clause]:
    names = {"ipv6-icmp": "58", "ip": "0", "tcp": "6", "udp": "17"}
    numbers = [each if isinstance(each, int) else protocol_number(names.get(each, str(each))) for each in values]
    return _one_of(operator, "protocol", numbers)


def _payload(operator: str, what: Mapping[str, Any], right: Any) -> list[Clause]:
    if "tunnel" in what:
        raise CannotExpress("it asks for a packet in a tunnel")
    protocol, name = what["protocol"], what["field"]
    if protocol in ("ip", "ip6"):
        return [(condition(family=4 if protocol == "ip" else 6),), *_ip_header(operator, protocol, name, right)]
    if protocol in ("tcp", "udp", "sctp", "th") and name in ("sport", "dport"):
        kind: list[Clause] = [] if protocol == "th" else [(condition(protocol=protocol_number(protocol)),)]
        side = "source_ports" if name == "sport" else "target_ports"
        return [*kind, ports(side, _ranges(operator, right), operator == "!=")]
    if protocol == "tcp" and name == "flags":
        if isinstance(right, Mapping) and "set" in right:
            flags = [(_flag_bits(each), 0xFF) for each in _values(right)]
            return [(condition(protocol=6),), *_one_of(operator, "tcp_flags", flags)]
        return _masked(operator, [{"payload": what}, 0xFF], right)
    if protocol == "ether" and name == "saddr":
        return _one_of(operator, "link", [link_address(each) for each in _values(right)])
    raise NoEquivalent(f"has no condition like {protocol} {name}")


def _ip_header(operator: str, protocol: str, name: str, right: Any) -> list[Clause]:
    if name in ("saddr", "daddr"):
        return _addresses(operator, "source" if name == "saddr" else "target", right)
    if name in ("protocol", "nexthdr"):
        return _protocols(operator, _values(right))
    if name == "dscp":
        wanted = [_DSCP[each] if isinstance(each, str) else int(each) for each in _values(right)]
        return _one_of(operator, "tos", [(each << 2 & 0xFC, 0xFC) for each in wanted])
    raise NoEquivalent(f"has no condition like {protocol} {name}")


def _addresses(operator: str, side: str, right: Any) -> list[Clause]:
    found: list[Network] = [network for value in _values(right) for network in _networks(value)]
    networks = list(collapse_addresses(found))  # type: ignore[type-var]  # nft allows one family in a set
    return _one_of(operator, side, networks)


def _networks(value: Any) -> list[Network]:
    if isinstance(value, Mapping) and "prefix" in value:
        return [ip_network((value["prefix"]["addr"], value["prefix"]["len"]), strict=False)]
    if isinstance(value, Mapping) and "range" in value:
        first, last = (ip_address(each) for each in value["range"])
        return list(summarize_address_range(first, last))
    if not isinstance(value, str):
        raise CannotExpress("an address that is computed")
    return [ip_network(value)]


def _ranges(operator: str, right: Any) -> Ranges:
    if operator in ("<", "<="):
        return ((0, right - (operator == "<")),)
    if operator in (">", ">="):
        return ((right + (operator == ">"), 0xFFFF),)
    found = []
    for value in _values(right):
        if isinstance(value, Mapping) and "range" in value:
            found.append((int(value["range"][0]), int(value["range"][1])))
        elif isinstance(value, int):
            found.append((value, value))
        else:
            raise CannotExpress("a port that is computed")
    return joined(found)


def _masked(operator: str, what: Sequence[Any], right: Any) -> list[Clause]:
    """Return the clauses of `mark and 0xff == 1`, `tcp flags & (syn | ack) == syn` or `tcp flags syn`."""
    left, bits = what
    if left == {"meta": {"key": "mark"}} and isinstance(bits, int) and isinstance(right, int):
        if operator == "in":
            raise NoEquivalent("compares marks with single values")
        if right & ~bits:
            return [] if _turned(operator) else [()]
        return [(condition(_turned(operator), mark=(right, bits)),)]
    if left == {"payload": {"protocol": "tcp", "field": "flags"}}:
        mask, value = _flag_bits(bits), _flag_bits(right)
        tcp = (condition(protocol=6),)
        if operator == "in":  # any of the flags
            wanted = [1 << bit for bit in range(8) if value >> bit & 1]
            return [tcp, tuple(condition(tcp_flags=(each, each)) for each in wanted)]
        if value & ~mask:
            return [tcp] if _turned(operator) else [()]
        return [tcp, (condition(_turned(operator), tcp_flags=(value, mask)),)]
    raise NoEquivalent("compares whole fields, not single bits of them")


def _flag_bits(value: Any) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        return _FLAGS[value]
    bits = 0
    for each in value["|"] if isinstance(value, Mapping) and "|" in value else value:
        bits |= _flag_bits(each)
    return bits

"""Translate a `match` of nftables' JSON into clauses of mark rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import collapse_addresses, ip_address, ip_network, summarize_address_range
from typing import Any

from pylvs.model.mark_words import link_address, protocol_number
from pylvs.model.marks import ALL_BITS, MarkRule, Network, Ranges, checked_device, joined
from pylvs.netfilter.chains import CannotExpress, Clause, condition, ports

_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128}
_DSCP = {"ef": 46, "be": 0, "df": 0, **{f"cs{n}": 8 * n for n in range(8)}}
_DSCP |= {f"af{high}{low}": 8 * high + 2 * low for high in range(1, 5) for low in range(1, 4)}
_ETHER_TYPES = {"ip": 4, "ip6": 6, "0x0800": 4, "0x86dd": 6, 0x0800: 4, 0x86DD: 6, 8: 4}
_NFPROTO = {"ipv4": 4, "ipv6": 6, 2: 4, 10: 6}
_TURNED = {"==": False, "in": False, "!=": True}


def clauses(match: Mapping[str, Any]) -> list[Clause]:
    """Return the clauses of a match.

    Raises CannotExpress if mark rules have no equivalent, KeyError, TypeError or similar for an unknown form.
    """
    operator, left, right = match.get("op", "=="), match["left"], match["right"]
    kind, what = next(iter(left.items()))
    if kind == "&":
        return _masked(operator, what, right)
    if kind == "meta":
        return _meta(operator, what["key"], right)
    if kind == "payload":
        return _payload(operator, what, right)
    if kind == "ct":
        raise CannotExpress("it asks connection tracking, which has not seen the packet yet")
    raise CannotExpress(f"pylvs mark has no condition like {kind}")


def _values(right: Any) -> list[Any]:
    """Return the elements of an anonymous set, or the one value. Raises CannotExpress."""
    if isinstance(right, str) and right.startswith("@"):
        raise CannotExpress(f"it asks the set {right}, whose elements change behind a rule's back")
    if isinstance(right, Mapping) and "set" in right:
        found = right["set"]
        values = found if isinstance(found, list) else [found]
        return [each["elem"]["val"] if isinstance(each, Mapping) and "elem" in each else each for each in values]
    return [right]


def _turned(operator: str) -> bool:
    if operator not in _TURNED:
        raise CannotExpress(f"pylvs mark has no comparison like {operator}")
    return _TURNED[operator]


def _one_of(operator: str, conditions: Iterable[MarkRule]) -> list[Clause]:
    """Return a clause of alternatives; if negated, one clause for each."""
    return [(each,) for each in conditions] if _turned(operator) else [tuple(conditions)]


# --- meta ---


def _meta(operator: str, key: str, right: Any) -> list[Clause]:
    values, turned = _values(right), operator == "!="
    if key == "mark":
        if operator in ("<", ">", "<=", ">=") or any(not isinstance(each, int) for each in values):
            raise CannotExpress("pylvs mark compares marks with single values")
        return _one_of(operator, [condition(turned, mark=(each & ALL_BITS, ALL_BITS)) for each in values])
    if key in ("iifname", "iif"):
        if any("*" in str(each) for each in values):
            raise CannotExpress("pylvs mark knows whole names of devices")
        return _one_of(operator, [condition(turned, device=checked_device(str(each))) for each in values])
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
    raise CannotExpress(f"pylvs mark has no condition like meta {key}")


def _protocols(operator: str, values: Sequence[Any]) -> list[Clause]:
    names = {"ipv6-icmp": "58", "ip": "0", "tcp": "6", "udp": "17"}
    numbers = [each if isinstance(each, int) else protocol_number(names.get(each, str(each))) for each in values]
    return _one_of(operator, [condition(operator == "!=", protocol=number) for number in numbers])


# --- headers ---


def _payload(operator: str, what: Mapping[str, Any], right: Any) -> list[Clause]:
    protocol, name = what["protocol"], what["field"]
    if protocol in ("ip", "ip6") and name in ("saddr", "daddr"):
        return _addresses(operator, "source" if name == "saddr" else "target", 4 if protocol == "ip" else 6, right)
    if protocol in ("ip", "ip6") and name in ("protocol", "nexthdr"):
        return [(condition(family=4 if protocol == "ip" else 6),), *_protocols(operator, _values(right))]
    if protocol in ("ip", "ip6") and name == "dscp":
        wanted = [_DSCP[each] if isinstance(each, str) else int(each) for each in _values(right)]
        turned = operator == "!="
        commands = _one_of(operator, [condition(turned, tos=(each << 2 & 0xFC, 0xFC)) for each in wanted])
        return [(condition(family=4 if protocol == "ip" else 6),), *commands]
    if protocol in ("tcp", "udp", "sctp", "th") and name in ("sport", "dport"):
        kind: list[Clause] = [] if protocol == "th" else [(condition(protocol=protocol_number(protocol)),)]
        side = "source_ports" if name == "sport" else "target_ports"
        return [*kind, ports(side, _ranges(operator, right), _turned_ports(operator))]
    if protocol == "tcp" and name == "flags":
        if isinstance(right, Mapping) and "set" in right:
            turned = operator == "!="
            flags = [condition(turned, tcp_flags=(_flag_bits(each), 0xFF)) for each in _values(right)]
            return [(condition(protocol=6),), *_one_of(operator, flags)]
        return _masked(operator, [{"payload": what}, 0xFF], right)
    if protocol == "ether" and name == "saddr":
        turned = operator == "!="
        return _one_of(operator, [condition(turned, link=link_address(each)) for each in _values(right)])
    raise CannotExpress(f"pylvs mark has no condition like {protocol} {name}")


def _addresses(operator: str, side: str, family: int, right: Any) -> list[Clause]:
    found: list[Network] = [network for value in _values(right) for network in _networks(value)]
    networks = list(collapse_addresses(found))  # type: ignore[type-var]  # nft allows one family in a set
    turned = _turned(operator)
    wanted = [condition(turned, **{side: each}) for each in networks]
    return [(condition(family=family),), *_one_of(operator, wanted)]


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
    if operator in ("<", ">", "<=", ">="):
        return {"<": ((0, right - 1),), "<=": ((0, right),), ">": ((right + 1, 0xFFFF),), ">=": ((right, 0xFFFF),)}[
            operator
        ]
    found = []
    for value in _values(right):
        if isinstance(value, Mapping) and "range" in value:
            found.append((int(value["range"][0]), int(value["range"][1])))
        elif isinstance(value, int):
            found.append((value, value))
        else:
            raise CannotExpress("a port that is computed")
    return joined(found)


def _turned_ports(operator: str) -> bool:
    return operator == "!="


# --- bits ---


def _masked(operator: str, what: Sequence[Any], right: Any) -> list[Clause]:
    """Return the clauses of `mark and 0xff == 1`, `tcp flags & (syn | ack) == syn` or `tcp flags syn`."""
    left, bits = what
    if left == {"meta": {"key": "mark"}} and isinstance(bits, int) and isinstance(right, int):
        if operator == "in":
            raise CannotExpress("pylvs mark compares marks with single values")
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
    raise CannotExpress("it looks at single bits of what pylvs mark takes as a whole")


def _flag_bits(value: Any) -> int:
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        return _FLAGS[value]
    if isinstance(value, Mapping) and "|" in value:
        return _flag_bits(list(value["|"]))
    bits = 0
    for each in value:
        bits |= _flag_bits(each)
    return bits

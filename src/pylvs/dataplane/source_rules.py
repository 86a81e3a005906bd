"""Source rules of services, in the map: one trie for the rules of all services.

The key of a rule begins with the slot of its service and the number of its set, which is the generation of the edit
that wrote it. The version of the service names the set in force. So an edit writes another set beside it, and the
commit of the edit replaces all rules at once.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from pylvs.bpf import abi, maps
from pylvs.dataplane.tables import Tables, address_bytes, address_of
from pylvs.model.source_rules import Action, SourceRule

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any


def _key_form() -> struct.Struct:
    return abi.struct("source_prefix").view("bits", "service", "set", "network:16s")


def _rule_form() -> struct.Struct:
    return abi.struct("source_rule").view("action", "client_bits", "interval_ns", "burst", "rate", "period_s")


def write(tables: Tables, generation: int, slot: int, rules: Sequence[SourceRule]) -> int:
    """Write a set for the service of a slot, by the edit of this generation. Return its number; 0 without rules.

    Raises NoSpace.
    """
    if not rules:
        return 0
    key, value, fixed = _key_form(), _rule_form(), abi.constant("SOURCE_SET_BITS")
    keys, values = bytearray(), bytearray()
    for rule in rules:
        prefix = rule.prefix
        keys += key.pack(fixed + prefix.prefixlen, slot, generation, address_bytes(prefix.network_address))
        values += value.pack(rule.action, rule.client_bits, rule.interval_ns, rule.burst, rule.rate, rule.period_s)
    tables.source_rules.put_many(bytes(keys), bytes(values), len(rules))
    return generation


def read(tables: Tables, slot: int, version: Mapping[str, Any]) -> list[SourceRule]:
    """Return the rules of the service that has this version, in no particular order."""
    if not version["source_rules"]:
        return []
    key, value, fixed = _key_form(), _rule_form(), abi.constant("SOURCE_SET_BITS")
    network = IPv4Network if version["family"] == 4 else IPv6Network
    wanted, found = (slot, version["source_rules"]), list[SourceRule]()
    for raw, fields in tables.source_rules.items():
        bits, *of, address = key.unpack(raw)
        if tuple(of) == wanted:
            action, client_bits, _, burst, rate, period_s = value.unpack(fields)
            prefix = network((address_of(address, version["family"]), bits - fixed))
            found.append(SourceRule(prefix, Action(action), rate, period_s, burst, client_bits))
    return found


def forget(tables: Tables, sets: Collection[tuple[int, int]]) -> None:
    """Remove sets, each of a slot and with a number, that no version in force names; once no packet can read them."""
    doomed = {each for each in sets if each[1]}
    if doomed:
        _remove(tables, [key for key, of in _keys(tables) if of in doomed])


def keep_only(tables: Tables, present: Mapping[int, Mapping[str, Any]]) -> None:
    """Remove all sets but those that these versions name, by slot."""
    named = {(slot, version["source_rules"]) for slot, version in present.items()}
    _remove(tables, [key for key, of in _keys(tables) if of not in named])


def _keys(tables: Tables) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield all keys, each with the slot and the number of its set."""
    form = abi.struct("source_prefix").view("service", "set")
    for keys, _, count in tables.source_rules.chunks():
        packed = bytes(keys[: count * form.size])
        for at, of in enumerate(form.iter_unpack(packed)):
            yield packed[at * form.size : (at + 1) * form.size], (of[0], of[1])


def _remove(tables: Tables, keys: Sequence[bytes]) -> None:
    if keys:
        maps.grace_period()  # a packet may still read them
        tables.source_rules.remove_many(b"".join(keys), len(keys))

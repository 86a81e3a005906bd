"""Client rules of services, in the map: one trie for the rules of all services.

The key of a rule begins with the slot of its service and the number of its set. That is the generation of the edit that
wrote it. The version of the service names the set in force. So an edit writes another set beside it, and the commit of
the edit replaces all rules at once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from pylvs.bpf import abi
from pylvs.dataplane.tables import Tables, address_bytes, key_of
from pylvs.dataplane.transaction import Transaction, forget_rules
from pylvs.model.client_rules import Action, ClientRule, checked

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pylvs.dataplane.bulk_add import BulkAdd
    from pylvs.dataplane.reader import Reader
    from pylvs.model.service import ServiceKey


def _key_form() -> struct.Struct:
    return abi.struct("client_prefix").view("bits", "service", "set", "network:16s")


def _rule_form() -> struct.Struct:
    return abi.struct("client_rule").view("action", "client_bits", "interval_ns", "burst", "rate", "period_s")


def write(tables: Tables, generation: int, slot: int, rules: Sequence[ClientRule]) -> int:
    """Write a set for the service of a slot, by the edit of this generation. Return its number; 0 without rules.

    Raises NoSpace.
    """
    if not rules:
        return 0
    key, value, fixed = _key_form(), _rule_form(), abi.constant("RULE_SET_BITS")
    keys, values = bytearray(), bytearray()
    for rule in rules:
        prefix = rule.prefix
        keys += key.pack(fixed + prefix.prefixlen, slot, generation, address_bytes(prefix.network_address))
        values += value.pack(rule.action, rule.client_bits, rule.interval_ns, rule.burst, rule.rate, rule.period_s)
    tables.client_rules.put_many(bytes(keys), bytes(values), len(rules))
    return generation


def read(tables: Tables, services: Mapping[int, Mapping[str, Any]]) -> dict[int, list[ClientRule]]:
    """Return the rules of services, by slot, in no particular order. `services` has their versions."""
    sets = {(slot, version["client_rules"]): slot for slot, version in services.items() if version["client_rules"]}
    found: dict[int, list[ClientRule]] = {slot: [] for slot in services}
    if not sets:
        return found
    key, value, fixed = _key_form(), _rule_form(), abi.constant("RULE_SET_BITS")
    for raw, fields in tables.client_rules.items():
        bits, *of, address = key.unpack(raw)
        slot = sets.get((of[0], of[1]))
        if slot is not None:
            action, client_bits, _, burst, rate, period_s = value.unpack(fields)
            family = services[slot]["family"]
            network = IPv4Network if family == 4 else IPv6Network
            prefix = network((int.from_bytes(address[: 4 if family == 4 else 16]), bits - fixed))
            found[slot].append(ClientRule(prefix, Action(action), rate, period_s, burst, client_bits))
    return found


class ClientRules:
    """The rules of all services."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._tables = reader.tables

    def listed(self) -> dict[ServiceKey, tuple[ClientRule, ...]]:
        """Return the rules of the services in force that have any, in the order of their prefixes."""
        return self._reader.steadily(self._read_all)

    def _read_all(self, live: int) -> dict[ServiceKey, tuple[ClientRule, ...]]:
        versions = self._reader.versions
        if not versions.facts(live).get("client_rules")[0]:
            return {}
        services = {slot: each for slot, each in versions.services(live) if each["client_rules"]}
        return {
            key_of(services[slot]): _checked(services[slot], rules)
            for slot, rules in read(self._tables, services).items()
        }

    def change(
        self, slot: int, version: dict[str, Any], wanted: Callable[[list[ClientRule]], Sequence[ClientRule]]
    ) -> None:
        """Replace the rules of a service by one store. The caller holds the lock. Raises InvalidOperation, NoSpace."""
        rules = _checked(version, wanted(read(self._tables, {slot: version})[slot]))
        with Transaction(self._tables) as edit:
            fields = version | {"client_rules": write(self._tables, edit.generation, slot, rules)}
            edit.count_extras(version, -1)
            edit.count_extras(fields, 1)
            edit.write_version(slot, edit.generation, fields)
            edit.commit()
            forget_rules(self._tables, [(slot, version["client_rules"])])

    def begin(self, new: BulkAdd, key: ServiceKey, rules: Sequence[ClientRule]) -> bool:
        """Give a new service its rules, which take effect with it; return False if it is not new, or has some.

        Raises InvalidOperation, NoSpace.
        """
        found = new.without_rules(key)
        if found is None:
            return False
        slot, fields, generation = found
        rules = _checked(fields, rules)
        new.whole = False  # a set that is not complete is removed by `bring_in`
        fields["client_rules"] = write(self._tables, generation, slot, rules)
        new.whole = True
        return True


def _checked(version: dict[str, Any], rules: Sequence[ClientRule]) -> tuple[ClientRule, ...]:
    return checked(key_of(version), version["family"], rules)

"""Client rules of services, in the map: one trie for the rules of all services.

The key of a rule begins with the slot of its service and the number of its set. That is the generation of the edit that
wrote it. The version of the service names the set in force. So an edit writes another set beside it, and the commit of
the edit replaces all rules at once. One rule is added to the set in force, or deleted from it, by a single store. So
the time does not depend on the number of rules.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network

from pylvs.bpf import abi
from pylvs.dataplane.tables import Tables, address_bytes, key_of
from pylvs.dataplane.transaction import NO_RULES, Transaction, forget_rules, rule_keys
from pylvs.model.client_rules import Action, ClientRule, Network, checked, edited

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any

    from pylvs.dataplane.bulk_add import BulkAdd
    from pylvs.dataplane.reader import Reader
    from pylvs.model.service import ServiceKey


class _Codec:
    """Encodes and decodes the elements of the map."""

    def __init__(self) -> None:
        self._key = abi.struct("client_prefix").view("bits", "service", "set", "network:16s")
        self._value = abi.struct("client_rule").view(
            "action", "client_bits", "interval_ns", "burst", "rate", "period_s", "bits"
        )
        self._fixed = abi.constant("RULE_SET_BITS")

    def key(self, slot: int, number: int, prefix: Network) -> bytes:
        """Return the key of a prefix in a set of the service of a slot."""
        return self._key.pack(self._fixed + prefix.prefixlen, slot, number, address_bytes(prefix.network_address))

    def value(self, rule: ClientRule) -> bytes:
        """Encode a rule."""
        bits = self._fixed + rule.prefix.prefixlen
        return self._value.pack(
            rule.action, rule.client_bits, rule.interval_ns, rule.burst, rule.rate, rule.period_s, bits
        )

    def parts(self, key: bytes) -> tuple[tuple[int, int], bytes]:
        """Return the slot of the service and the number of the set, and the address of the prefix."""
        _, slot, number, address = self._key.unpack(key)
        return (slot, number), address

    def length(self, value: bytes) -> int:
        """Return the length of the prefix: a lookup finds that of a shorter one, too."""
        *_, bits = self._value.unpack(value)
        return int(bits) - self._fixed

    def rule(self, address: bytes, value: bytes, family: int) -> ClientRule:
        """Return the rule of an address and a value, which has the length of the prefix."""
        action, client_bits, _, burst, rate, period_s, bits = self._value.unpack(value)
        network = IPv4Network if family == 4 else IPv6Network
        prefix = network((int.from_bytes(address[: 4 if family == 4 else 16]), bits - self._fixed))
        return ClientRule(prefix, Action(action), rate, period_s, burst, client_bits)


def write(tables: Tables, generation: int, slot: int, rules: Sequence[ClientRule]) -> dict[str, int]:
    """Write a set for the service of a slot, by the edit of this generation.

    Return the fields of the service's version: the number of the set, and the length of its longest prefix; 0 without
    rules. Raises NoSpace.
    """
    if not rules:
        return NO_RULES
    codec = _Codec()
    keys = b"".join(codec.key(slot, generation, rule.prefix) for rule in rules)
    tables.client_rules.put_many(keys, b"".join(map(codec.value, rules)), len(rules))
    return {"client_rules": generation, "rule_bits": max(map(_bits, rules))}


def _bits(rule: ClientRule) -> int:
    """Return the length of a rule's prefix as versions of services have it: not 0, which means that it is not known."""
    return rule.prefix.prefixlen or 1


def read(tables: Tables, services: Mapping[int, Mapping[str, Any]]) -> dict[int, list[ClientRule]]:
    """Return the rules of services, by slot, in no particular order. `services` has their versions."""
    sets = {(slot, version["client_rules"]): slot for slot, version in services.items() if version["client_rules"]}
    found: dict[int, list[ClientRule]] = {slot: [] for slot in services}
    if not sets:
        return found
    codec = _Codec()
    for key, value in tables.client_rules.items():
        of, address = codec.parts(key)
        slot = sets.get(of)
        if slot is not None:
            found[slot].append(codec.rule(address, value, services[slot]["family"]))
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
            fields = version | write(self._tables, edit.generation, slot, rules)
            edit.count_extras(version, -1)
            edit.count_extras(fields, 1)
            edit.write_version(slot, edit.generation, fields)
            edit.commit()
            forget_rules(self._tables, [(slot, version["client_rules"])])

    def edit(
        self, slot: int, version: dict[str, Any], added: Sequence[ClientRule], doomed: Collection[Network]
    ) -> None:
        """Add rules to those of a service, and delete those of prefixes, by one store. The caller holds the lock.

        Raises InvalidOperation, NoSpace.
        """
        is_one = version["client_rules"] and len(added) + len(doomed) == 1
        if not (is_one and self._edit_one(slot, version, added, doomed)):
            self.change(slot, version, lambda rules: edited(key_of(version), rules, added, doomed))

    def _edit_one(
        self, slot: int, version: dict[str, Any], added: Sequence[ClientRule], doomed: Collection[Network]
    ) -> bool:
        """Add or delete one rule of the set in force; return False if no rule would be left."""
        codec, elements, number = _Codec(), self._tables.client_rules, version["client_rules"]
        prefix = next(iter(doomed)) if doomed else added[0].prefix
        key, before = codec.key(slot, number, prefix), list[ClientRule]()
        value = elements.get(key)
        if value and codec.length(value) == prefix.prefixlen:
            before = [codec.rule(address_bytes(prefix.network_address), value, version["family"])]
        _checked(version, edited(key_of(version), before, added, doomed))
        if doomed and all(other == key or of != (slot, number) for other, of in rule_keys(self._tables)):
            return False
        with Transaction(self._tables) as edit:
            if added and version["rule_bits"]:
                version |= {"rule_bits": max(version["rule_bits"], _bits(added[0]))}
            edit.write_version(slot, edit.generation, version)  # so that others see an edit
            elements.put(key, codec.value(added[0])) if added else elements.remove(key)
            edit.commit()
        return True

    def begin(self, new: BulkAdd, key: ServiceKey, wanted: Callable[[list[ClientRule]], Sequence[ClientRule]]) -> bool:
        """Give a new service its rules, which take effect with it; return False if it is not new, or has some.

        Raises InvalidOperation, NoSpace.
        """
        found = new.without_rules(key)
        if found is None:
            return False
        slot, fields, generation = found
        rules = _checked(fields, wanted([]))
        new.whole = False  # a set that is not complete is removed by `bring_in`
        fields |= write(self._tables, generation, slot, rules)
        new.whole = True
        return True


def _checked(version: dict[str, Any], rules: Sequence[ClientRule]) -> tuple[ClientRule, ...]:
    return checked(key_of(version), version["family"], rules)

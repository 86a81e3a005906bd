"""The rules that set firewall marks, in the maps: two lists, of which the facts in force name one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network

from pylvs.bpf import abi, maps
from pylvs.dataplane.tables import Facts, Tables, Versions, address_bytes, address_of, replace_keys
from pylvs.dataplane.transaction import Transaction
from pylvs.model import sockets as socket
from pylvs.model.errors import NoSpace
from pylvs.model.marks import MarkRule, Network, Not, checked
from pylvs.netlink import links

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import Any


def _device_number(name: str) -> int:
    """Return the index of a device now. A missing device matches no packet, as in netfilter."""
    if not name:
        return 0
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return abi.constant("NOTHING")


def _network_fields(name: str, network: Network | None) -> dict[str, bytes]:
    if network is None:
        return {}
    return {name: address_bytes(network.network_address), f"{name}_mask": address_bytes(network.netmask)}


def _network(address: bytes, mask: bytes, family: int, turned: int) -> Network | None:
    if not family or not (any(mask) or turned):
        return None
    bits = int.from_bytes(mask, "big").bit_count()
    where = (address_of(address, family), bits)
    return IPv4Network(where) if family == 4 else IPv6Network(where)


def _packed(rule: MarkRule) -> bytes:
    codec = abi.struct("mark_rule")
    ranges = abi.struct("port_range")
    fields: dict[str, Any] = {
        **_network_fields("saddr", rule.source),
        **_network_fields("daddr", rule.target),
        "flags": int(rule.turned),
        "mask": rule.mask,
        "value": rule.value,
        "then_skip": rule.then_skip,
        "else_skip": rule.else_skip,
        "device": _device_number(rule.device),
        "family": rule.family,
        "protocol": rule.protocol,
        "device_name": rule.device.encode(),
        "sport_ranges": len(rule.source_ports),
        "dport_ranges": len(rule.target_ports),
        "sports": b"".join(ranges.pack(first=first, last=last) for first, last in rule.source_ports),
        "dports": b"".join(ranges.pack(first=first, last=last) for first, last in rule.target_ports),
    }
    if rule.link:
        fields["flags"] |= abi.constant("MARK_BY_LINK")
        fields["link"] = rule.link
    for flag, name, wanted in (
        ("MARK_BY_TCP_FLAGS", "tcp_flags", rule.tcp_flags),
        ("MARK_BY_TOS", "tos", rule.tos),
        ("MARK_BY_MARK", "asked_mark", rule.mark),
    ):
        if wanted is not None:
            fields["flags"] |= abi.constant(flag)
            fields[name], fields[f"{name}_mask"] = wanted
    return codec.pack(fields)


def _rule(fields: dict[str, Any]) -> MarkRule:
    ranges = abi.struct("port_range")

    def ports(side: str) -> tuple[tuple[int, int], ...]:
        raw = fields[f"{side}s"]
        unpacked = [ranges.unpack_from(raw, ranges.size * number) for number in range(fields[f"{side}_ranges"])]
        return tuple((found["first"], found["last"]) for found in unpacked)

    def asked(flag: str, name: str) -> tuple[int, int] | None:
        return (fields[name], fields[f"{name}_mask"]) if fields["flags"] & abi.constant(flag) else None

    return MarkRule(
        mask=fields["mask"],
        value=fields["value"],
        family=fields["family"],
        protocol=fields["protocol"],
        source=_network(fields["saddr"], fields["saddr_mask"], fields["family"], fields["flags"] & Not.SOURCE),
        target=_network(fields["daddr"], fields["daddr_mask"], fields["family"], fields["flags"] & Not.TARGET),
        source_ports=ports("sport"),
        target_ports=ports("dport"),
        device=fields["device_name"].rstrip(b"\0").decode(),
        link=bytes(fields["link"]) if fields["flags"] & abi.constant("MARK_BY_LINK") else b"",
        tcp_flags=asked("MARK_BY_TCP_FLAGS", "tcp_flags"),
        tos=asked("MARK_BY_TOS", "tos"),
        mark=asked("MARK_BY_MARK", "asked_mark"),
        turned=Not(fields["flags"] & 0xFFFF),
        then_skip=fields["then_skip"],
        else_skip=fields["else_skip"],
    )


def read(tables: Tables, facts: Facts) -> list[MarkRule]:
    """Return the rules that these facts name."""
    (count,), (first,) = facts.get("mark_rules"), facts.get("first_mark_rule")
    return [_rule(tables.mark_rules.read(first + number)) for number in range(count)]


def change(tables: Tables, facts: Facts, wanted: Callable[[list[MarkRule]], list[MarkRule]]) -> list[MarkRule]:
    """Replace the rules by one store; return them. The caller holds the lock. Raises InvalidOperation, NoSpace."""
    fresh = [checked(rule) for rule in wanted(read(tables, facts))]
    with Transaction(tables) as edit:
        _replace(edit, fresh)
        edit.commit()
    return fresh


def _replace(edit: Transaction, rules: Sequence[MarkRule]) -> None:
    """Write a new list beside the one in force; the edit's commit puts it in force. Raises NoSpace."""
    most = abi.constant("MARK_RULES")
    if len(rules) > most:
        raise NoSpace(f"{len(rules)} mark rules; the table holds {most}", "mark rules", most)
    packed = [_packed(rule) for rule in rules]
    (first,) = edit.facts().get("first_mark_rule")
    beside = 0 if first else most
    maps.grace_period()  # a packet may still read the former list
    for number, each in enumerate(packed):
        edit.tables.mark_rules.replace(beside + number, each)
    edit.new_facts.set("first_mark_rule", beside)
    edit.new_facts.set("mark_rules", len(packed))


def refresh_devices(tables: Tables, facts: Facts) -> None:
    """Update the device indices of the rules in force, each by one store: a device made again has another index."""
    (count,), (first,) = facts.get("mark_rules"), facts.get("first_mark_rule")
    for index in range(first, first + count):
        name = tables.mark_rules.get(index, "device_name").rstrip(b"\0").decode()
        if name:
            number = _device_number(name)
            if tables.mark_rules.get(index, "device") != number:
                tables.mark_rules.set(index, "device", number)


def refresh_routed(versions: Versions) -> None:
    """Update the snapshot of those services' marks, each with a family, that policy routing treats as local."""
    codec = abi.struct("routed_mark")
    services = [version for _, version in versions.services(versions.live) if version["mark"]]
    marks = {(version["mark"], version["family"]) for version in services}
    local = {codec.pack(mark=mark, family=family) for mark, family in marks if links.routed_local(mark, family)}
    replace_keys(versions.tables.routed_marks, local)

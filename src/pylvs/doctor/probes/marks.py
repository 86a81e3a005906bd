"""Firewall marks: services whose mark no packet gets, and rules without an effect."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_network

from pylvs.dataplane import vip_roles
from pylvs.doctor.commands import named
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.probes.table import first_of_each
from pylvs.model.addresses import ANY_V4, ANY_V6, Address
from pylvs.model.errors import PylvsError
from pylvs.model.marks import ALL_BITS, MarkRule, Not, Packet, mark_of
from pylvs.model.marks.words import conditions, rule_text
from pylvs.model.service import ServiceKey, is_probe_mark
from pylvs.netlink import links

_IMPORT = "pylvs mark import"


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield services of marks that no packet gets, and marks that no service has."""
    if not facts.has_tables:
        return
    keys = [row.service.key for row in facts.services if row.service.key.mark]
    keys = [key for key in keys if not is_probe_mark(key.mark)]
    rules = facts.director.mark_rules()
    if not keys and not rules:
        return
    roles = vip_roles.in_force(facts.director.tables)
    local = [*(each.address for each in facts.addresses), *roles.standby, *roles.held]
    routed = {
        key for key in keys if links.routed_local(key.mark, key.address.version)
    }  # local, and their rules may name any address
    named_keys = [key for key in keys if key not in routed]
    found = [*of_services(keys, rules, lambda: _rules_of_netfilter(facts)), *of_targets(named_keys, rules, local)]
    yield from first_of_each([*found, *of_rules(keys, rules)])


def _rules_of_netfilter(facts: Facts) -> list[MarkRule]:
    """Return what the rules of nftables and iptables would be as mark rules; none if they cannot be read."""

    def read() -> list[MarkRule]:
        from pylvs.netfilter import hooks_of_host  # late: only directors with services of marks
        from pylvs.netfilter.chains import mark_rules

        try:
            return mark_rules(hooks_of_host()[0])[0]
        except PylvsError:
            return []

    return facts.once("netfilter_marks", read)


def of_services(
    keys: Sequence[ServiceKey], rules: Sequence[MarkRule], netfilter: Callable[[], Sequence[MarkRule]]
) -> Iterator[Finding]:
    """Yield the services whose mark no rule gives. `netfilter` has those of netfilter, which come too late."""
    for key in keys:
        if any(rule.may_give(key.mark, key.address.version) for rule in rules):
            continue
        late = [rule for rule in netfilter() if rule.may_give(key.mark, key.address.version)]
        if late:
            append = " --append" if rules else ""
            yield _unmarked(
                key,
                id="mark_in_netfilter",
                title=f"netfilter sets mark {key.mark} too late for {key}",
                evidence=f"a rule of nftables or iptables gives mark {key.mark}: {rule_text(late[0], 1)};"
                " pylvs mark list has none",
                why="XDP and TC see a packet before netfilter does, so it has no mark yet, and no service.",
                fix="Take the rules over.",
                command=f"{_IMPORT}{append}",
            )
        else:
            yield _unmarked(
                key,
                id="mark_unset",
                title=f"no rule sets mark {key.mark} of {key}",
                evidence=f"pylvs mark list has no rule that gives {key.mark}, and neither has netfilter",
                why="A packet without the mark does not belong to the service.",
                fix=f"Add a rule for the packets: pylvs mark add --dst VIP --proto tcp --dports PORTS {key.mark}",
            )


def _unmarked(key: ServiceKey, *, id: str, title: str, evidence: str, why: str, fix: str, command: str = "") -> Finding:
    return Finding(
        id=id,
        severity=Severity.ERROR,
        layer=Layer.TABLE,
        title=title,
        evidence=evidence,
        why=why,
        fix=fix,
        fix_command=command or None,
        fix_host=HERE if command else None,
        about=frozenset({str(key)}),
    )


def of_targets(keys: Sequence[ServiceKey], rules: Sequence[MarkRule], local: Sequence[Address]) -> Iterator[Finding]:
    """Yield services whose rules name only addresses that this host does not have, or that another rule overrules."""
    for key in keys:
        version = key.address.version
        giving = [(number, rule) for number, rule in enumerate(rules, 1) if rule.may_give(key.mark, version)]
        if not giving:
            continue
        targets = [rule.target for _, rule in giving if rule.target is not None and Not.TARGET not in rule.turned]
        own = [each for each in local if each.version == version and not each.is_loopback]
        if len(targets) == len(giving) and not any(each in target for target in targets for each in own):
            yield _misses(key, giving[0], f"{named(targets, 'network')}, and this host has {named(own, 'address')}")
            continue
        plain = [(number, rule) for number, rule in giving if rule.mask == ALL_BITS and rule.value == key.mark]
        sampled = [(number, rule, _packet(rule, version, own)) for number, rule in plain]
        if plain and len(plain) == len(giving) and all(mark_of(rules, each) != key.mark for *_, each in sampled):
            number, rule, packet = sampled[0]
            yield _overruled(key, number, rule, mark_of(rules, packet))


def _packet(rule: MarkRule, version: int, own: Sequence[Address]) -> Packet:
    """Return a packet that meets the conditions of a rule, as far as they are not inverted."""
    anywhere: Address = ANY_V4 if version == 4 else ANY_V6
    target = next((each for each in own if rule.target and each in rule.target), None)
    return Packet(
        source=rule.source[-2] if rule.source and rule.source.num_addresses > 2 else _first(rule.source, anywhere),
        target=target or _first(rule.target, anywhere),
        protocol=rule.protocol or 6,
        source_port=rule.source_ports[0][0] if rule.source_ports else 40000,
        target_port=rule.target_ports[0][0] if rule.target_ports else 0,
        device=rule.device,
        link=rule.link or bytes(6),
        tcp_flags=rule.tcp_flags[0] if rule.tcp_flags else 2,
        tos=rule.tos[0] if rule.tos else 0,
    )


def _first(network: object, default: Address) -> Address:
    return ip_network(str(network)).network_address if network is not None else default


def _misses(key: ServiceKey, giving: tuple[int, MarkRule], text: str) -> Finding:
    number, rule = giving
    return Finding(
        id="mark_rule_elsewhere",
        severity=Severity.ERROR,
        layer=Layer.TABLE,
        title=f"the rules that set mark {key.mark} name no address of this host",
        evidence=f"rule {number}: {rule_text(rule, number)}; it names {text}",
        why=f"Packets to this host get no mark, so none belongs to {key}.",
        fix="Name the virtual address in --dst: pylvs mark del, then pylvs mark add.",
        about=frozenset({str(key)}),
    )


def _overruled(key: ServiceKey, number: int, rule: MarkRule, instead: int) -> Finding:
    first = f"pylvs mark del --number {number} && pylvs mark add --at 1 --final {_arguments(rule)}"
    return Finding(
        id="mark_rule_overruled",
        severity=Severity.ERROR,
        layer=Layer.TABLE,
        title=f"another rule replaces mark {key.mark} of {key}",
        evidence=f"rule {number} gives {key.mark}: {rule_text(rule, number)}; after all rules packets have {instead}",
        why="The last rule that matches a packet decides its mark.",
        fix="Put the rule first, and end the evaluation with it.",
        fix_command=first,
        fix_host=HERE,
        about=frozenset({str(key)}),
    )


def _arguments(rule: MarkRule) -> str:
    """Return the arguments of pylvs mark add for a rule."""
    words = [word for name, text in conditions(rule).items() for word in (f"--{name}", text)]
    if rule.target is None:
        words += ["--dst", "::/0" if rule.family == 6 else "0.0.0.0/0"]
    return shlex.join([*words, str(rule.value)])


def of_rules(keys: Sequence[ServiceKey], rules: Sequence[MarkRule]) -> Iterator[Finding]:
    """Yield rules that give a mark which no service has, and no other rule reads."""
    marks = {(key.mark, key.address.version) for key in keys}
    read = any(rule.mark is not None for rule in rules)
    for number, rule in enumerate(rules, 1):
        families = (rule.family,) if rule.family else (4, 6)
        if read or rule.mask != ALL_BITS or not rule.value or any((rule.value, each) in marks for each in families):
            continue
        yield Finding(
            id="mark_without_service",
            severity=Severity.WARNING,
            layer=Layer.TABLE,
            title=f"a rule sets mark {rule.value}, and no service has it",
            evidence=f"rule {number}: {rule_text(rule, number)}; ipvsadm -Ln has no FWM {rule.value}",
            why="The packets of this rule belong to no service of a mark.",
            fix=f"Add the service, ipvsadm -A -f {rule.value}, or delete the rule.",
            fix_command=f"pylvs mark del --number {number}",
            fix_host=HERE,
        )

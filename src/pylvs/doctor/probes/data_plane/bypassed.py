"""Rules of the packet filter that are meant for a service, whose packets pass no hook of netfilter."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.packet_filter.host import packet_filter
from pylvs.doctor.packet_filter.packet import Decision, client_packet
from pylvs.model.service import ServiceKey

_MOST_SERVICES = 100
_MOST_RULES = 50


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield rules that would drop packets to a service, each once."""
    keys = [row.service.key for row in facts.services if not row.service.key.mark][:_MOST_SERVICES]
    rules = packet_filter(facts)
    found = dict[str, tuple[ServiceKey, Decision]]()
    for key in keys:
        for decision in rules.without_effect(client_packet(key), str(key.address)):
            found[decision.text] = key, decision
    if not found:
        return
    from pylvs.doctor.packet_filter.imports import advice, imports_of, is_missed  # late: only hosts with such a rule

    imports = imports_of(facts)
    for key, decision in islice(found.values(), _MOST_RULES):
        if not is_missed(key, decision, imports, rules):
            continue
        fix, command = advice(key, decision, imports)
        yield Finding(
            id="rule_bypassed",
            severity=Severity.WARNING,
            layer=Layer.ADVICE,
            title=f"a rule of the packet filter for {key} has no effect on it",
            evidence=decision.text,
            why="pylvs forwards packets at XDP and TC, before netfilter: the rule drops none of them.",
            fix=fix,
            fix_command=command,
            fix_host=HERE if command else None,
        )

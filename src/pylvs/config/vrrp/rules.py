"""Rules of the routing policy: those that name no preference get one, downwards, as in keepalived."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pylvs.config.effective import EffectiveBlock
from pylvs.config.findings import Findings
from pylvs.config.schema.rules import WrittenRule
from pylvs.model.dataclass import dataclass
from pylvs.model.routing import RoutingRule

FIRST_PREFERENCE = 16384


@dataclass(slots=True)
class RulePreferences:
    """Hands out the preferences of one configuration, in the order of the text."""

    findings: Findings
    next: int = FIRST_PREFERENCE

    def rules(self, block: EffectiveBlock, name: str) -> tuple[RoutingRule, ...]:
        """The rules in the blocks of a name, each with a preference."""
        return tuple(rule for inner in block.below(name) for rule in self.of_lines(inner))

    def of_lines(self, block: EffectiveBlock) -> Iterator[RoutingRule]:
        """The rules in a block of them."""
        for each in block.section.lines(WrittenRule):
            rule = each.rule
            if not each.preferred:
                text = f"the rule has no preference; it gets {self.next}"
                self.findings.warning(each.word.place, text, "write preference N")
                rule = replace(rule, preference=self.next)
                self.next -= 1
            yield rule

"""Lines of virtual_rules and static_rules: the unabbreviated arguments of `ip rule add`."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from typing import Any

from pylvs.config.language.tree import Word
from pylvs.config.schema.grammar import BadValue, Type, Words
from pylvs.config.schema.routes import MAX_U32, network_of, number_in, number_up_to, realms_of, service_of
from pylvs.config.schema.types import did_you_mean
from pylvs.model.dataclass import dataclass, field
from pylvs.model.routing import PROTOCOL_KEEPALIVED, RoutingRule
from pylvs.netlink.iproute2 import Names
from pylvs.netlink.iproute2 import number_of as plain_number

RULE_ACTIONS = ("nop", "blackhole", "unreachable", "prohibit")
EVERYTHING = ("all", "any", "default")
RANGE = re.compile(r"([0-9]+)(?:-([0-9]+))?\Z")
RULE_RANGES: Mapping[str, int] = {"uidrange": MAX_U32, "sport": 65535, "dport": 65535}
RULE_LIMITS: Mapping[str, int] = {"suppress_prefixlength": 128, "suppress_ifgroup": MAX_U32}
RULE_KEYWORDS = (
    *("from", "to", "not", "iif", "dev", "oif", "fwmark", "tos", "dsfield", "table", "lookup", "goto", "type"),
    *("l3mdev", "preference", "priority", "order", "realms", "protocol", "ipproto", "no_track", "inet", "inet6"),
    *(*RULE_RANGES, *RULE_LIMITS, *RULE_ACTIONS),
)


@dataclass(frozen=True, slots=True)
class WrittenRule:
    """A rule, and the words that findings about it, its devices and its group refer to."""

    rule: RoutingRule
    word: Word
    devices: tuple[Word, ...] = ()
    group: Word | None = None
    preferred: bool = True  # the line has a preference


@dataclass(slots=True)
class _RuleDraft:
    """A rule while its line is parsed."""

    words: Words
    family: int = 0
    action: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    options: list[tuple[str, str]] = field(default_factory=list)
    devices: list[Word] = field(default_factory=list)
    group: Word | None = None

    def act(self, action: str, word: Word) -> None:
        """Set the action; raises BadValue for a second one."""
        if self.action:
            raise BadValue(f"'{word.text}' is a second action", "write a rule for each", word)
        self.action = action

    def of_family(self, version: int, word: Word) -> None:
        """Set the family of the rule; raises BadValue if it has the other one."""
        if self.family not in (0, version):
            raise BadValue("IPv4 and IPv6 in one rule", "write a rule for each", word)
        self.family = version

    def network(self, name: str) -> None:
        """Take the source or destination network."""
        word = self.words.take(f"a network behind {'from' if name == 'source' else 'to'}")
        if word.text in EVERYTHING:
            return
        network = network_of(word, self.words)
        self.of_family(network.version, word)
        self.given[name] = network

    def mark(self) -> None:
        """Take MARK or MARK/MASK."""
        word = self.words.take("a mark")
        parts = [plain_number(part) for part in word.text.split("/", 1)]
        if any(part is None or not 0 <= part <= MAX_U32 for part in parts):
            raise BadValue(f"'{word.text}' is no mark", "write MARK or MARK/MASK", word)
        self.given["mark"] = parts[0]
        self.given["mark_mask"] = parts[1] if len(parts) > 1 else MAX_U32

    def number(self, what: str, maximum: int = MAX_U32) -> int:
        """Take a number from 0 to `maximum`."""
        return number_up_to(self.words.take(what), maximum, what)

    def option(self, name: str) -> None:
        """Check one of `ip rule`'s other options and keep its text."""
        word = self.words.take(f"a value behind {name}")
        if name in RULE_RANGES:
            match = RANGE.match(word.text)
            ends = [int(end) for end in match.groups() if end] if match else []
            if not ends or ends != sorted(ends) or ends[-1] > RULE_RANGES[name]:
                raise BadValue(
                    f"'{word.text}' is no range of numbers up to {RULE_RANGES[name]}", "write FIRST-LAST", word
                )
        elif name in RULE_LIMITS:
            number_up_to(word, RULE_LIMITS[name], name)
        elif name == "realms":
            realms_of(word)
        elif plain_number(word.text) is None:
            try:
                socket.getprotobyname(word.text)
            except OSError:
                near = did_you_mean(word.text, ("tcp", "udp", "sctp", "icmp"))
                raise BadValue(f"protocol '{word.text}' is not known", near, word) from None
        self.options.append((name, word.text))


@dataclass(frozen=True, slots=True)
class RuleLine(Type[WrittenRule]):
    """A rule; `static` if it does not depend on VRRP's state."""

    static: bool = False

    def parse(self, words: Words) -> WrittenRule:
        draft = _RuleDraft(words)
        first = words.peek() or words.take("a rule")
        for word in words.rest():
            self._word(draft, word)
        given = draft.given
        if not draft.action:
            raise BadValue("the rule does nothing", "write 'table N' or another action", first)
        preferred = "preference" in given
        if draft.action == "goto" and given.get("preference", 0) >= given["goto"]:
            raise BadValue(f"goto {given['goto']} is not behind preference {given.get('preference', 0)}", "", first)
        if given.get("tracked", True) and given.get("protocol", PROTOCOL_KEEPALIVED) != PROTOCOL_KEEPALIVED:
            words.warn(first, "a rule that is tracked has protocol keepalived", "remove protocol, or add no_track")
            del given["protocol"]
        group = draft.group.text if draft.group else ""
        rule = RoutingRule(
            family=draft.family or 4, action=draft.action, options=tuple(draft.options), track_group=group, **given
        )
        return WrittenRule(rule, first, tuple(draft.devices), draft.group, preferred)

    def _word(self, draft: _RuleDraft, word: Word) -> None:
        text, words, given = word.text, draft.words, draft.given
        if text in ("from", "to"):
            draft.network("source" if text == "from" else "destination")
        elif text == "not":
            given["inverted"] = True
        elif text in ("iif", "dev", "oif"):
            device = words.take(f"a device behind {text}")
            given["oif" if text == "oif" else "iif"] = device.text
            draft.devices.append(device)
        elif text == "fwmark":
            draft.mark()
        elif text in ("tos", "dsfield"):
            given["tos"] = service_of(words.take("a type of service"))
        elif text in ("preference", "priority", "order"):
            given["preference"] = draft.number("preference")
        elif text == "protocol":
            given["protocol"] = number_in(Names.PROTOCOLS, words.take("a protocol"), 255, "protocol")
        elif text == "no_track":
            given["tracked"] = False
        elif text in ("inet", "inet6"):
            draft.of_family(6 if text == "inet6" else 4, word)
        elif text in (*RULE_RANGES, *RULE_LIMITS, "realms", "ipproto"):
            draft.option(text)
        elif text == "track_group" and self.static:
            draft.group = words.take("the name of a track_group")
        else:
            self._action(draft, word)

    @staticmethod
    def _action(draft: _RuleDraft, word: Word) -> None:
        if word.text == "type":
            word = draft.words.take("an action behind type")
        if word.text in RULE_ACTIONS:
            draft.act(word.text, word)
        elif word.text in ("table", "lookup"):
            draft.act("table", word)
            value = draft.words.take("a table")
            draft.given["table"] = number_in(Names.TABLES, value, MAX_U32, "table")
            if not draft.given["table"]:
                raise BadValue("table 0 is none", "write another", value)
        elif word.text == "goto":
            draft.act("goto", word)
            draft.given["goto"] = draft.number("a preference behind goto")
        elif word.text == "l3mdev":
            draft.act("table", word)
            draft.given["l3mdev"] = True
        else:
            raise BadValue(f"'{word.text}' is not known in a rule", did_you_mean(word.text, RULE_KEYWORDS), word)

    def __str__(self) -> str:
        last = " [track_group NAME]" if self.static else ""
        selectors = "[from NETWORK] [to NETWORK] [iif DEVICE] [oif DEVICE] [fwmark MARK] [`ip rule`'s other selectors]"
        return f"{selectors} table TABLE|goto N|nop|blackhole|unreachable|prohibit preference N [no_track]{last}"

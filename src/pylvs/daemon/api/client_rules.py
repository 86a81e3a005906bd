"""The operations on client rules: list those of the table, and change those of the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

from pylvs.daemon.api import replies
from pylvs.daemon.api.operation import LINES, WAIT, Field, Given, Operation
from pylvs.daemon.api.tables import OF_TABLES, from_tables
from pylvs.model.client_rules import MOST_RULES, Action, ClientRule, prefix_of, rule_of
from pylvs.model.errors import NoSuchService
from pylvs.model.service import ServiceKey, is_probe_mark
from pylvs.system.http.lines import json_line
from pylvs.system.http.server import Response, Stream, json_response
from pylvs.system.threads import to_thread

if TYPE_CHECKING:
    from pylvs.daemon.supervisor import Supervisor

RULES_AT_ONCE = 2000  # of a listing: a thread takes some milliseconds
RULES_OF_A_PAGE = 1000

Origin = Literal["file", "operator", "other"]
ACTIONS: Mapping[Action, Literal["allow", "drop", "pass"]] = {
    Action.ALLOW: "allow",
    Action.DROP: "drop",
    Action.PASS: "pass",
}


class RuleListing:
    """The rules of services in the table.

    `operator` has those of the operator, and `configured` the services of the file.
    """

    def __init__(
        self,
        rules: Mapping[ServiceKey, Sequence[ClientRule]],
        operator: Mapping[ServiceKey, Collection[ClientRule]],
        configured: Collection[ServiceKey],
    ) -> None:
        self._rules = rules
        self._operator = operator
        self._configured = configured

    @property
    def total(self) -> int:
        """How many rules there are."""
        return sum(map(len, self._rules.values()))

    def lines(self, start: int = 0) -> Iterator[replies.ClientRuleLine]:
        """Yield the rules by service and prefix, from this number on; those before cost little."""
        found = ((key, rule) for key in sorted(self._rules, key=str) for rule in self._rules[key])
        return (_encoded(key, rule, self._origin(key, rule)) for key, rule in islice(found, start, None))

    def _origin(self, key: ServiceKey, rule: ClientRule) -> Origin:
        if rule in self._operator.get(key, ()):
            return "operator"
        return "file" if key in self._configured else "other"


def _encoded(key: ServiceKey, rule: ClientRule, origin: Origin) -> replies.ClientRuleLine:
    found: replies.ClientRuleLine = {
        "service": str(key),
        "rule": str(rule),
        "prefix": str(rule.prefix),
        "action": ACTIONS[rule.action],
        "origin": origin,
    }
    if rule.rate:
        found["rate"], found["period_s"] = rule.rate, rule.period_s
        found["burst"], found["client_bits"] = rule.burst, rule.client_bits
    return found


async def client_rules(daemon: Supervisor, given: Given) -> Stream:
    """Send the client rules in the table, of one service or of all. Raises Busy, NoSuchService."""
    return Stream(_pieces((await _rules_in_table(daemon, given)).lines()), LINES)


async def client_rules_page(daemon: Supervisor, given: Given) -> Response:
    """Return a part of that. Raises Busy, NoSuchService."""
    listing = await _rules_in_table(daemon, given)
    start: int = given.get("start", 0)

    def page() -> Response:
        reply: replies.ClientRulesPage = {
            "total": listing.total,
            "start": start,
            "rules": list(islice(listing.lines(start), RULES_OF_A_PAGE)),
        }
        return json_response(reply)

    return await to_thread(page)


async def _rules_in_table(daemon: Supervisor, given: Given) -> RuleListing:
    """Return the client rules of one service or of all. Raises Busy, NoSuchService."""
    service = given.get("service")
    found = await from_tables(daemon, daemon.reconciler.table.client_rules, given)
    names = {key: each.name for each in daemon.engine.configuration.services for key in each.keys}
    chosen = {
        key: rules
        for key, rules in found.items()
        if service in (None, str(key), names.get(key)) and not is_probe_mark(key.mark)
    }
    if service is not None and not chosen:
        raise NoSuchService(f"{service}: no such service in the table")
    return RuleListing(chosen, {key: daemon.services.rules.of(key) for key in chosen}, names.keys())


async def _pieces(lines: Iterator[replies.ClientRuleLine]) -> AsyncIterator[bytes]:
    """Yield lines; a thread encodes them, because there may be a million."""

    def piece() -> bytes:
        return b"".join(map(json_line, islice(lines, RULES_AT_ONCE)))

    while text := await to_thread(piece):
        yield text


def _parsed(texts: Sequence[str]) -> list[ClientRule]:
    return [rule_of(text.split()) for text in texts]


async def add_client_rules(daemon: Supervisor, given: Given) -> Response:
    rules = await to_thread(_parsed, given["rules"])
    return await _rules_changed(daemon, daemon.services.rules.add(given["service"], rules), given)


async def delete_client_rules(daemon: Supervisor, given: Given) -> Response:
    prefixes = [prefix_of(text) for text in given["prefixes"]]
    file = next(iter(daemon.loaded.files), "the configuration")
    name = daemon.services.rules.delete(given["service"], prefixes, file)
    return await _rules_changed(daemon, name, given)


async def replace_client_rules(daemon: Supervisor, given: Given) -> Response:
    rules = await to_thread(_parsed, given["rules"])
    return await _rules_changed(daemon, daemon.services.rules.replace(given["service"], rules), given)


async def _rules_changed(daemon: Supervisor, name: str, given: Given) -> Response:
    problem = ""
    if given.get("wait", True):
        last = await daemon.reconciler.reconcile()
        keys = daemon.engine.configuration.by_name()[name].keys
        refused = (text for text in last.refused if any(text.startswith(f"{key}: ") for key in keys))
        problem = last.error or next(refused, "")
    else:
        daemon.reconciler.wake()
    reply: replies.OperatorRulesReply = {
        "service": name,
        "rules": daemon.services.rules.count(name),
        "problem": problem,
        "not_kept": await daemon.services.saved(),
    }
    return json_response(reply)


_OF_SERVICE = Field(str, "the virtual server as status names it, or a key of it: TCP 192.0.2.1:80", required=True)
_RULES = {
    "service": _OF_SERVICE,
    "rules": Field(list, "client rules, each as pylvs filter add takes it", required=True),
    "wait": WAIT,
}
_PREFIXES = {
    "service": _OF_SERVICE,
    "prefixes": Field(list, "prefixes of client rules of the operator", required=True),
    "wait": WAIT,
}
_CLIENT_RULES_HELP = "The client rules of the services in the table. A JSON object a line."
_LISTED_RULES = {
    "service": Field(
        str, "a virtual server as status names it, or one of the table: TCP 192.0.2.1:80; without it, all"
    ),
    **OF_TABLES,
}
CLIENT_RULES = (
    Operation(
        "GET", "/v1/client-rules", _CLIENT_RULES_HELP, client_rules, replies.ClientRuleLine, _LISTED_RULES, LINES
    ),
    Operation(
        "GET",
        "/v1/client-rules/page",
        f"The same in pages, of {RULES_OF_A_PAGE} rules.",
        client_rules_page,
        replies.ClientRulesPage,
        {**_LISTED_RULES, "start": Field(int, "the first rule of the page, from 0", limits=(0, MOST_RULES))},
    ),
    Operation(
        "POST",
        "/v1/client-rules/add",
        "Add client rules of the operator, which hold beside those of the file.",
        add_client_rules,
        replies.OperatorRulesReply,
        _RULES,
    ),
    Operation(
        "POST",
        "/v1/client-rules/delete",
        "Delete client rules of the operator.",
        delete_client_rules,
        replies.OperatorRulesReply,
        _PREFIXES,
    ),
    Operation(
        "POST",
        "/v1/client-rules/replace",
        "Let these be all client rules of the operator; an empty list ends them.",
        replace_client_rules,
        replies.OperatorRulesReply,
        _RULES,
    ),
)

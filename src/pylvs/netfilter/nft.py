"""Parse the output of `nft -j list ruleset`: base chains at prerouting that set marks, and the chains they call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pylvs.model.errors import InvalidOperation
from pylvs.model.marks import ALL_BITS
from pylvs.netfilter import nft_match
from pylvs.netfilter.chains import CannotExpress, Hook, Rule, Skipped, compose

_FAMILIES = {"ip": 4, "ip6": 6, "inet": 0}
_PRIORITIES = {"raw": -300, "mangle": -150, "dstnat": -100, "filter": 0, "security": 50, "srcnat": 100}
_MARKING = '"mangle":{"key":{"meta":{"key":"mark"}}'
_WITHOUT_EFFECT = ("counter", "log", "comment", "continue", "set", "notrack", "dup")  # on marks and their order
_UNSUPPORTED = {
    "mangle": "it changes packets otherwise than by marks",
    "drop": "it drops packets; pylvs mark marks them",
    "reject": "it refuses packets; pylvs mark marks them",
    "vmap": "it decides by a map",
    "limit": "it counts packets over time",
    "xt": "iptables wrote it: import what iptables-save prints",
}
Object = Mapping[str, Any]


def hooks(text: str) -> list[Hook]:
    """Return the base chains of a ruleset. Raises InvalidOperation."""
    objects = _objects(text)
    chains: dict[tuple[str, str], dict[str, list[Rule | Skipped]]] = {}
    bases: list[Object] = []
    for kind, found in objects:
        if kind == "chain" and found.get("family") in _FAMILIES:
            chains.setdefault((found["family"], found["table"]), {})[found["name"]] = []
            if found.get("hook") == "prerouting":
                bases.append(found)
    for kind, found in objects:
        if kind == "rule":
            where = chains.get((found["family"], found["table"]), {})
            if found.get("chain") in where:
                where[found["chain"]].append(_read(found))
    return [hook for base in bases if (hook := _hook(base, chains[base["family"], base["table"]])) is not None]


def _objects(text: str) -> list[tuple[str, Object]]:
    """Return kind and content of each listed object. Raises InvalidOperation."""
    try:
        listed = [next(iter(each.items())) for each in json.loads(text)["nftables"]]
        for kind, found in listed:
            if kind in ("chain", "rule"):
                for name in ("family", "table", "name" if kind == "chain" else "chain"):
                    if not isinstance(found[name], str):
                        raise ValueError(name)
        return listed
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        raise InvalidOperation("not what nft -j list ruleset prints: no list of nftables in JSON") from None


def _hook(base: Object, chains: Mapping[str, Sequence[Rule | Skipped]]) -> Hook | None:
    """Return a base chain; None if neither it nor a chain that it calls sets marks."""
    name = f"{base['family']} {base['table']} {base['name']}"
    rules = list(chains[base["name"]])
    reached = _reached(rules, chains)
    if not any(_concerns_marks(rule) for rule in reached):
        return None
    if base.get("policy") == "drop":
        text = f"chain {name} policy drop"
        rules.append(Skipped(name, text, "a policy that drops packets; pylvs mark marks them"))
    priority = base.get("prio", 0)
    return Hook(
        name,
        priority if isinstance(priority, int) else _PRIORITIES.get(priority, 0),
        _FAMILIES[base["family"]],
        rules,
        chains,
    )


def _reached(rules: Sequence[Rule | Skipped], chains: Mapping[str, Sequence[Rule | Skipped]]) -> list[Rule | Skipped]:
    """Return these rules and those of all chains that they call, directly or indirectly."""
    found, todo, seen = list(rules), list(rules), set[str]()
    while todo:
        rule = todo.pop()
        if isinstance(rule, Rule) and rule.chain and rule.chain not in seen:
            seen.add(rule.chain)
            more = chains.get(rule.chain, ())
            found.extend(more)
            todo.extend(more)
    return found


def _concerns_marks(rule: Rule | Skipped) -> bool:
    return bool(rule.mask or rule.value) if isinstance(rule, Rule) else _MARKING in rule.text


def _read(rule: Object) -> Rule | Skipped:
    location = f"{rule['family']} {rule['table']} {rule['chain']} handle {rule.get('handle', '?')}"
    text = json.dumps(rule.get("expr", []), separators=(",", ":"))
    try:
        return _rule(location, text, rule.get("expr", []))
    except (CannotExpress, InvalidOperation) as error:
        return Skipped(location, text, str(error))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, StopIteration):
        return Skipped(location, text, "it is written in a way that is not known here")


def _rule(location: str, text: str, expressions: Sequence[Object]) -> Rule:
    clauses, mask, value, verdict, chain = [], 0, 0, "", ""
    for each in expressions:
        kind, content = next(iter(each.items()))
        if verdict:
            raise CannotExpress("it has a statement behind its verdict")
        if kind == "match":
            if mask or value:
                raise CannotExpress("it asks more after it has marked")
            clauses.extend(nft_match.clauses(content))
        elif kind == "mangle" and content["key"] == {"meta": {"key": "mark"}}:
            mask, value = compose(mask, value, *_marking(content["value"]))
        elif kind in ("accept", "return"):
            verdict = kind
        elif kind in ("jump", "goto"):
            verdict, chain = kind, content["target"]
        elif kind not in _WITHOUT_EFFECT:
            raise CannotExpress(_UNSUPPORTED.get(kind, f"pylvs mark has nothing like {kind}"))
    return Rule(location, text, tuple(clauses), mask, value, verdict, chain)


def _marking(value: Any) -> tuple[int, int]:
    """Return mask and value of `meta mark set`. Raises CannotExpress."""
    if isinstance(value, int):
        return ALL_BITS, value & ALL_BITS
    if value == {"meta": {"key": "mark"}}:
        return 0, 0
    if isinstance(value, Mapping) and len(value) == 1:
        operator, (inner, bits) = next(iter(value.items()))
        if isinstance(bits, int) and operator in ("&", "|", "^"):
            before = _marking(inner)
            done = {"&": (~bits & ALL_BITS, 0), "|": (bits, bits), "^": (0, bits)}[operator]
            return compose(*before, *done)
    raise CannotExpress("it computes the mark from what is not a mark")

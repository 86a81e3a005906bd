"""Plain values of dataclasses: all configurations come back equal, and no other value makes an object."""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Mapping
from enum import Enum, Flag
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_network,
)
from pathlib import Path
from types import NoneType, UnionType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.config.language.tree import Finding, Location, Severity
from pylvs.daemon import Options
from pylvs.model.addresses import Address, Network
from pylvs.model.checks import Check, HttpCheck, Target, TcpCheck, Url
from pylvs.model.dataclass import UNSET, dataclass, field
from pylvs.model.plain import Malformed, from_plain, to_plain
from pylvs.model.routing import Interface
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceFlag, ServiceKey
from pylvs.model.vrrp import Track, VrrpConfiguration, VrrpInstance
from pylvs.model.wanted import Configuration, Placement, WantedServer, WantedService

NUMBERS = st.integers() | st.sampled_from([0, 1, 2**31, 2**64])
TEXTS = st.text(st.characters(), max_size=8)  # lone surrogates, too: a path has them for bytes that are no text


def networks(kind: Any, addresses: Any, bits: int) -> Any:
    return st.builds(lambda address, prefix: kind((address, prefix), strict=False), addresses, st.integers(0, bits))


def interfaces(kind: Any, addresses: Any, bits: int) -> Any:
    return st.builds(lambda address, prefix: kind((address, prefix)), addresses, st.integers(0, bits))


V4, V6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
STRATEGIES: dict[Any, Any] = {
    str: TEXTS,
    int: NUMBERS,
    float: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9),
    bool: st.booleans(),
    NoneType: st.none(),
    bytes: st.binary(max_size=8),
    Path: st.builds(lambda text: Path("/" + text.replace("\0", "")), TEXTS),
    IPv4Address: V4,
    IPv6Address: V6,
    IPv4Network: networks(IPv4Network, V4, 32),
    IPv6Network: networks(IPv6Network, V6, 128),
    IPv4Interface: interfaces(IPv4Interface, V4, 32),
    IPv6Interface: interfaces(IPv6Interface, V6, 128),
}


def of(kind: Any) -> Any:
    """Return the strategy of a type, by its annotations."""
    if kind not in STRATEGIES:
        STRATEGIES[kind] = make(kind)
    return STRATEGIES[kind]


def make(kind: Any) -> Any:
    if isinstance(kind, UnionType):
        return st.one_of([of(each) for each in kind.__args__])
    origin = getattr(kind, "__origin__", None)
    if origin in (tuple, frozenset):
        if kind.__args__[-1] is ... or origin is frozenset:
            return st.builds(origin, st.lists(of(kind.__args__[0]), max_size=2))
        return st.tuples(*map(of, kind.__args__))
    if origin in (Mapping, dict):
        return st.dictionaries(*map(of, kind.__args__), max_size=2)
    if issubclass(kind, Flag):
        return st.builds(lambda flags: kind(sum(flags)), st.sets(st.sampled_from([each.value for each in kind])))
    if issubclass(kind, Enum):
        return st.sampled_from(kind)
    return st.one_of([fields(each) for each in [*classes(kind)]])


def classes(kind: Any) -> Any:
    yield kind
    for subclass in kind.__subclasses__():
        if hasattr(subclass, "__record__") and subclass is getattr(sys.modules[subclass.__module__], subclass.__name__):
            yield from classes(subclass)


def fields(cls: Any) -> Any:
    record = cls.__record__
    hints = {}
    for name, declared in record.items():
        base = next(base for base in cls.__mro__ if name in vars(base).get("__annotations__", ()))
        hints[name] = of(eval(declared.type, {**vars(sys.modules[base.__module__]), "Placement": Placement}))
    needed = {name for name, each in record.items() if each.default is UNSET and each.default_factory is UNSET}
    chosen = st.fixed_dictionaries(
        {name: hints[name] for name in needed}, optional={name: hints[name] for name in hints.keys() - needed}
    )
    return chosen.map(lambda values: cls(**values))


def over_the_wire(value: Any, kind: Any = None) -> Any:
    """Return the value after a conversion to JSON and back."""
    return from_plain(kind or type(value), json.loads(json.dumps(to_plain(value, kind))))


@given(of(WantedService) | of(VrrpInstance) | of(Configuration) | of(Check))
def test_any_object_comes_back_equal(value: Any) -> None:
    again = over_the_wire(value)
    assert again == value
    assert type(again) is type(value)


PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.floats() | TEXTS | st.sampled_from([10**400, -1, 2**70, "::1%x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)


@given(of(Configuration), PLAIN, st.randoms(use_true_random=False))
def test_any_other_value_is_malformed(value: Configuration, wrong: Any, chance: random.Random) -> None:
    """Replace one value somewhere in a configuration."""
    plain = json.loads(json.dumps(to_plain(value)))
    inner: Any = plain
    while True:
        keys = list(inner.keys()) if isinstance(inner, dict) else list(range(len(inner)))
        if not keys:
            break
        key = chance.choice(keys)
        if not isinstance(inner[key], dict | list) or chance.random() < 0.2:
            inner[key] = wrong
            break
        inner = inner[key]
    with contextlib.suppress(Malformed):
        made = from_plain(Configuration, plain)
        assert over_the_wire(made) == made


@given(PLAIN)
def test_any_value_at_all_is_an_object_or_malformed(value: Any) -> None:
    for kind in (Configuration, Check, tuple[Address, int] | None, frozenset[Network], Interface, Mapping[int, Track]):
        with contextlib.suppress(Malformed):
            assert over_the_wire(from_plain(kind, value), kind) == from_plain(kind, value)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (WantedService, {"name": "a"}, "WantedService needs keys"),
        (WantedService, {"name": "a", "keys": [], "x": 1}, "x: WantedService has no such field"),
        (WantedService, {"name": 1, "keys": []}, "name: must be str, not int"),
        (WantedService, {"name": "a", "keys": [{}]}, "keys[0]: ServiceKey needs address, port, protocol"),
        (WantedService, {"name": "a", "keys": [], "quorum": True}, "quorum: must be int, not bool"),
        (WantedService, {"name": "a", "keys": [], "flags": 64}, "flags: must be the number of flags within 0x3d"),
        (Track, [], "must be the fields of Track, not list"),
        (Track, {"name": None}, "name: must be str, not null"),
        (Check, ["Check"], "must be a list of the class and its fields"),
        (tuple[Track, int], [{"name": "a"}], "must be a list of 2"),
        (tuple[int, ...], [1, "2"], "[1]: must be int, not str"),
        (frozenset[Protocol], ["ICMP"], "[0]: must be one of TCP, UDP, SCTP"),
        (Mapping[str, int], {"a": None}, "[a]: must be int, not null"),
        (Mapping[int, str], [[1, 2]], "[0][1]: must be str, not int"),
        (float, float("nan"), "must be finite"),
        (float, 10**400, "must be finite"),
        (float, "1", "must be float or int, not str"),
        (bytes, "0g", "must be hexadecimal digits"),
        (Address, "10.0.0.256", "must be IPv4Address or IPv6Address"),
        (Network, "10.0.0.1/8", "must be IPv4Network or IPv6Network"),
        (IPv4Address | None, 1, "must be str or null, not int"),
    ],
)
def test_the_error_names_the_field(kind: Any, value: Any, text: str) -> None:
    with pytest.raises(Malformed) as caught:
        from_plain(kind, value)
    assert str(caught.value) == text


def test_the_error_names_a_field_deep_inside() -> None:
    target = Target(IPv4Address("10.0.0.1"), 80)
    check = HttpCheck(target=target, urls=(Url("/"),))
    server = WantedServer(Destination(DestinationKey(target.address, 80)), (check, check))
    service = WantedService("web", (ServiceKey(Protocol.TCP, target.address, 80),), servers=(server,))
    plain = to_plain(Configuration(services=(service, service)))
    plain["services"][1]["servers"][0]["checks"][1][1]["urls"][0]["statuses"] = [[200, "299"]]
    with pytest.raises(Malformed) as caught:
        from_plain(Configuration, plain)
    assert str(caught.value) == (
        "services[1].servers[0].checks[1].HttpCheck.urls[0].statuses[0][1]: must be int, not str"
    )


@dataclass(frozen=True, slots=True)
class Message:
    """A default that is made anew, values of any plain type, and keys that are no texts."""

    content: Any
    counts: dict[str, int] = field(default_factory=dict)
    hosts: Mapping[Address, frozenset[str]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)


def test_other_fields() -> None:
    empty = Message(None)
    assert to_plain(empty) == {"content": None}
    full = Message({"a": [1, None]}, {"x": 1}, {IPv4Address("10.0.0.1"): frozenset({"a"})}, ["b"])
    assert over_the_wire(full) == full
    assert over_the_wire(empty).counts is not over_the_wire(empty).counts


def test_a_union_of_classes_has_their_names() -> None:
    kind = Track | Message | None
    for each in Track("a", 3), Message(1), None:
        assert over_the_wire(each, kind) == each
    assert to_plain(Track("a"), kind) == ["Track", {"name": "a"}]
    assert to_plain(TcpCheck(target=Target(IPv4Address(1))), Check | None)[0] == "TcpCheck"
    with pytest.raises(Malformed, match="must be list or null, not str"):
        from_plain(kind, "Track")


@pytest.mark.parametrize("kind", [complex, str | IPv4Address, tuple[int, ...] | list[int], type])
def test_a_type_without_a_plain_value_is_a_mistake_of_the_program(kind: Any) -> None:
    with pytest.raises(TypeError):
        from_plain(kind, "1")


def test_types_that_only_type_checkers_import_are_given() -> None:
    options = Options("/a", placement=Placement("blue"), state_dir=Path("/run/x"))
    plain = to_plain(options, names={"Placement": Placement})
    assert from_plain(Options, json.loads(json.dumps(plain))) == options
    finding = Finding(Location("/a", 1, 2), Severity.ERROR, "text")
    assert over_the_wire(finding) == finding
    assert ip_network("10.0.0.0/8") == over_the_wire(ip_network("10.0.0.0/8"))
    assert ServiceFlag(5) == over_the_wire(ServiceFlag(5))
    assert over_the_wire(VrrpConfiguration()) == VrrpConfiguration()

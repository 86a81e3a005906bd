"""Client rules by the library: read, added, deleted and replaced, alone or with their service."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network

import pytest

import pylvs
from pylvs.daemon.state.directory import StateDirectory
from pylvs.daemon.state.saved import save_owned
from pylvs.model.client_rules import MOST_CONNECTIONS
from tests.packet.frames import tcp
from tests.packet.host import DROPPED, SENT, VIP4, VIP6, Host, server4

WEB = pylvs.Service("tcp", VIP4, 80, [pylvs.Server(server4(1), 80)])
WEB6 = pylvs.Service("tcp", VIP6, 80)
DENY, ALLOW, LIMIT = "deny 10.0.0.0/8", "allow 10.1.0.0/16", "limit 192.0.2.0/24 20/min per 28 burst 5 pass"
DENY_CLIENT = "deny 198.51.100.0/24"
CLIENT = "198.51.100.7"
_ports = itertools.count(30000)


@pytest.fixture
def director(director_host: Host) -> Iterator[pylvs.Director]:
    """Return a director with the service WEB alone, which has no rules."""
    with pylvs.Director() as opened:
        opened.clear()
        opened.add_service(WEB)
        yield opened


def texts(director: pylvs.Director, service: pylvs.Service = WEB) -> list[str]:
    return list(map(str, director.client_rules_of(service)))


def verdict(host: Host, client: str = CLIENT) -> int:
    """Return what becomes of a SYN of a client."""
    _, done = host.receive(tcp(source=client, sport=next(_ports), dport=80))
    return done.verdict


def test_rules_are_read_as_they_are_added_and_deleted(director: pylvs.Director) -> None:
    assert director.client_rules() == {}
    assert director.client_rules_of(WEB) == ()
    director.add_client_rules(WEB, [LIMIT, pylvs.ClientRule("10.0.0.0/8")])
    director.add_client_rules(str(WEB.key), iter([ALLOW]))
    assert texts(director) == [DENY, ALLOW, LIMIT]
    assert director.client_rules() == {WEB.key: director.client_rules_of(WEB.key)}
    director.delete_client_rules(WEB, ["10.1.0.0/16", ip_network("192.0.2.0/24")])
    assert texts(director) == [DENY]
    director.delete_client_rules(WEB, ["10.0.0.0/8"])
    assert director.client_rules() == {}


def test_packets_follow_the_rules(director_host: Host, director: pylvs.Director) -> None:
    sent = (*SENT["xdp"], *SENT["tc"])
    dropped = (DROPPED["xdp"], DROPPED["tc"])
    assert verdict(director_host) in sent
    director.add_client_rules(WEB, [DENY_CLIENT])
    assert verdict(director_host) in dropped
    director.replace_client_rules(WEB, [DENY_CLIENT, f"allow {CLIENT}"])
    assert verdict(director_host) in sent
    assert verdict(director_host, "198.51.100.8") in dropped
    director.replace_client_rules(WEB, [])
    assert verdict(director_host, "198.51.100.8") in sent


def test_the_same_rule_again_changes_nothing(director: pylvs.Director) -> None:
    for rules in [DENY], [DENY, ALLOW], [DENY, ALLOW, DENY]:
        director.add_client_rules(WEB, rules)
    assert texts(director) == [DENY, ALLOW]


def test_another_rule_of_a_prefix_is_refused_as_a_whole(director: pylvs.Director) -> None:
    director.add_client_rules(WEB, [DENY])
    for rules in ["allow 10.0.0.0/8"], [ALLOW, "allow 10.0.0.0/8"]:
        with pytest.raises(pylvs.Exists) as caught:
            director.add_client_rules(WEB, rules)
        assert (caught.value.service, caught.value.server, caught.value.prefix) == (
            WEB.key,
            None,
            ip_network("10.0.0.0/8"),
        )
        assert str(caught.value) == f"{WEB.key}: a client rule of 10.0.0.0/8 exists already"
    assert texts(director) == [DENY]


def test_a_prefix_without_a_rule_is_not_found_and_others_stay(director: pylvs.Director) -> None:
    director.add_client_rules(WEB, [DENY])
    for prefixes in ["10.0.0.0/9"], ["10.0.0.0/8", "10.0.0.0/9"]:
        with pytest.raises(pylvs.NotFound) as caught:
            director.delete_client_rules(WEB, prefixes)
        assert str(caught.value) == f"{WEB.key}: a client rule of 10.0.0.0/9 does not exist"
        assert pickle.loads(pickle.dumps(caught.value)).prefix == caught.value.prefix
    assert texts(director) == [DENY]


@pytest.mark.parametrize(
    "call",
    [
        lambda director, key: director.client_rules_of(key),
        lambda director, key: director.add_client_rules(key, [DENY]),
        lambda director, key: director.delete_client_rules(key, ["10.0.0.0/8"]),
        lambda director, key: director.replace_client_rules(key, [DENY]),
        lambda director, key: director.replace_client_rules(key, []),
    ],
)
def test_a_service_that_does_not_exist_is_named(
    director: pylvs.Director, call: Callable[[pylvs.Director, pylvs.ServiceKey], object]
) -> None:
    absent = pylvs.ServiceKey("tcp", VIP4, 81)
    with pytest.raises(pylvs.NotFound) as caught:
        call(director, absent)
    assert (caught.value.service, caught.value.prefix) == (absent, None)


@pytest.mark.parametrize(
    ("rules", "hint"),
    [
        (["deny 10.0.0.1/8"], "has bits behind its prefix"),
        (["deny 2001:db8::/32"], "the service is of IPv4"),
        ([DENY, "allow 10.0.0.0/8"], "10.0.0.0/8"),
        (["refuse 10.0.0.0/8"], "must be allow"),
        ([""], "must be allow"),
        (DENY, "in a list"),
        ([7], "in a list"),
    ],
)
def test_wrong_rules_are_refused_before_any_edit(director: pylvs.Director, rules: object, hint: str) -> None:
    director.add_client_rules(WEB, [LIMIT])
    for method in director.add_client_rules, director.replace_client_rules:
        with pytest.raises(pylvs.InvalidValue, match=hint) as caught:
            method(WEB, rules)  # type: ignore[arg-type]
        assert caught.value.field == "rules"
        assert "\n" not in str(caught.value)
    assert texts(director) == [LIMIT]


def test_a_service_is_new_with_its_rules(director_host: Host, director: pylvs.Director) -> None:
    director.clear()
    director.add_service(WEB, client_rules=[DENY_CLIENT])
    assert verdict(director_host) in (DROPPED["xdp"], DROPPED["tc"])
    with pytest.raises(pylvs.InvalidValue) as caught:
        director.add_service(WEB6, client_rules=[DENY])
    assert caught.value.field == "client_rules"
    assert [each.key for each in director.services()] == [WEB.key]


def test_apply_changes_services_and_rules_at_once(director: pylvs.Director) -> None:
    director.replace_client_rules(WEB, [DENY, LIMIT])
    heavier = dataclasses.replace(WEB, servers=(dataclasses.replace(WEB.servers[0], weight=7),))
    wanted = {WEB.key: [DENY, ALLOW], WEB6.key: ["deny 2001:db8::/32"]}
    planned = director.apply([heavier, WEB6], client_rules=wanted, dry_run=True)
    assert texts(director) == [DENY, LIMIT]
    found = director.apply([heavier, WEB6], client_rules=wanted)
    assert found == planned
    assert str(found).splitlines() == [
        f"~ {WEB.key}",
        f"~   {WEB.servers[0].key} weight 1 -> 7",
        f"-   client rule {LIMIT}",
        f"+   client rule {ALLOW}",
        f"+ {WEB6.key} wlc",
        "+   client rule deny 2001:db8::/32",
    ]
    assert texts(director) == [DENY, ALLOW]
    assert texts(director, WEB6) == ["deny 2001:db8::/32"]
    assert not director.apply([heavier, WEB6], client_rules=wanted)


def test_apply_of_rules_alone_is_a_difference(director: pylvs.Director) -> None:
    found = director.apply([WEB], client_rules={str(WEB.key): [DENY]})
    assert found.edited[0].before == found.edited[0].after == WEB
    assert list(map(str, found.edited[0].client_rules_after)) == texts(director) == [DENY]
    assert director.apply([WEB], client_rules={WEB: []}).edited[0].client_rules_after == ()
    assert director.client_rules() == {}


def test_rules_that_apply_does_not_name_stay(director: pylvs.Director) -> None:
    director.add_client_rules(WEB, [DENY])
    director.apply([dataclasses.replace(WEB, servers=())])
    director.apply([WEB, WEB6], client_rules={WEB6: []})
    assert texts(director) == [DENY]


@pytest.mark.parametrize(
    "rules", [{WEB6: []}, {WEB: ["x"]}, {WEB: None}, {"x": []}, {WEB: [], str(WEB.key): []}, {WEB: DENY}]
)
def test_apply_refuses_wrong_rules_and_changes_nothing(director: pylvs.Director, rules: dict[object, object]) -> None:
    director.add_client_rules(WEB, [DENY])
    with pytest.raises(pylvs.InvalidValue) as caught:
        director.apply([dataclasses.replace(WEB, servers=())], client_rules=rules)  # type: ignore[arg-type]
    assert caught.value.field == "client_rules"
    assert director.services() == (WEB,)
    assert texts(director) == [DENY]


def test_rules_of_a_daemon_stay(director: pylvs.Director) -> None:
    state = StateDirectory()
    state.path.mkdir(parents=True)
    try:
        save_owned(state, {WEB.key.to_model(): frozenset()})
        state.pid_path.write_text(f"{os.getpid()}\n")
        for call in (
            lambda: director.add_client_rules(WEB, [DENY]),
            lambda: director.delete_client_rules(WEB, ["10.0.0.0/8"]),
            lambda: director.replace_client_rules(WEB, []),
            lambda: director.apply([WEB], client_rules={WEB: [DENY]}),
        ):
            with pytest.raises(pylvs.OwnedByDaemon) as caught:
                call()
            assert (caught.value.service, caught.value.pid) == (WEB.key, os.getpid())
        assert director.client_rules_of(WEB) == ()
        with pylvs.Director(ignore_daemon=True) as careless:
            careless.add_client_rules(WEB, [DENY])
    finally:
        shutil.rmtree(state.path)
    assert texts(director) == [DENY]


def test_the_asynchronous_director_does_the_same(director: pylvs.Director) -> None:
    async def main() -> list[tuple[pylvs.ClientRule, ...]]:
        found = []
        async with pylvs.AsyncDirector() as opened:
            await opened.add_client_rules(WEB, [DENY, ALLOW])
            found.append(await opened.client_rules_of(WEB))
            await opened.delete_client_rules(WEB, ["10.0.0.0/8"])
            found.append((await opened.client_rules())[WEB.key])
            await opened.replace_client_rules(WEB, [LIMIT])
            found.append(await opened.client_rules_of(WEB))
            await opened.apply([WEB], client_rules={WEB: []})
            await opened.add_service(WEB6, client_rules=["deny 2001:db8::/32"])
            found.append((await opened.client_rules())[WEB6.key])
            with pytest.raises(pylvs.NotFound):
                await opened.delete_client_rules(WEB, ["10.0.0.0/8"])
        return found

    found = [list(map(str, each)) for each in asyncio.run(main())]
    assert found == [[DENY, ALLOW], [ALLOW], [LIMIT], ["deny 2001:db8::/32"]]
    assert list(director.client_rules()) == [WEB6.key]


@pytest.mark.parametrize(
    "text", [DENY, ALLOW, LIMIT, "limit 0.0.0.0/0 7/h", "limit 0.0.0.0/0 7/s per 0", "deny 2001:db8::/32 pass"]
)
def test_a_rule_round_trips(text: str) -> None:
    rule = pylvs.ClientRule.parse(text)
    assert str(rule) == text
    assert dataclasses.replace(rule) == rule
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert pylvs.ClientRule.from_model(rule.to_model()) == rule
    assert len({rule, pylvs.ClientRule.parse(text)}) == 1


def test_fields_are_those_of_the_text() -> None:
    rule = pylvs.ClientRule("192.0.2.0/24", "pass", rate=20, period_s=60, burst=5, client_bits=28)
    assert rule == pylvs.ClientRule.parse(LIMIT)
    one = pylvs.ClientRule(ip_address("192.0.2.7"), rate=20)
    assert (one.prefix, one.action, one.burst, one.client_bits) == (
        ip_network("192.0.2.7/32"),
        pylvs.ClientAction.DROP,
        20,
        32,
    )
    assert dataclasses.replace(pylvs.ClientRule("10.0.0.0/8"), rate=3).client_bits == 32


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prefix": "10.0.0.1/8"}, "prefix"),
        ({"prefix": "fe80::%1/64"}, "prefix"),
        ({"action": "deny"}, "action"),
        ({"action": "allow", "rate": 5}, "action"),
        ({"rate": -1}, "rate"),
        ({"rate": MOST_CONNECTIONS + 1}, "rate"),
        ({"rate": True}, "rate"),
        ({"rate": 5, "period_s": 2}, "period_s"),
        ({"rate": 5, "burst": MOST_CONNECTIONS + 1}, "burst"),
        ({"rate": 5, "client_bits": 7}, "client_bits"),
        ({"rate": 5, "client_bits": 33}, "client_bits"),
        ({"burst": 5}, "rate"),
        ({"client_bits": 8}, "rate"),
        ({"period_s": 60}, "rate"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], field: str) -> None:
    with pytest.raises(pylvs.InvalidValue) as caught:
        pylvs.ClientRule(**({"prefix": "10.0.0.0/8"} | fields))  # type: ignore[arg-type]
    assert caught.value.field == field

"""What the doctor advises for a rule of the packet filter that has no effect on a service."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from pylvs.doctor.packet_filter.imports import Imports, advice
from pylvs.doctor.packet_filter.packet import Decision, Verdict
from pylvs.model.dataclass import replace
from pylvs.model.service import Protocol, ServiceKey
from pylvs.netfilter import hooks_of
from pylvs.netfilter.chains import INPUT

KEY = ServiceKey(Protocol.TCP, ip_address("10.0.0.100"), 80)
OTHER = ServiceKey(Protocol.TCP, ip_address("10.0.0.101"), 80)
WORDS = "INPUT -s 192.0.2.0/24 -d 10.0.0.100/32 -p tcp -m tcp --dport 80 -m comment --comment %s -j DROP"
SAVED = """*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:own - [0:0]
-A INPUT -j own
-A %s
-A own -s 192.0.9.0/24 -d 10.0.0.100/32 -p tcp -m tcp --dport 80 -j DROP
COMMIT
"""
ADD = "Add a client rule to the service, by pylvs filter add"


def dropped(remove: str | None) -> Decision:
    return Decision(Verdict.DROP, "a rule", named=True, remove=remove)


def of_host(*, owned: tuple[ServiceKey, ...] = (), refused: bool = False) -> Imports:
    """Return what an import of a host with iptables can do."""
    hooks = hooks_of(SAVED % WORDS % '"a b"', position=INPUT)
    return Imports(hooks, (KEY, OTHER), owned=owned, is_refused=refused)


def test_a_rule_is_removed_only_after_a_strict_import() -> None:
    """Without --strict an import ends with 0 although it left out the rule."""
    remove = f"iptables-nft -D {WORDS % repr('a b')}"
    assert advice(KEY, dropped(remove), of_host())[1] == f"pylvs filter import --strict && {remove}"


@pytest.mark.parametrize(
    "remove",
    [
        pytest.param(f"iptables-legacy -D {WORDS % 'other'}", id="of the other variant of iptables"),
        pytest.param(
            "iptables-nft -D own -s 192.0.9.0/24 -d 10.0.0.100/32 -p tcp -m tcp --dport 80 -j DROP",
            id="of a chain that a rule calls",
        ),
        pytest.param(None, id="unknown"),
    ],
)
def test_a_rule_that_an_import_does_not_take_stays(remove: str | None) -> None:
    """The command would remove a protection that no client rule replaces."""
    fix, command = advice(KEY, dropped(remove), of_host())
    assert fix == f"{ADD}. Leave the rule itself if it protects anything else."
    assert command is None


def test_a_service_of_a_daemons_file_has_its_rules_in_the_file() -> None:
    """An import that would change the rules of such a service changes nothing."""
    remove = f"iptables-nft -D {WORDS % repr('a b')}"
    fix, command = advice(KEY, dropped(remove), of_host(owned=(KEY,), refused=True))
    assert ("client_rules" in fix, command) == (True, None)
    assert advice(KEY, dropped(remove), of_host(owned=(OTHER,), refused=True)) == (
        f"{ADD}; then remove it.",
        None,
    )


VIP, CLIENTS = "-d 10.0.0.100/32", "-s 192.0.2.0/24"


def of_rule(words: str, *keys: ServiceKey) -> tuple[Imports, str]:
    """Return what an import of a rule of iptables can do, and the command that removes the rule."""
    text = f"*filter\n:INPUT ACCEPT [0:0]\n-A INPUT {words} -j DROP\nCOMMIT\n"
    return Imports(hooks_of(text, position=INPUT), keys), f"iptables-nft -D INPUT {words} -j DROP"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(f"{CLIENTS} {VIP}", id="every protocol"),
        pytest.param(f"{CLIENTS} {VIP} -p tcp", id="every port"),
        pytest.param(f"{CLIENTS} {VIP} -p tcp -m multiport --dports 22,80", id="a port without a service"),
        pytest.param(f"{CLIENTS} {VIP} -p tcp -m tcp --dport 80:81", id="a range"),
        pytest.param(f"{CLIENTS} {VIP} -p tcp -m tcp ! --dport 22", id="all ports but one"),
        pytest.param(f"{CLIENTS} -d 10.0.0.100/31 -p tcp -m tcp --dport 80", id="a network"),
    ],
)
def test_a_rule_that_protects_more_than_services_stays(words: str) -> None:
    """netfilter still applies it to the rest."""
    imports, remove = of_rule(words, KEY)
    fix, command = advice(KEY, dropped(remove), imports)
    assert "Leave the rule" in fix
    assert command == "pylvs filter import --strict"


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        pytest.param(f"{CLIENTS} {VIP} -p tcp -m multiport --dports 80,443", (80, 443), id="two services"),
        pytest.param(f"{CLIENTS} {VIP} -p tcp", (80, 0), id="a service of every port"),
    ],
)
def test_a_rule_for_services_alone_is_removed(words: str, keys: tuple[int, ...]) -> None:
    """Client rules of these services replace all that it did."""
    imports, remove = of_rule(words, *(replace(KEY, port=each) for each in keys))
    assert advice(KEY, dropped(remove), imports)[1] == f"pylvs filter import --strict && {remove}"


def test_a_rule_of_nftables_is_known_by_its_handle() -> None:
    """A rule of other ports is not for the service, so no client rule replaces it."""

    def rule(handle: int, port: int) -> dict[str, object]:
        address = {
            "match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": str(KEY.address)}
        }
        dport = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": port}}
        chain_of = {"family": "inet", "table": "guard", "chain": "input"}
        return {"rule": {**chain_of, "handle": handle, "expr": [address, dport, {"drop": None}]}}

    chain = {"family": "inet", "table": "guard", "name": "input", "handle": 1, "type": "filter", "hook": "input"}
    listing = [
        {"table": {"family": "inet", "name": "guard", "handle": 1}},
        {"chain": {**chain, "prio": 0, "policy": "accept"}},
        rule(2, 80),
        rule(3, 81),
    ]
    imports = Imports(hooks_of(json.dumps({"nftables": listing}), position=INPUT), (KEY,))
    commands = [f"nft delete rule inet guard input handle {handle}" for handle in (2, 3)]
    advised = [advice(KEY, dropped(command), imports)[1] for command in commands]
    assert advised == [f"pylvs filter import --strict && {commands[0]}", None]

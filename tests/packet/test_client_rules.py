"""client rules of a service: which clients open connections at XDP and TC, how fast, and when rules change."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from ipaddress import ip_address

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Packet

from pylvs.bpf import abi, maps
from pylvs.daemon.table.cache import DesiredTable, TableCache
from pylvs.dataplane import transaction
from pylvs.dataplane.ends import ends
from pylvs.dataplane.rules import client_rules
from pylvs.dataplane.tables import Versions, address_bytes
from pylvs.model.client_rules import ClientRule, prefix_of, rule_of
from pylvs.model.errors import InvalidOperation, NoSpace, NoSuchService
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    VirtualService,
)
from pylvs.model.wanted import WantedRow
from tests.packet.frames import build, ether, network
from tests.packet.host import DROPPED, HOOKS, PASSED, SENT, VIP4, VIP6, Host, server4

each_hook = pytest.mark.parametrize("hook", HOOKS)
each_way = pytest.mark.parametrize("six", [False, True], ids=["v4", "v6"])
CLIENT = {False: "10.9.1.7", True: "fd99:1::7"}
BESIDE = {False: "10.9.2.7", True: "fd99:2::7"}
ELSEWHERE = {False: "198.51.100.7", True: "2001:db8::7"}
WIDE = {False: "10.9.0.0/16", True: "fd99::/16"}
NARROW = {False: "10.9.1.0/24", True: "fd99:1::/32"}
ALL = {False: "0.0.0.0/0", True: "::/0"}


def rules(*lines: str) -> list[ClientRule]:
    return [rule_of(line.split()) for line in lines]


def give(host: Host, service: ServiceKey, *lines: str) -> None:
    host.director.change_client_rules(service, lambda _: rules(*lines))


def serve(host: Host, six: bool = False, protocol: Protocol = Protocol.TCP, flags: int = 0) -> ServiceKey:
    service = host.new_key(protocol, VIP6 if six else VIP4)
    host.serve(service, flags=ServiceFlag(flags))
    return service


def frame_of(service: ServiceKey, client: str, sport: int, flags: str = "S") -> bytes:
    header: Packet = TCP(sport=sport, dport=service.port, flags=flags)
    if service.protocol == Protocol.UDP:
        header = UDP(sport=sport, dport=service.port) / b"ping"
    return build(ether() / network(client, str(service.address)) / header)


def verdict(host: Host, hook: str, service: ServiceKey, client: str, sport: int = 4000, flags: str = "S") -> str:
    """Return what becomes of a packet at a hook: "sent", "dropped" or "passed"."""
    found = host.run(frame_of(service, client, sport, flags), hook).verdict
    if found in SENT[hook]:
        return "sent"
    return {DROPPED[hook]: "dropped", PASSED[hook]: "passed"}[found]


def counted(host: Host, name: str, act: Callable[[], object]) -> int:
    """Return how many ends of a reason an action adds."""
    before = host.reason(name)
    act()
    return host.reason(name) - before


def of_services(host: Host) -> dict[ServiceKey, int]:
    """Return how many packets of each service were denied."""
    found = ends(host.director.tables).services
    return {each.service: each.count for each in found if each.reason == "client denied"}


@each_hook
@each_way
def test_the_longest_prefix_decides(director_host: Host, hook: str, six: bool) -> None:
    service = serve(director_host, six)
    give(director_host, service, f"deny {WIDE[six]}", f"allow {NARROW[six]}")
    assert verdict(director_host, hook, service, CLIENT[six]) == "sent"
    assert counted(director_host, "CLIENT_DENIED", lambda: verdict(director_host, hook, service, BESIDE[six])) == 1
    assert verdict(director_host, hook, service, BESIDE[six]) == "dropped"
    assert verdict(director_host, hook, service, ELSEWHERE[six]) == "sent"


@each_hook
def test_an_address_alone_and_all_addresses_are_prefixes(director_host: Host, hook: str) -> None:
    service = serve(director_host)
    give(director_host, service, "deny 0.0.0.0/0", "allow 10.9.1.7")
    assert verdict(director_host, hook, service, CLIENT[False]) == "sent"
    assert verdict(director_host, hook, service, BESIDE[False]) == "dropped"


@each_hook
@each_way
def test_a_connection_continues_when_its_client_is_denied(director_host: Host, hook: str, six: bool) -> None:
    service, client = serve(director_host, six), CLIENT[six]
    director_host.forwarded(frame_of(service, client, 4000), hook)
    give(director_host, service, f"deny {ALL[six]}")
    for flags in "S", "A", "PA", "FA":
        director_host.forwarded(frame_of(service, client, 4000, flags), hook)
    assert verdict(director_host, hook, service, client, 4001) == "dropped"
    director_host.wait_ticks()  # then the general path judges
    assert verdict(director_host, hook, service, client, 4001) == "dropped"


@each_hook
def test_the_stack_gets_what_a_rule_passes(director_host: Host, hook: str) -> None:
    service = serve(director_host)
    give(director_host, service, "deny 10.9.0.0/16 pass")
    assert verdict(director_host, hook, service, CLIENT[False]) == "passed"
    seen = counted(director_host, "CLIENT_PASSED", lambda: verdict(director_host, "tc", service, CLIENT[False]))
    assert seen == 1


@each_hook
def test_rules_of_one_service_leave_others_alone(director_host: Host, hook: str) -> None:
    denied, other = serve(director_host), serve(director_host)
    give(director_host, denied, "deny 0.0.0.0/0")
    for sport in 4000, 4001:
        assert verdict(director_host, hook, other, CLIENT[False], sport) == "sent"
        assert verdict(director_host, hook, denied, CLIENT[False], sport) == "dropped"
    assert of_services(director_host)[denied] == 2


@each_hook
@pytest.mark.parametrize("flags", [0, int(ServiceFlag.ONE_PACKET)], ids=["connections", "one packet"])
def test_datagrams_without_a_connection_are_judged(director_host: Host, hook: str, flags: int) -> None:
    service = serve(director_host, protocol=Protocol.UDP, flags=flags)
    give(director_host, service, "deny 10.9.0.0/16")
    assert verdict(director_host, hook, service, CLIENT[False]) == "dropped"
    assert verdict(director_host, "tc", service, ELSEWHERE[False]) == "sent"


def test_a_persistent_client_is_judged_at_each_connection(director_host: Host) -> None:
    service = director_host.new_key()
    director_host.serve(service, 2)
    director_host.director.edit_service(VirtualService(service, "rr", ServiceFlag.PERSISTENT, 300))
    assert verdict(director_host, "tc", service, CLIENT[False]) == "sent"
    give(director_host, service, "deny 10.9.0.0/16")
    assert verdict(director_host, "tc", service, CLIENT[False], 4001) == "dropped"


def test_the_rules_of_a_mark_apply_to_all_its_addresses(director_host: Host) -> None:
    mark = ServiceKey.of_mark(77)
    director_host.serve(mark)
    give(director_host, mark, "deny 10.9.0.0/16")
    frame = frame_of(ServiceKey(Protocol.TCP, ip_address(VIP4), 9), CLIENT[False], 4000)
    assert director_host.run(frame, "tc", mark=77).verdict == DROPPED["tc"]


# SYNs that follow a denied one: a shorter path decides about those of the same tick (bpf/fwd/denied.h).

FLOOD = 40
MANY = 33  # services: more than have a row each


def flood(host: Host, hook: str, service: ServiceKey, six: bool, most: int = FLOOD) -> None:
    """Deny SYNs of so many clients of the network NARROW."""
    for number in range(most):
        client = f"fd99:1::{number + 16:x}" if six else f"10.9.1.{number + 16}"
        assert verdict(host, hook, service, client) == "dropped"


def dropped(host: Host) -> int:
    """Return how many packets of all devices were dropped."""
    return sum(device.dropped for device in ends(host.director.tables).devices)


@each_hook
@each_way
def test_each_denied_syn_counts_once_by_reason_device_and_service(director_host: Host, hook: str, six: bool) -> None:
    service = serve(director_host, six)
    give(director_host, service, f"deny {WIDE[six]}")
    before = dropped(director_host)
    assert counted(director_host, "CLIENT_DENIED", lambda: flood(director_host, hook, service, six)) == FLOOD
    assert of_services(director_host)[service] == FLOOD
    assert dropped(director_host) - before == FLOOD


@each_hook
@each_way
def test_a_denied_network_may_have_networks_with_other_rules(director_host: Host, hook: str, six: bool) -> None:
    service, client = serve(director_host, six), CLIENT[six]
    give(director_host, service, f"deny {WIDE[six]}", f"allow {client}")
    for sport in range(4000, 4000 + FLOOD):
        assert verdict(director_host, hook, service, BESIDE[six], sport) == "dropped"
        assert verdict(director_host, hook, service, client, sport) == "sent"
    flood(director_host, hook, service, six)


@each_hook
@each_way
def test_edits_decide_about_the_next_syn(director_host: Host, hook: str, six: bool) -> None:
    """Also rules that are added to the set in force, and are longer than those before."""
    service, client, director = serve(director_host, six), CLIENT[six], director_host.director
    give(director_host, service, f"deny {WIDE[six]}", f"deny {'2001:db8::/32' if six else '198.51.0.0/16'}")
    flood(director_host, hook, service, six)
    assert verdict(director_host, hook, service, client, 4000) == "dropped"
    director.edit_client_rules(service, rules(f"allow {client}"), ())
    assert verdict(director_host, hook, service, client, 4000) == "sent"
    flood(director_host, hook, service, six)
    assert verdict(director_host, hook, service, client, 4001) == "sent"
    director.edit_client_rules(service, (), [prefix_of(client)])
    assert verdict(director_host, hook, service, client, 4002) == "dropped"
    director.edit_client_rules(service, (), [prefix_of(WIDE[six])])
    assert verdict(director_host, hook, service, client, 4002) == "sent"


@each_hook
@each_way
def test_connections_continue_beside_denied_syns_of_their_client(director_host: Host, hook: str, six: bool) -> None:
    service, client = serve(director_host, six), CLIENT[six]
    director_host.forwarded(frame_of(service, client, 4000), hook)
    give(director_host, service, f"deny {ALL[six]}")
    for sport in range(5000, 5000 + FLOOD):
        assert verdict(director_host, hook, service, client, sport) == "dropped"
        director_host.forwarded(frame_of(service, client, 4000), hook)


@each_hook
def test_a_service_that_is_made_again_does_not_inherit_denied_clients(director_host: Host, hook: str) -> None:
    service = serve(director_host)
    give(director_host, service, "deny 0.0.0.0/0")
    flood(director_host, hook, service, False)
    director_host.director.delete_service(service)
    director_host.serve(service)
    assert verdict(director_host, hook, service, CLIENT[False]) == "sent"
    assert service not in of_services(director_host)


@each_hook
def test_counts_are_exact_for_many_services_in_turn(director_host: Host, hook: str) -> None:
    """More than have a row each."""
    services = [serve(director_host) for _ in range(MANY)]
    for service in services:
        give(director_host, service, "deny 10.9.0.0/16")
    before = dropped(director_host)
    for _ in range(3):
        for service in services:
            flood(director_host, hook, service, False, 2)
    assert {service: of_services(director_host)[service] for service in services} == dict.fromkeys(services, 6)
    assert dropped(director_host) - before == 6 * len(services)


@each_hook
def test_only_a_syn_of_the_service_is_dropped(director_host: Host, hook: str) -> None:
    """Not one of another protocol, of another port, or with a wrong header checksum."""
    service = serve(director_host)
    give(director_host, service, "deny 10.9.0.0/16")
    flood(director_host, hook, service, False)
    frame = bytearray(frame_of(service, CLIENT[False], 4000))
    frame[24] ^= 0x10  # the checksum
    others = [
        bytes(frame),
        frame_of(ServiceKey(Protocol.TCP, ip_address(VIP4), 9), CLIENT[False], 4000),
        frame_of(service, CLIENT[False], 4000, "R"),
    ]
    for other in others:
        assert director_host.run(other, hook).verdict == PASSED[hook]


@each_hook
@each_way
def test_a_backup_that_serves_nothing_leaves_denied_syns_to_the_stack(
    director_host: Host, hook: str, six: bool
) -> None:
    service, root = serve(director_host, six), director_host.director.tables.root
    director_host.director.change_setting("backup_only", 1)
    give(director_host, service, f"deny {WIDE[six]}")
    try:
        flood(director_host, hook, service, six)
        root.set(0, "backup", 1)
        assert verdict(director_host, hook, service, CLIENT[six]) == "passed"
    finally:
        root.set(0, "backup", 0)
        director_host.director.change_setting("backup_only", 0)


# Limits.


def due_of(host: Host, service: ServiceKey, client: str, bits: int, due_ns: int | None = None) -> int | None:
    """Return when a client's next connection is due at its rate; with `due_ns`, set that."""
    slot, version = host.director.known(service)
    (rule,) = host.director.client_rules()[service]
    key = abi.struct("limited_client").pack(
        interval_ns=rule.interval_ns,
        service=slot,
        added=version["added"],
        bits=bits,
        address=address_bytes(ip_address(client)),
    )
    with maps.HashMap.open(host.director.tables.path("limited_clients")) as clients:
        if due_ns is not None:
            clients.put(key, struct.pack("<Q", due_ns))
        found = clients.get(key)
    return struct.unpack("<Q", found)[0] if found else None


@each_hook
@each_way
def test_a_client_opens_as_many_as_its_limit_allows(director_host: Host, hook: str, six: bool) -> None:
    service = serve(director_host, six)
    give(director_host, service, f"limit {WIDE[six]} 1/h burst 3")
    found = [verdict(director_host, hook, service, CLIENT[six], sport) for sport in range(4000, 4005)]
    assert found == ["sent"] * 3 + ["dropped"] * 2
    assert (
        counted(director_host, "CLIENT_LIMITED", lambda: verdict(director_host, hook, service, CLIENT[six], 5000)) == 1
    )
    director_host.forwarded(frame_of(service, CLIENT[six], 4000), hook)  # it has a connection
    assert verdict(director_host, hook, service, BESIDE[six]) == "sent"
    assert verdict(director_host, hook, service, ELSEWHERE[six]) == "sent"


@each_hook
def test_a_limit_recovers_with_time(director_host: Host, hook: str) -> None:
    service, client = serve(director_host), CLIENT[False]
    give(director_host, service, "limit 10.9.0.0/16 1/h burst 1")
    assert verdict(director_host, hook, service, client) == "sent"
    assert verdict(director_host, hook, service, client, 4001) == "dropped"
    assert due_of(director_host, service, client, 32, due_ns=1)
    assert verdict(director_host, hook, service, client, 4001) == "sent"
    assert verdict(director_host, hook, service, client, 4002) == "dropped"


@each_hook
def test_another_rate_begins_anew(director_host: Host, hook: str) -> None:
    """A client that a strict limit holds is free once the limit is less strict."""
    service, client = serve(director_host), CLIENT[False]
    give(director_host, service, "limit 10.9.0.0/16 1/h")
    assert [verdict(director_host, hook, service, client, sport) for sport in (1, 2)] == ["sent", "dropped"]
    give(director_host, service, "limit 10.9.0.0/16 1000/s")
    assert verdict(director_host, hook, service, client, 3) == "sent"


@each_hook
def test_clients_of_one_network_share_a_limit(director_host: Host, hook: str) -> None:
    service = serve(director_host)
    give(director_host, service, "limit 0.0.0.0/0 2/h per 24")
    found = [verdict(director_host, hook, service, f"10.9.1.{number}") for number in (1, 2, 3)]
    assert found == ["sent", "sent", "dropped"]
    assert verdict(director_host, hook, service, "10.9.2.1") == "sent"


@each_hook
def test_a_limit_leaves_to_the_stack_what_exceeds_it(director_host: Host, hook: str) -> None:
    service = serve(director_host)
    give(director_host, service, "limit 0.0.0.0/0 1/h pass")
    assert [verdict(director_host, hook, service, CLIENT[False], sport) for sport in (1, 2)] == ["sent", "passed"]


def test_a_packet_that_xdp_passes_to_tc_counts_once(director_host: Host) -> None:
    service = serve(director_host, protocol=Protocol.UDP, flags=int(ServiceFlag.ONE_PACKET))
    give(director_host, service, "limit 0.0.0.0/0 2/h")
    found = [director_host.receive(frame_of(service, CLIENT[False], 4000)) for _ in range(3)]
    assert [(hook, done.verdict) for hook, done in found[:2]] == [("tc", SENT["tc"][0])] * 2
    assert found[2][1].verdict == DROPPED[found[2][0]]


# Edits.


def stored(host: Host) -> int:
    return len(host.director.tables.client_rules)


def listed(host: Host, service: ServiceKey) -> list[str]:
    return [str(rule) for rule in host.director.client_rules().get(service, ())]


def test_an_edit_of_the_service_keeps_its_rules(director_host: Host) -> None:
    service = serve(director_host)
    before, lines = stored(director_host), ["deny 10.0.0.0/8", "allow 10.1.0.0/16", "limit 10.2.0.0/16 5/min per 24"]
    give(director_host, service, *lines)
    director_host.director.edit_service(VirtualService(service, "wlc"))
    assert listed(director_host, service) == lines
    assert stored(director_host) == before + 3


@pytest.mark.parametrize("how", ["delete", "flush", "clear"])
def test_rules_end_with_their_service(director_host: Host, how: str) -> None:
    director, service = director_host.director, serve(director_host)
    before, facts = stored(director_host), director.versions.facts().get("client_rules")[0]
    give(director_host, service, "deny 10.0.0.0/8", "allow 10.1.0.0/16")
    assert director.versions.facts().get("client_rules")[0] == facts + 1
    if how == "clear":
        give(director_host, service)
        assert listed(director_host, service) == []
    elif how == "delete":
        director.delete_service(service)
    else:
        director.flush()
        before = facts = 0
    assert (stored(director_host), director.versions.facts().get("client_rules")[0]) == (before, facts)


def test_a_service_that_is_added_again_has_no_rules(director_host: Host) -> None:
    service = serve(director_host)
    give(director_host, service, "deny 0.0.0.0/0")
    director_host.director.delete_service(service)
    director_host.serve(service)
    assert listed(director_host, service) == []
    assert verdict(director_host, "tc", service, CLIENT[False]) == "sent"


def test_an_edit_that_is_not_committed_changes_no_rule(director_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new set is removed, and the one in force stays."""
    service = serve(director_host)
    give(director_host, service, "deny 10.9.0.0/16")
    before, write = stored(director_host), client_rules.write

    def failing(*arguments: object) -> dict[str, int]:
        write(*arguments)  # type: ignore[arg-type]
        raise InvalidOperation("planted")

    monkeypatch.setattr(client_rules, "write", failing)
    with pytest.raises(InvalidOperation, match="planted"):
        give(director_host, service, "allow 0.0.0.0/0", "deny 10.8.0.0/16")
    assert (stored(director_host), listed(director_host, service)) == (before, ["deny 10.9.0.0/16"])
    assert verdict(director_host, "tc", service, CLIENT[False]) == "dropped"


def test_no_packet_meets_half_of_the_rules(director_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the commit the former set decides alone, and after it the new one, also while the former is removed."""
    service, seen = serve(director_host), list[tuple[str, str]]()
    sports = iter(range(4000, 5000))
    write, forget = client_rules.write, transaction.forget_rules

    def look() -> None:
        seen.append(
            (
                verdict(director_host, "tc", service, CLIENT[False], next(sports)),
                verdict(director_host, "tc", service, BESIDE[False], next(sports)),
            )
        )

    def writing(*arguments: object) -> dict[str, int]:
        fields = write(*arguments)  # type: ignore[arg-type]
        look()
        return fields

    def forgetting(*arguments: object) -> None:
        look()
        forget(*arguments)  # type: ignore[arg-type]
        look()

    give(director_host, service, "deny 10.9.1.0/24")
    monkeypatch.setattr(client_rules, "write", writing)
    monkeypatch.setattr(client_rules, "forget_rules", forgetting)
    give(director_host, service, "deny 10.9.2.0/24")
    assert seen == [("dropped", "sent"), ("sent", "dropped"), ("sent", "dropped")]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["deny 10.0.0.0/8", "allow 10.0.0.0/8"], "two rules for 10.0.0.0/8: deny 10.0.0.0/8; allow 10.0.0.0/8"),
        (["deny fd00::/8"], "the service is of IPv4, the prefix is not"),
    ],
)
def test_wrong_rules_are_refused(director_host: Host, lines: Sequence[str], problem: str) -> None:
    service = serve(director_host)
    with pytest.raises(InvalidOperation, match=problem):
        give(director_host, service, *lines)
    assert listed(director_host, service) == []


def test_only_a_service_has_rules(director_host: Host) -> None:
    with pytest.raises(NoSuchService):
        give(director_host, director_host.new_key(), "deny 10.0.0.0/8")


def set_of(host: Host, service: ServiceKey) -> int:
    """Return the number of the set in force; 0: the service has none."""
    _, version = host.director.known(service)
    return int(version["client_rules"])


def edit(host: Host, service: ServiceKey, *lines: str, doomed: Sequence[str] = ()) -> None:
    host.director.edit_client_rules(service, rules(*lines), [prefix_of(each) for each in doomed])


@each_hook
@each_way
def test_one_rule_is_edited_in_the_set_in_force(
    director_host: Host, hook: str, six: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other rule is written: the time does not depend on their number. Readers learn that there was an edit."""
    service, client = serve(director_host, six), CLIENT[six]
    give(director_host, service, f"deny {WIDE[six]}", f"allow {ELSEWHERE[six]}")
    before, generation = set_of(director_host, service), Versions(director_host.director.tables).live
    monkeypatch.setattr(client_rules, "write", None)
    monkeypatch.setattr(client_rules, "read", None)
    edit(director_host, service, f"allow {NARROW[six]}")
    assert verdict(director_host, hook, service, client) == "sent"
    assert verdict(director_host, hook, service, BESIDE[six]) == "dropped"
    edit(director_host, service, f"allow {NARROW[six]}")  # as it is
    edit(director_host, service, doomed=[NARROW[six]])
    assert verdict(director_host, hook, service, client, 4001) == "dropped"
    monkeypatch.undo()
    assert set(listed(director_host, service)) == {f"allow {ELSEWHERE[six]}/{128 if six else 32}", f"deny {WIDE[six]}"}
    assert set_of(director_host, service) == before
    assert Versions(director_host.director.tables).live == generation + 3


@pytest.mark.parametrize(
    ("lines", "doomed", "named"),
    [
        (["allow 10.9.0.0/16"], [], "two rules for 10.9.0.0/16: deny 10.9.0.0/16; allow 10.9.0.0/16"),
        (["deny fd99::/16"], [], "the service is of IPv4"),
        ([], ["10.9.1.0/24"], "no rule for 10.9.1.0/24"),  # a shorter prefix has one
        ([], ["10.9.1.0/24", "10.9.0.0/16"], "no rule for 10.9.1.0/24"),
    ],
)
def test_an_edit_that_cannot_be_changes_nothing(
    director_host: Host, lines: list[str], doomed: list[str], named: str
) -> None:
    service = serve(director_host)
    give(director_host, service, "deny 10.9.0.0/16", "allow 10.8.0.0/16")
    before = stored(director_host)
    with pytest.raises(InvalidOperation, match=re.escape(named)):
        edit(director_host, service, *lines, doomed=doomed)
    assert stored(director_host) == before


def test_the_last_rule_leaves_no_set(director_host: Host) -> None:
    """A service without rules costs its SYNs nothing."""
    service, other = serve(director_host), serve(director_host)
    give(director_host, other, "deny 10.9.0.0/16")
    edit(director_host, service, "deny 10.9.0.0/16", "deny 10.7.0.0/16")
    edit(director_host, service, doomed=["10.9.0.0/16"])
    assert (listed(director_host, service), set_of(director_host, service) > 0) == (["deny 10.7.0.0/16"], True)
    edit(director_host, service, doomed=["10.7.0.0/16"])
    assert (listed(director_host, service), set_of(director_host, service)) == ([], 0)
    assert listed(director_host, other) == ["deny 10.9.0.0/16"]


def test_the_same_rule_twice_is_one(director_host: Host) -> None:
    service = serve(director_host)
    give(director_host, service, "deny 10.0.0.0/8", "deny 10.0.0.0/8")
    assert listed(director_host, service) == ["deny 10.0.0.0/8"]


# A reload of the daemon.


def row(service: ServiceKey, *lines: str) -> WantedRow:
    server = Destination(DestinationKey(ip_address(server4(1)), service.port), Method.ROUTE)
    return WantedRow(VirtualService(service, "rr"), (server,), tuple(rules(*lines)))


def reconcile(cache: TableCache, *desired: WantedRow) -> list[str]:
    """Make the table that of the rows, and return the edits as text."""
    table = DesiredTable(desired, [each.service.key for each in desired])
    edits = cache.plan(table).edits
    assert cache.apply(edits, 5) == (len(edits), [])
    cache.plan_applied(table)
    return [str(each) for each in edits]


def test_a_new_service_takes_effect_with_its_rules(director_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """One commit: no packet finds the service without its rules."""
    service, commits, commit = director_host.new_key(), list[int](), transaction.Transaction.commit

    def counting(edit: transaction.Transaction) -> None:
        commits.append(edit.generation)
        commit(edit)

    monkeypatch.setattr(transaction.Transaction, "commit", counting)
    reconcile(TableCache(director_host.director), row(service, "deny 10.9.0.0/16"))
    assert len(commits) == 1
    assert listed(director_host, service) == ["deny 10.9.0.0/16"]
    assert verdict(director_host, "tc", service, CLIENT[False]) == "dropped"
    assert verdict(director_host, "tc", service, ELSEWHERE[False]) == "sent"


def test_a_change_of_rules_sees_those_of_its_service_in_a_batch_with_a_new_one(director_host: Host) -> None:
    service, new, seen = serve(director_host), director_host.new_key(), list[list[str]]()
    give(director_host, service, "deny 10.9.0.0/16")

    def change(present: list[ClientRule]) -> list[ClientRule]:
        seen.append([str(each) for each in present])
        return [*present, *rules("deny 10.8.0.0/16")]

    with director_host.director.batch():
        director_host.director.add_service(VirtualService(new))
        director_host.director.change_client_rules(service, change)
        director_host.director.change_client_rules(new, change)
    assert seen == [["deny 10.9.0.0/16"], []]
    assert listed(director_host, service) == ["deny 10.8.0.0/16", "deny 10.9.0.0/16"]
    assert listed(director_host, new) == ["deny 10.8.0.0/16"]


def test_a_reload_changes_only_rules_that_differ(director_host: Host) -> None:
    service, cache = director_host.new_key(), TableCache(director_host.director)
    reconcile(cache, row(service, "deny 10.9.0.0/16"))
    assert reconcile(cache, row(service, "deny 10.9.0.0/16")) == []
    edits = reconcile(cache, row(service, "deny 10.8.0.0/16"))
    assert edits == [f"{service}: client rules deny 10.9.0.0/16 -> deny 10.8.0.0/16"]
    assert verdict(director_host, "tc", service, CLIENT[False]) == "sent"
    assert reconcile(cache, row(service)) == [f"{service}: client rules deny 10.8.0.0/16 -> none"]
    assert listed(director_host, service) == []


def test_the_next_daemon_finds_the_rules(director_host: Host) -> None:
    service, desired = director_host.new_key(), ("allow 10.9.0.0/16", "limit 10.0.0.0/8 9/min per 24")
    lines = sorted(desired, key=lambda line: line.split()[1])
    reconcile(TableCache(director_host.director), row(service, *lines))
    assert reconcile(TableCache(director_host.director), row(service, *lines)) == []


def test_the_daemon_reverts_what_a_command_changed(director_host: Host) -> None:
    service, cache = director_host.new_key(), TableCache(director_host.director)
    reconcile(cache, row(service, "deny 10.9.0.0/16"))
    give(director_host, service, "allow 10.9.0.0/16")
    (edit,) = cache.plan(DesiredTable([row(service, "deny 10.9.0.0/16")])).restored
    assert edit.foreign_change == f"{service} was changed: client rules deny 10.9.0.0/16 -> allow 10.9.0.0/16"


def test_a_new_service_has_no_server_while_its_rules_have_no_space(
    director_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, before = director_host.new_key(), stored(director_host)
    write = client_rules.write

    def full(*arguments: object) -> int:
        write(*arguments)  # type: ignore[arg-type]
        raise NoSpace("planted")

    cache = TableCache(director_host.director)
    with monkeypatch.context() as patch:
        patch.setattr(client_rules, "write", full)
        edits = cache.plan(DesiredTable([row(service, "deny 10.9.0.0/16")])).edits
        _, refused = cache.apply(edits, 5)
    assert refused == [f"{service}: client rules none -> deny 10.9.0.0/16: refused: planted"]
    assert (stored(director_host), listed(director_host, service)) == (before, [])
    assert not director_host.director.service(service).destinations
    reconcile(cache, row(service, "deny 10.9.0.0/16"))
    assert listed(director_host, service) == ["deny 10.9.0.0/16"]
    assert verdict(director_host, "tc", service, CLIENT[False]) == "dropped"
    assert verdict(director_host, "tc", service, ELSEWHERE[False]) == "sent"

"""The doctor's findings about rows of the table."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from pylvs.doctor.probes.methods import exceptions
from pylvs.doctor.probes.table import first_of_each, of_client_rules, of_rows, of_settings, of_timeouts
from pylvs.model.client_rules import rule_of
from pylvs.model.dataclass import replace
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    VirtualService,
)
from pylvs.model.settings import SETTINGS

KEY = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80)
DEFAULTS = {name: setting.default for name, setting in SETTINGS.items()}


def row(*weights: int, key: ServiceKey = KEY, **service: Any) -> ServiceRow:
    """Return a service with a server of each weight."""
    servers = (DestinationKey(ip_address(f"198.51.100.{number}"), 80) for number in range(1, len(weights) + 1))
    destinations = (Destination(each, weight=weight) for each, weight in zip(servers, weights, strict=True))
    fields: dict[str, Any] = {"scheduler": "wlc", **service}
    return ServiceRow(VirtualService(key, **fields), tuple(map(DestinationRow, destinations)))


def ids(*rows: ServiceRow) -> list[str]:
    return [each.id for each in of_rows(rows)]


@pytest.mark.parametrize("name", ["dh", "lblc", "lblcr"])
def test_a_scheduler_by_destination_needs_several_destinations(name: str) -> None:
    """One virtual address is one; a mark may have many; with one server nothing is lost."""
    assert ids(row(1, 1, scheduler=name)) == ["one_destination_address"]
    assert ids(row(1, 1, scheduler=name, key=ServiceKey.of_mark(7))) == []
    assert ids(row(1, scheduler=name)) == ids(row(1, 0, scheduler=name)) == []


def test_weights_order_a_failover_and_limit_an_overflow() -> None:
    """Other schedulers take equal weights as equal shares."""
    assert ids(row(1, 1, scheduler="fo")) == ["failover_without_order"]
    assert ids(row(2, 1, scheduler="fo")) == ids(row(1, 1, scheduler="wrr")) == []
    assert ids(row(1, 1, scheduler="ovf")) == ["overflow_of_one"]
    assert ids(row(100, 100, scheduler="ovf")) == []


def test_a_service_of_a_daemon_without_servers_is_a_symptom() -> None:
    """Its checks have removed the servers: they are the cause."""
    (found,) = of_rows([row()], kept=[str(KEY)])
    assert found.symptom
    assert found.fix_command is None
    (found,) = of_rows([row(0, 0)])
    assert not found.symptom
    assert found.fix_command is not None


def test_one_server_that_is_not_full_suffices() -> None:
    """A threshold shifts connections to the others."""
    full = row(1, 1)
    assert [each.id for each in of_rows([full], {(KEY, "198.51.100.1:80")})] == []
    both = {(KEY, "198.51.100.1:80"), (KEY, "198.51.100.2:80")}
    assert [each.id for each in of_rows([full], both)] == ["servers_overloaded"]


@pytest.mark.parametrize(("bits", "found"), [(0, True), (8, True), (16, False), (24, False), (32, False)])
def test_a_netmask_that_joins_most_clients(bits: int, found: bool) -> None:
    """A network of a company or a provider may share a server."""
    mask = 0xFFFFFFFF << (32 - bits) & 0xFFFFFFFF
    persistent: dict[str, Any] = {"flags": ServiceFlag.PERSISTENT, "timeout_s": 300, "netmask": mask}
    assert ids(row(1, 1, **persistent)) == ["persistence_mask_wide"] * found
    assert ids(row(1, **persistent)) == []


def test_a_persistence_engine_needs_persistence() -> None:
    """The command adds it."""
    (found,) = of_rows([row(1, engine="sip")])
    assert found.id == "engine_without_persistence"
    assert "-p 300" in str(found.fix_command)


def test_thousands_of_services_have_a_few_findings_of_each_kind() -> None:
    """A few examples suffice to mend the rest."""
    many = [row(key=replace(KEY, port=port)) for port in range(1, 1000)]
    found = list(first_of_each(of_rows([*many, row(1, 1, scheduler="fo")])))
    assert 1 < len(found) < 10
    assert {each.id for each in found} == {"service_empty", "failover_without_order"}


def test_settings_that_drop() -> None:
    """Modes 1 and 2 never switch on, and a rate of 0 drops nothing."""
    for changed, found in (({"drop_packet": 3}, 1), ({"drop_packet": 2}, 0), ({"drop_packet": 3, "am_droprate": 0}, 0)):
        assert len(list(of_settings(DEFAULTS | changed))) == found


def test_defaults_are_no_mistake() -> None:
    """IPVS's settings and timeouts have no finding."""
    assert [*of_settings(DEFAULTS), *of_timeouts(Timeouts())] == []


def test_a_server_with_another_method_than_all_others() -> None:
    """Of two servers neither is the exception; the command gives it the method of the others."""
    three = row(1, 1, 1)
    first, *others = three.destinations
    differing = replace(first, destination=replace(first.destination, method=Method.MASQ))
    (found,) = exceptions([three, replace(three, destinations=(differing, *others))])
    assert found.server == first.destination.key.address
    command = found.finding("").fix_command
    assert command == "ipvsadm -e -t 192.0.2.1:80 -r 198.51.100.1:80 -g -w 1"
    assert list(exceptions([replace(three, destinations=(differing, others[0]))])) == []


@pytest.mark.parametrize(
    ("rules", "commands"),
    [
        (["deny 0.0.0.0/0"], ["pylvs filter del -t 192.0.2.1:80 0.0.0.0/0"]),
        (["deny 0.0.0.0/0 pass", "deny 10.0.0.0/8"], ["pylvs filter del -t 192.0.2.1:80 0.0.0.0/0"]),
        (["deny 0.0.0.0/0", "allow 10.0.0.0/8"], []),
        (["deny 0.0.0.0/0", "limit 10.0.0.0/8 5/s"], []),
        (["limit 0.0.0.0/0 5/s"], []),
        (["deny 10.0.0.0/8"], []),
        ([], []),
    ],
)
def test_client_rules_that_deny_every_client(rules: list[str], commands: list[str]) -> None:
    """An allow list needs "deny 0.0.0.0/0", and one client at least."""
    found = of_client_rules({KEY: [rule_of(each.split()) for each in rules]}, [KEY])
    assert [each.fix_command for each in found] == commands


def test_no_command_is_named_that_a_daemon_undoes() -> None:
    (found,) = of_client_rules({KEY: [rule_of(("deny", "0.0.0.0/0"))]}, [KEY], kept={str(KEY)})
    assert found.fix_command is None
    assert "client_rules of the file or by pylvs filter add --override" in found.fix

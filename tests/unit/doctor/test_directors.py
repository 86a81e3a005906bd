"""The doctor's comparison of two directors."""

from __future__ import annotations

from ipaddress import ip_address

from pylvs.doctor.directors import of_tables
from pylvs.model.dataclass import replace
from pylvs.model.rows import DestinationRow, ServiceRow
from pylvs.model.service import Destination, DestinationKey, Protocol, ServiceKey, VirtualService

KEY = ServiceKey(Protocol.TCP, ip_address("192.0.2.1"), 80)


def row(*servers: int, scheduler: str = "rr", weight: int = 1, port: int = 80) -> ServiceRow:
    keys = (DestinationKey(ip_address(f"198.51.100.{each}"), 80) for each in servers)
    destinations = (DestinationRow(Destination(each, weight=weight)) for each in keys)
    return ServiceRow(VirtualService(replace(KEY, port=port), scheduler), tuple(destinations))


def titles(one: list[ServiceRow], other: list[ServiceRow]) -> list[tuple[str, str]]:
    return [(host, finding.title) for host, finding in of_tables({"d1": one, "d2": other})]


def test_equal_tables_and_other_weights_are_no_difference() -> None:
    """Checks set weights. One director alone has nothing to differ from."""
    assert titles([row(1, 2)], [row(2, 1, weight=5)]) == []
    assert list(of_tables({"d1": [row(1)]})) == []


def test_each_director_that_lacks_something_is_named() -> None:
    """Services, servers and settings."""
    assert titles([row(1), row(1, port=81)], [row(1)]) == [
        ("d2", "the table lacks TCP 192.0.2.1:81, which d1 has"),
    ]
    assert titles([row(1)], [row(1, 2)]) == [("d1", "TCP 192.0.2.1:80 lacks 198.51.100.2:80, which d2 has")]
    assert [host for host, _ in titles([row(1)], [row(2)])] == ["d2", "d1"]
    assert titles([row(1)], [row(1, scheduler="sh")]) == [
        ("d2", "TCP 192.0.2.1:80 has another scheduler, flags or persistence than on d1"),
    ]

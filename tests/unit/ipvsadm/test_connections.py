"""The listing of connections; the lines are what the real ipvsadm printed for such connections."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from pylvs.ipvsadm.listing import connection_lines, numeric
from pylvs.model.director import Connection
from tests.memory import MemoryDirector
from tests.unit.ipvsadm.replaying import call

TITLES = "IPVS connection entries\npro expire state       source             virtual            destination"


def made(protocol: int, state: str, expires_s: int, *ends: tuple[str, int]) -> Connection:
    """A connection from client, virtual service and destination."""
    client, virtual, destination = [(ip_address(address), port) for address, port in ends]
    return Connection(protocol, state, expires_s, *client, *virtual, *destination)


def test_connections_of_either_family_and_templates() -> None:
    director = MemoryDirector()
    director.put_connections(
        [
            made(17, "UDP", 299, ("127.0.0.1", 40000), ("127.0.0.1", 53), ("127.0.0.1", 5353)),
            made(17, "NONE", 599, ("::1", 0), ("2001:db8::1", 53), ("::1", 5353)),
            made(6, "ESTABLISHED", 900, ("198.51.100.200", 40000), ("192.0.2.1", 80), ("198.51.100.11", 8080)),
            made(0, "ASSURED", 2678400, ("198.51.100.0", 0), ("0.0.0.7", 0), ("198.51.100.11", 0)),
        ]
    )
    assert call(director, "ipvsadm", "-Lnc").stdout == (
        f"{TITLES}\n"
        "UDP 04:59  UDP         127.0.0.1:40000    127.0.0.1:53       127.0.0.1:5353\n"
        "UDP 09:59  NONE        [::1]:0            [2001:db8::1]:53   [::1]:5353\n"
        "TCP 15:00  ESTABLISHED 198.51.100.200:40000 192.0.2.1:80       198.51.100.11:8080\n"
        "IP  44640:00 ASSURED     198.51.100.0:0     0.0.0.7:0          198.51.100.11:0\n"
    )


@pytest.mark.parametrize(("expires_s", "shown"), [(5999, "99:59 "), (6000, "100:00"), (7200, "120:00")])
def test_the_state_is_in_its_column_up_to_a_thousand_minutes(expires_s: int, shown: str) -> None:
    director = MemoryDirector()
    director.put_connections(
        [made(6, "ESTABLISHED", expires_s, ("10.0.0.1", 1234), ("10.9.0.1", 80), ("10.9.0.11", 80))]
    )
    assert call(director, "ipvsadm", "-Lnc").stdout == (
        f"{TITLES}\nTCP {shown} ESTABLISHED 10.0.0.1:1234      10.9.0.1:80        10.9.0.11:80\n"
    )


def test_names_of_hosts_and_ports() -> None:
    director = MemoryDirector()
    director.put_connections(
        [made(6, "FIN_WAIT", 9, ("198.51.100.12", 40000), ("192.0.2.1", 80), ("198.51.100.11", 80))]
    )
    assert call(director, "ipvsadm", "-Lc").stdout == (
        f"{TITLES}\nTCP 00:09  FIN_WAIT    web2.example.net:40000 vip.example.net:http web1.example.net:http\n"
    )


def test_what_a_persistence_engine_knows_is_shown_on_request() -> None:
    director = MemoryDirector()
    ends = ip_address("198.51.100.12"), 5060, ip_address("192.0.2.1"), 5060, ip_address("198.51.100.11"), 5060
    director.put_connections([Connection(17, "UDP", 60, *ends, "sip", "call@host")])
    assert call(director, "ipvsadm", "-Lnc", "--persistent-conn").stdout == (
        f"{TITLES}        pe name          pe_data\n"
        "UDP 01:00  UDP         198.51.100.12:5060 192.0.2.1:5060     198.51.100.11:5060 sip                call@host\n"
    )
    assert "sip" not in call(director, "ipvsadm", "-Lnc").stdout


def test_a_short_destination_and_a_call_id_beyond_ascii_are_printed_as_by_the_original() -> None:
    director = MemoryDirector()
    ends = ip_address("10.0.0.1"), 0, ip_address("10.9.0.1"), 5060, ip_address("10.9.0.11"), 5060
    director.put_connections([Connection(17, "UDP", 60, *ends, "sip", "c\xe9@x")])
    assert os.fsencode(call(director, "ipvsadm", "-Lnc", "--persistent-conn").stdout.splitlines()[-1]) == (
        b"UDP 01:00  UDP         10.0.0.1:0         10.9.0.1:5060      10.9.0.11:5060   sip                c\xe9@x"
    )


def test_a_table_of_any_size_is_written_line_by_line() -> None:
    taken = 0

    def endless() -> Iterator[Connection]:
        nonlocal taken
        while True:
            taken += 1
            yield made(6, "ESTABLISHED", 900, ("198.51.100.12", 1), ("192.0.2.1", 80), ("198.51.100.11", 80))

    lines = connection_lines(endless(), numeric, engines=False)
    for _ in range(10):
        next(lines)
    assert taken == 10 - len(TITLES.splitlines())

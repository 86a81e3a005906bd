"""Simulations: who gets which server, shown for people and programs; mistakes are one line with their place."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pylvs.cli import main

TABLE = """\
-A -t 10.0.0.100:80 -s wlc
-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 4
-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 3
-a -t 10.0.0.100:80 -r 10.0.0.13:80 -m -w 2
"""
HASHED = """\
ipvsadm -A -t 10.0.0.100:80 -s sh
-a -t 10.0.0.100:80 -r 10.0.0.11:80 -g -w 4
-a -t 10.0.0.100:80 -r 10.0.0.12:80 -g -w 3
-a -t 10.0.0.100:80 -r 10.0.0.13:80 -g -w 2
"""


class Runner:
    """Writes a file and simulates it."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.path = folder / "table.txt"
        self.capfd = capfd

    def __call__(self, text: str, *arguments: str) -> tuple[int, str, str]:
        self.path.write_bytes(text.encode("utf-8", "surrogateescape"))
        status = main.run(["simulate", str(self.path), *arguments])
        return status, *self.capfd.readouterr()

    def values(self, text: str, *arguments: str) -> list[dict[str, object]]:
        status, out, err = self(text, "--json", *arguments)
        assert (status, err) == (0, "")
        services = json.loads(out)["services"]
        assert isinstance(services, list)
        return services

    def spread(self, text: str, *arguments: str) -> dict[str, int]:
        (service,) = self.values(text, *arguments)
        servers = service["servers"]
        assert isinstance(servers, list)
        return {each["server"]: each["connections"] for each in servers}

    def servers(self, text: str, *arguments: str) -> dict[str, str | None]:
        (service,) = self.values(text, *arguments)
        clients = service["clients"]
        assert isinstance(clients, list)
        return {each["client"]: each["server"] for each in clients}


@pytest.fixture
def simulate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path, capfd)


def test_connections_that_stay_are_shared_by_weight(simulate: Runner) -> None:
    wanted = {"10.0.0.13:80": 20, "10.0.0.12:80": 30, "10.0.0.11:80": 40}
    assert simulate.spread(TABLE, "--clients", "10.1.0.0/24", "--count", "90") == wanted
    assert simulate.spread(TABLE + "clients 10.1.0.0/24 count 90\n") == wanted


def test_connections_that_end_leave_no_load_behind(simulate: Runner) -> None:
    spread = simulate.spread(TABLE, "--clients", "10.1.0.0/24", "--count", "90", "--short")
    assert spread == {"10.0.0.13:80": 90, "10.0.0.12:80": 0, "10.0.0.11:80": 0}


def test_a_hash_gives_the_servers_that_ipvs_gives(simulate: Runner) -> None:
    """The picks of IPVS-SEMANTICS 3.13."""
    seen = {"10.1.0.1": 12, "10.1.0.2": 11, "192.0.2.1": 11, "198.51.100.7": 13, "203.0.113.254": 11}
    groups = "".join(f"clients {client}/32\n" for client in seen)
    wanted = {client: f"10.0.0.{number}:80" for client, number in seen.items()}
    assert simulate.servers(HASHED + groups) == wanted


def test_the_same_seed_draws_the_same_clients(simulate: Runner) -> None:
    def drawn(seed: int) -> dict[str, str | None]:
        return simulate.servers(HASHED, "--clients", "10.0.0.0/8", "--count", "20", "--seed", str(seed))

    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_udp_ipv6_marks_and_all_ports_are_reached_by_their_target(simulate: Runner) -> None:
    text = """\
-A -u [2001:db8::100]:53 -s rr
-a -u [2001:db8::100]:53 -r [2001:db8::11]:53 -g -w 1
-A -f 7 -s rr -p 300
-a -f 7 -r 10.0.0.11:0 -g -w 1
-A -t 10.0.0.100:0 -s rr -p 300
-a -t 10.0.0.100:0 -r 10.0.0.12:0 -g -w 1
clients 2001:db8:1::/64 count 3
clients 10.1.0.0/24 count 3 to tcp:10.0.0.99:80 mark 7
clients 10.1.0.0/24 count 3 to tcp:10.0.0.100:8080
"""
    reached = {service["service"]: service["refused"] for service in simulate.values(text)}
    assert reached == {"UDP [2001:db8::100]:53": 0, "FWM 7": 0, "TCP 10.0.0.100:0": 0}


def test_without_a_usable_server_clients_are_refused(simulate: Runner) -> None:
    status, out, _ = simulate("-A -t 10.0.0.100:80 -s rr\n", "--clients", "10.1.0.0/24", "--count", "2")
    assert status == 0
    assert "10.1.0.1" in out
    assert out.count("refused") == 3


def test_a_picture_is_drawn_for_people_and_browsers(simulate: Runner, tmp_path: Path) -> None:
    picture = tmp_path / "spread.svg"
    status, out, _ = simulate(TABLE, "--clients", "10.1.0.0/24", "--count", "90", "--svg", str(picture))
    assert status == 0
    longest, other = (next(line for line in out.splitlines() if f"{name}:80  weight" in line) for name in (11, 13))
    assert longest.count("█") == 2 * other.count("█") == 40
    assert "44.4%" in longest
    assert "and 80 more" in out
    bars = ElementTree.parse(picture).getroot().findall("{http://www.w3.org/2000/svg}rect")
    assert [float(bar.get("width", "")) for bar in bars] == [200, 300, 400]


@pytest.mark.parametrize(
    ("line", "column", "words"),
    [
        ("-A -t 10.0.0.300:80", 7, "illegal virtual server address"),
        ("-a -t 10.0.0.100:80 -r 10.0.0.14:80 -w x", 40, "illegal weight"),
        ("-a -t 10.0.0.101:80 -r 10.0.0.14:80", 7, "Service not defined"),
        ("  -A -t 10.0.0.101:80 -s nosuch", 26, "not found"),
        ("hello", 1, "'hello' is no line of ipvsadm-save"),
        ("-L", 1, "'-L' is no line"),
        ("\udcff", 1, "is no line"),
        ("clients", 8, "a network is missing"),
        ("clients 10.1.0.0/33", 9, "is no network"),
        ("clients 10.1.0.0/24 count", 21, "lacks a value"),
        ("clients 10.1.0.0/24 count x", 27, "must be a number from 1"),
        ("clients 10.1.0.0/24 colour red", 21, "is none of"),
        ("clients 10.1.0.0/24 ports 9-5", 27, "greater than the last"),
        ("clients 10.1.0.0/24 to icmp:10.0.0.100:80", 24, "tcp, udp or sctp"),
        ("clients 10.1.0.0/24 to tcp:10.0.0.256:80", 24, "is no address"),
        ("clients 10.1.0.0/24 mark 3", 21, "needs a target"),
        ("clients 2001:db8::/64 to tcp:10.0.0.100:80", 9, "different address families"),
    ],
)
def test_a_mistake_is_one_line_with_its_position(simulate: Runner, line: str, column: int, words: str) -> None:
    status, out, err = simulate(TABLE + line + "\n", "--clients", "10.1.0.0/24")
    assert (status, out) == (1, "")
    assert err.startswith(f"pylvs: {simulate.path}:5:{column}: "), err
    assert words in err
    assert err.count("\n") == 1


def test_what_is_missing_is_named(simulate: Runner) -> None:
    for text, arguments, words in [
        (TABLE, [], "no clients"),
        ("", ["--clients", "10.1.0.0/24"], "no service"),
        (TABLE, ["--clients", "2001:db8::/64"], "none of these clients reaches a service"),
        (TABLE, ["--clients", "10.1.0.0"], ""),
        (TABLE, ["--clients", "x"], "--clients: 'x' is no network"),
    ]:
        status, _, err = simulate(text, *arguments)
        assert bool(words) == bool(status)
        assert words in err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("--to tcp:10.0.0.1", "--to: 'tcp:10.0.0.1': a port is missing; write tcp:10.0.0.1:80"),
        ("--to tcp:10.0.0.1:", "--to: 'tcp:10.0.0.1:': a port is missing; write tcp:10.0.0.1:80"),
        ("--to tcp:[2001:db8::1]", "--to: 'tcp:[2001:db8::1]': a port is missing; write tcp:[2001:db8::1]:80"),
        ("--to tcp:10.0.0.1:0", "--to: '0' must be a number from 1 to 65535"),
        ("--to tcp:here:80", "--to: 'tcp:here:80': 'here' is no address; write tcp:192.0.2.1:80"),
        ("--to=", "--to: '': the protocol must be tcp, udp or sctp"),
        ("--ports 9-1", "--ports: '9-1': the first port is greater than the last"),
        ("--ports=", "--ports: '' must be a number from 0 to 65535"),
        ("--count 9 --ports 9-1", "--ports: '9-1': the first port is greater than the last"),
        ("--ports 1-9 --mark 5", "--mark: a mark needs a target"),
        ("--to tcp:[::1]:80", "--clients: 10.1.0.0/24 and ::1 are of different address families"),
    ],
)
def test_the_option_of_a_bad_value_is_named(simulate: Runner, arguments: str, text: str) -> None:
    status, out, err = simulate(TABLE, "--clients", "10.1.0.0/24", *arguments.split())
    assert (status, out) == (1, "")
    assert err.startswith(f"pylvs: {text}"), err

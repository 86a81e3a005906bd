"""Every row of docs/reference/mistakes.md: ipvsadm's answer, and the hint behind it."""

from __future__ import annotations

import io
import os
import re
import shlex
import socket
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest

from pylvs.bpf.schedulers import SCHEDULERS
from pylvs.daemon import units
from pylvs.daemon.state import directory, saved
from pylvs.ipvsadm import commands
from pylvs.ipvsadm.commands import Session
from pylvs.ipvsadm.hints import bad_endpoint
from pylvs.ipvsadm.main import run, run_restore
from pylvs.ipvsadm.parsing import Names
from pylvs.model.addresses import Address
from pylvs.model.errors import Busy
from pylvs.model.service import Protocol, ServiceKey
from tests.memory import MemoryDirector
from tests.unit.ipvsadm.replaying import BROADCASTS, NAMES

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "mistakes.md").read_text()
ROW = re.compile(r"^\| `(ipvsadm.*?)` \| (?:(`+)(.*?)\2)? \| (?:(`+)(.*?)\4)? \|$", re.MULTILINE)
ROWS = [(command, answer, hint) for command, _, answer, _, hint in ROW.findall(PAGE)]
TABLE = re.search(r"```text\n(.*?)```", PAGE, re.DOTALL)
LISTED = IPv4Address("198.51.100.254")  # the gateway of the page's host
NEXT_LINE = " ⏎ "  # between the lines of an input


@dataclass
class PageHost:
    """The host of the page: its addresses, its networks and its gateway."""

    own: set[Address] = field(default_factory=lambda: {ip_address("192.0.2.1"), ip_address("198.51.100.1")})

    def lacks(self, address: Address) -> str:
        return "" if address in self.own or address == IPv4Address("192.0.2.2") else "eth0"

    def forwards(self, version: int) -> bool:
        return False

    def forwarding_off(self, version: int) -> str:
        return ""

    def gateway(self, address: Address) -> Address | None:
        return LISTED if str(address).startswith("10.") else None


class Terminal(io.StringIO):
    """An output stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def call(
    command: str, stderr: io.StringIO, director: MemoryDirector | None = None, names: Names = NAMES
) -> tuple[int, str, MemoryDirector]:
    """Run a command of the page on its table; return status, stdout and the table."""
    program, *lines = command.split(NEXT_LINE)
    director = director or table()
    stdout = io.StringIO()
    session = Session(director, io.StringIO("\n".join(lines)), stdout, stderr, names, PageHost())
    name, *words = shlex.split(program)
    status = {"ipvsadm": run, "ipvsadm-restore": run_restore}[name](words, session)
    return status, stdout.getvalue(), director


def table() -> MemoryDirector:
    """The page's table."""
    assert TABLE is not None
    director = MemoryDirector(broadcasts=BROADCASTS)
    Session(director, io.StringIO(TABLE[1]), io.StringIO(), io.StringIO(), NAMES).run(["-R"])
    assert len(director.services()) == 4
    return director


def rules(director: MemoryDirector) -> str:
    """The table as rules."""
    written = io.StringIO()
    Session(director, io.StringIO(), written, io.StringIO(), NAMES).run(["-Sn"])
    return written.getvalue()


@pytest.mark.parametrize(("command", "answer", "hints"), ROWS, ids=lambda text: text[:60])
def test_each_row_of_the_page(command: str, answer: str, hints: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if command == "ipvsadm -L":  # names are slow
        monkeypatch.setattr(commands, "monotonic", count(0, 5).__next__)
    stderr, quiet = Terminal(), io.StringIO()
    status, output, after = call(command, stderr)
    expected = [line for line in answer.split(NEXT_LINE) if line]
    hints = hints.replace("rr wrr …", " ".join(SCHEDULERS))
    printed = stderr.getvalue().splitlines()
    assert [line for line in printed if not line.startswith("hint: ") and line] == expected
    assert [line.removeprefix("hint: ") for line in printed if line.startswith("hint: ")] == hints.split(NEXT_LINE)
    # Without a terminal, nothing but the hints differs.
    assert call(command, quiet)[:2] == (status, output)
    assert [line for line in quiet.getvalue().splitlines() if line] == expected
    assert rules(after) == rules(call(command, quiet)[2])


def test_a_listing_names_the_setting_that_stops_forwarding() -> None:
    setting = "net.ipv4.conf.lo.forwarding"
    with patch.object(PageHost, "forwarding_off", lambda _, version: f"net.ipv{version}.conf.lo.forwarding"):
        stderr = Terminal()
        assert call("ipvsadm -Ln -t 192.0.2.1:80", stderr)[0] == 0
    expected = f"packets are not forwarded by IPv4, because {setting} is 0: sysctl -w {setting}=1"
    assert stderr.getvalue() == f"hint: {expected}\n"
    assert f"`{expected}`" in PAGE


def test_the_page_has_rows() -> None:
    assert len(ROWS) > 60


WRONG = "ipvsadm -A -t 192.0.2.2:80 -s roundrobin"


def test_hints_are_for_terminals_and_for_those_who_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    def printed(command: str, stream: io.StringIO) -> bool:
        status, output, _ = call(command, stream)
        assert (status, output) == (255, "")
        assert stream.getvalue().startswith("Scheduler or persistence engine not found\n")
        return "hint: " in stream.getvalue()

    assert printed(WRONG, Terminal())
    assert not printed(WRONG, io.StringIO())
    for command in (f"{WRONG} --hint", WRONG.replace("-A", "--hint -A")):
        assert printed(command, io.StringIO())
    monkeypatch.setenv("PYLVS_HINT", "1")
    assert printed(WRONG, io.StringIO())
    monkeypatch.setenv("PYLVS_HINT", "0")
    assert not printed(WRONG, Terminal())


def test_the_option_for_hints_alone_lists_the_table() -> None:
    assert call("ipvsadm --hint", io.StringIO())[1] == call("ipvsadm", io.StringIO())[1]


def test_a_hint_sends_nothing_to_the_terminal_that_was_typed() -> None:
    stderr = Terminal()
    call("ipvsadm -A -t '\x1b[31m:80'", stderr)
    assert "\x1b" not in stderr.getvalue().partition("hint: ")[2]


def test_a_table_that_cannot_be_read_gives_no_hint() -> None:
    class Broken(MemoryDirector):
        def services(self) -> list[object]:  # type: ignore[override]  # it raises
            raise Busy("the tables are locked")

    stderr = Terminal()
    assert call("ipvsadm -D -t 192.0.2.9:80", stderr, Broken())[0] == 255
    assert stderr.getvalue() == "No such service\n"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[::1:80", "write [::1]:80"),
        ("[2001:db8::1:443", "write [2001:db8::1]:443"),
        ("[2001:db8::1", "write [2001:db8::1]:80, with a port behind the bracket"),
        ("[2001:db8::1]80", "write [2001:db8::1]:80, with a port behind the bracket"),
    ],
)
def test_a_missing_bracket_is_put_before_the_port(text: str, hint: str) -> None:
    assert bad_endpoint(text, socket.IPPROTO_TCP, NAMES) == hint


@pytest.mark.parametrize(
    ("words", "typed", "status", "kept", "hinted"),
    [
        (["rules.txt"], None, 2, True, False),  # at a terminal it does not wait
        (["rules.txt"], "", 2, True, False),
        (["rules.txt"], "\n\n", 2, True, False),
        (["rules.txt"], "-A -t 192.0.2.2:80 -s rr\n", 0, False, False),
        ([], None, 0, False, True),
        ([], "", 0, False, False),  # as the real one
        (["-n"], "", 0, False, False),
    ],
)
def test_a_restore_whose_input_was_forgotten_changes_nothing(
    words: list[str], typed: str | None, status: int, kept: bool, hinted: bool
) -> None:
    director, before, stderr = table(), rules(table()), Terminal()
    stdin = Terminal() if typed is None else io.StringIO(typed)
    assert run_restore(words, Session(director, stdin, io.StringIO(), stderr, NAMES, PageHost())) == status
    assert (rules(director) == before) == kept
    assert ("hint: type the rules, then ctrl-D" in stderr.getvalue()) == hinted
    assert ("nothing is changed, rules.txt is not read" in stderr.getvalue()) == kept


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("ipvsadm -D -t 192.0.2.1:80", "this service"),
        ("ipvsadm -E -t 192.0.2.1:80 -s wrr", "this service"),
        ("ipvsadm -a -t 192.0.2.1:80 -r 198.51.100.13 -g", "this service"),
        ("ipvsadm -e -t 192.0.2.1:80 -r 198.51.100.11 -g -w 3", "this service"),
        ("ipvsadm -d -t 192.0.2.1:80 -r 198.51.100.11", "this service"),
        ("ipvsadm -C", "its services"),
        ("ipvsadm -D -u 192.0.2.1:53", ""),
        ("ipvsadm -A -t 192.0.2.1:8080 -s rr", ""),
        ("ipvsadm -Ln -t 192.0.2.1:80", ""),
    ],
)
def test_an_edit_that_a_daemon_undoes_has_a_hint(
    command: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "STATE_ROOT", tmp_path)
    monkeypatch.setattr(units, "UNITS", tmp_path / "units")
    state = directory.StateDirectory()
    state.acquire()
    web = ServiceKey(Protocol.TCP, IPv4Address("192.0.2.1"), 80)
    saved.save_owned(state, {web: frozenset()})
    stderr = Terminal()
    assert call(command, stderr)[0] == 0
    keeps = f"hint: pylvs run, process {os.getpid()}, keeps {hint}, and undoes the edit within 2 s"
    assert (keeps in stderr.getvalue()) == bool(hint)
    state.release()
    after = Terminal()  # the daemon has ended
    call(command, after)
    assert "pylvs run" not in after.getvalue()

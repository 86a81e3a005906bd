"""FTP by NAT: at a terminal the command prints a hint, and in every case it adds the server."""

from __future__ import annotations

import io

import pytest

from pylvs.ipvsadm.commands import Session
from tests.memory import MemoryDirector
from tests.unit.ipvsadm.replaying import AllHere


class Terminal(io.StringIO):
    """An output stream that is a terminal."""

    def isatty(self) -> bool:
        return True


def warning(words: str, stderr: io.StringIO) -> str:
    """Add a real server to a service and return the output on stderr."""
    director = MemoryDirector()
    service, _, server = words.partition(" -r ")
    for line in f"-A {service}", f"-a {service} -r {server}":
        output = io.StringIO()
        assert Session(director, io.StringIO(), output, stderr, host=AllHere()).run(line.split()).status == 0
        assert output.getvalue() == ""
    assert len(director.services()[0].destinations) == 1
    return stderr.getvalue()


def test_nat_of_port_21_is_warned_of_at_a_terminal() -> None:
    text = warning("-t 192.0.2.1:21 -r 10.0.0.2 -m", Terminal())
    assert text.startswith("hint: the addresses in FTP's control connection are not translated")
    assert text.count("\n") == 1


@pytest.mark.parametrize("words", ["-t 192.0.2.1:21 -r 10.0.0.2 -g", "-t 192.0.2.1:80 -r 10.0.0.2 -m"])
def test_other_methods_and_ports_are_not(words: str) -> None:
    assert warning(words, Terminal()) == ""


def test_a_script_sees_nothing() -> None:
    assert warning("-t 192.0.2.1:21 -r 10.0.0.2 -m", io.StringIO()) == ""

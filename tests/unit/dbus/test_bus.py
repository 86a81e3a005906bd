"""A connection to a bus that refuses, closes, or sends something else."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from jeepney import HeaderFields, Message, new_error, new_method_return
from jeepney.low_level import Parser

from pylvs.dbus.bus import ACCESS_DENIED, PRIMARY_OWNER, Bus, Lost
from tests.waiting import PATIENCE_S

NAME = "org.example.Name"
ACCEPTED, GARBAGE = b"OK 0123\r\n", b"x" * 64


def shake_hands(address: str) -> Bus:
    """Return a connection that has its name. Raises Lost."""
    made = Bus(address, NAME)
    try:
        while not made.ready:
            assert select.select([made], [], [], PATIENCE_S)[0]
            made.receive()
    except BaseException:
        made.close()
        raise
    return made


def reply(call: Message, owner: int = PRIMARY_OWNER) -> Message:
    """Return the answer of a bus to Hello or RequestName."""
    if call.header.fields[HeaderFields.member] == "Hello":
        return new_method_return(call, "s", (":1.1",))
    if owner:
        return new_method_return(call, "u", (owner,))
    return new_error(call, ACCESS_DENIED, "s", ('Connection ":1.1" is not allowed to own the service',))


@contextmanager
def bus(folder: Path, answer: bytes = ACCEPTED, owner: int = PRIMARY_OWNER, last: bytes = b"") -> Iterator[str]:
    """Provide the address of a bus with this answer to the authentication; it sends `last`, and closes."""

    def serve() -> None:
        end, _ = listener.accept()
        end.settimeout(PATIENCE_S)
        with end, suppress(BrokenPipeError, ConnectionResetError):  # the client closes when it has refused
            end.recv(1024)
            end.sendall(answer)
            data, parser, calls = b"", Parser(), 0
            while answer == ACCEPTED and calls < 2 and (data := data or end.recv(1024)):
                parser.add_data(data.removeprefix(b"BEGIN\r\n"))
                data = b""
                while call := parser.get_next_message():
                    calls += 1
                    end.sendall(reply(call, owner).serialise(calls))
            end.sendall(last)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "bus"))
        listener.listen()
        listener.settimeout(PATIENCE_S)  # a client may fail before it connects
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"unix:path={folder}/bus"
        finally:
            thread.join()


@pytest.mark.parametrize(
    ("answer", "owner", "reason"),
    [
        (b"REJECTED EXTERNAL\r\n", PRIMARY_OWNER, "it refused the authentication"),
        (b"", PRIMARY_OWNER, "it closed the connection"),
        (ACCEPTED, 3, f"another process has the name {NAME}"),
        (ACCEPTED, 0, "its policy does not let user [0-9]+ have the name"),
    ],
)
def test_a_refusal_has_a_reason(tmp_path: Path, answer: bytes, owner: int, reason: str) -> None:
    with bus(tmp_path, answer, owner) as address, pytest.raises(Lost, match=reason):
        shake_hands(address)


@pytest.mark.parametrize(("last", "reason"), [(b"", "it closed the connection"), (GARBAGE, "cannot be read")])
def test_the_end_of_a_connection_has_a_reason(tmp_path: Path, last: bytes, reason: str) -> None:
    def use() -> None:
        made = shake_hands(address)
        try:
            while True:
                made.receive()
        finally:
            made.close()

    with bus(tmp_path, last=last) as address, pytest.raises(Lost, match=reason):
        use()


@pytest.mark.parametrize("address", ["tcp:host=localhost,port=1", "unix:dir=/tmp", "nonsense", ""])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(Lost, match="an address is unix:path=PATH or unix:abstract=NAME"):
        Bus(address, NAME)


def test_a_bus_that_does_not_answer_blocks_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "bus"))
        silent.listen()
        made = Bus(f"unix:path={tmp_path}/bus", NAME)
        assert not made.ready
        assert made.receive() == []
        made.close()


def test_a_bus_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Lost, match="No such file or directory"):
        Bus(f"unix:path={tmp_path}/bus", NAME)

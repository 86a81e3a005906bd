"""Answers to method calls: when they are sent, and what they are without the daemon's help."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from jeepney import DBusAddress, HeaderFields, Message, MessageFlag, MessageType, new_method_call
from jeepney.low_level import Parser

from pylvs.dbus.interface import INSTANCE, INTROSPECTABLE, PEER, PROPERTIES, VRRP
from pylvs.dbus.service import ERROR, MOST_WAITING, Service

ROOT = "/org/keepalived/Vrrp1"
PATH = f"{ROOT}/Instance/eth0/51/IPv4"
ROUTERS = {"routers": {PATH: ["VI_1", "MASTER"]}, "error": ""}


class Daemon:
    """A service, what it sends, and its requests to the daemon, which are answered by hand."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.asked: list[tuple[str, str]] = []
        self.failures: list[str] = []
        self.replies: list[Callable[[Mapping[str, Any]], None]] = []
        self.service = Service(ROOT, self._send, self._ask, self.failures.append)
        self._serial = 0

    def _send(self, message: Message) -> None:
        parser = Parser()
        parser.add_data(message.serialise(1))  # the library raises an error for a body of another type
        found = parser.get_next_message()
        assert found is not None
        self.sent.append(found)

    def _ask(self, method: str, name: str, done: Callable[[Mapping[str, Any]], None]) -> None:
        self.asked.append((method, name))
        self.replies.append(done)

    def reply(self, **fields: Any) -> None:
        """Answer the oldest request."""
        self.replies.pop(0)(fields)

    def call(
        self, path: str, interface: str, method: str, signature: str | None = None, *body: Any, flags: int = 0
    ) -> None:
        call = new_method_call(DBusAddress(path, "x.y", interface or None), method, signature, body)
        call.header.flags = MessageFlag(flags)
        self._serial += 1
        parser = Parser()
        parser.add_data(call.serialise(self._serial))
        received = parser.get_next_message()
        assert received is not None
        self.service.receive(received)

    def results(self) -> list[Any]:
        """Return the bodies of the answers, and the names of errors; forget them."""
        sent, self.sent = self.sent, []
        return [
            each.header.fields[HeaderFields.error_name].removeprefix(ERROR)
            if each.header.message_type is MessageType.error
            else each.body
            for each in sent
        ]


def test_reads_share_one_request_to_the_daemon() -> None:
    daemon = Daemon()
    daemon.call(PATH, PROPERTIES, "Get", "ss", INSTANCE, "Name")
    daemon.call(PATH, PROPERTIES, "GetAll", "s", INSTANCE)
    assert daemon.asked == [("status", "")]
    assert daemon.sent == []
    daemon.reply(**ROUTERS)
    name, state = ("(s)", ("VI_1",)), ("(us)", (2, "Master"))
    assert daemon.results() == [(name,), ({"Name": name, "State": state},)]
    daemon.call(PATH, PROPERTIES, "Get", "ss", INSTANCE, "State")
    assert daemon.asked == [("status", "")] * 2, "the next one reads again"


def test_a_method_is_answered_when_the_daemon_has_executed_it() -> None:
    daemon = Daemon()
    daemon.call(f"{ROOT}/Vrrp", VRRP, "PrintData")
    daemon.call(PATH, INSTANCE, "SendGarp")
    daemon.replies.pop(1)(ROUTERS)
    assert daemon.asked == [("PrintData", ""), ("status", ""), ("SendGarp", "VI_1")]
    assert daemon.sent == []
    daemon.reply(error="/tmp/keepalived.data: Read-only file system")
    daemon.reply()
    assert daemon.results() == ["Failed", ()]


def test_without_virtual_routers_the_reason_is_the_error() -> None:
    daemon = Daemon()
    daemon.call(PATH, PROPERTIES, "GetAll", "s", INSTANCE)
    daemon.call(f"{ROOT}/Vrrp", PROPERTIES, "GetAll", "s", VRRP)
    daemon.reply(routers={}, error="the process of the virtual routers does not answer")
    assert daemon.sent[0].body == ("the process of the virtual routers does not answer",)
    assert daemon.results() == ["Failed", ({},)]


@pytest.mark.parametrize(
    ("path", "interface", "call", "error"),
    [
        (PATH, "", ("Ping",), "UnknownInterface"),
        (PATH, "org.example.X", ("Ping",), "UnknownInterface"),
        (PATH, PEER, ("Pong",), "UnknownMethod"),
        (PATH, VRRP, ("PrintData",), "UnknownObject"),
        (f"{ROOT}/Vrrp", VRRP, ("Go",), "UnknownMethod"),
        (f"{ROOT}/Vrrp", VRRP, ("PrintData", "u", 1), "InvalidArgs"),
        (f"{ROOT}/Vrrp", VRRP, ("CreateInstance", "ssuu", "a", "eth0", 1, 4), "NotSupported"),
    ],
)
def test_some_errors_need_no_daemon(path: str, interface: str, call: tuple[Any, ...], error: str) -> None:
    daemon = Daemon()
    daemon.call(path, interface, *call)
    assert (daemon.results(), daemon.asked) == ([error], [])


@pytest.mark.parametrize(
    ("path", "interface", "call", "error"),
    [
        ("/org/other", INTROSPECTABLE, ("Introspect",), "UnknownObject"),
        (PATH, INTROSPECTABLE, ("Introspect", "s", "x"), "InvalidArgs"),
        (PATH, PROPERTIES, ("Get", "s", INSTANCE), "InvalidArgs"),
        (PATH, PROPERTIES, ("Get", "ss", INSTANCE, "Priority"), "UnknownProperty"),
        (PATH, PROPERTIES, ("Get", "ss", VRRP, "Name"), "UnknownInterface"),
        (PATH, PROPERTIES, ("Set", "ssv", INSTANCE, "State", ("u", 1)), "PropertyReadOnly"),
        (f"{ROOT}/Vrrp", INSTANCE, ("SendGarp",), "UnknownObject"),
    ],
)
def test_other_errors_need_the_objects(path: str, interface: str, call: tuple[Any, ...], error: str) -> None:
    daemon = Daemon()
    daemon.call(path, interface, *call)
    daemon.reply(**ROUTERS)
    assert daemon.results() == [error]


def test_a_caller_that_wants_no_answer_gets_none() -> None:
    daemon = Daemon()
    daemon.call(PATH, PEER, "Ping", flags=MessageFlag.no_reply_expected)
    assert daemon.results() == []
    daemon.call(PATH, PEER, "Ping")
    assert daemon.results() == [()]


def test_calls_that_wait_are_limited() -> None:
    daemon = Daemon()
    for _ in range(MOST_WAITING + 1):
        daemon.call(PATH, PROPERTIES, "GetAll", "s", INSTANCE)
        daemon.call(f"{ROOT}/Vrrp", VRRP, "PrintStats")
    assert daemon.results() == ["LimitsExceeded"] * 2
    while daemon.replies:
        daemon.reply(**ROUTERS)
    assert len(daemon.results()) == 2 * MOST_WAITING


def test_the_begin_emits_the_start_and_each_state() -> None:
    daemon = Daemon()
    daemon.service.begin()
    daemon.reply(**ROUTERS)
    members = [(each.header.fields[HeaderFields.path], each.header.fields[HeaderFields.member]) for each in daemon.sent]
    assert members == [(f"{ROOT}/Vrrp", "VrrpStarted"), (PATH, "VrrpStatusChange"), (PATH, "PropertiesChanged")]
    assert daemon.results() == [(), (2,), (INSTANCE, {"State": ("(us)", (2, "Master"))}, [])]


def test_a_failure_ends_one_call() -> None:
    daemon = Daemon()
    other = f"{ROOT}/Instance/eth0/52/IPv4"
    for path in (PATH, other):
        daemon.call(path, PROPERTIES, "Get", "ss", INSTANCE, "Name")
    daemon.reply(routers={PATH: ["\udcff", "MASTER"], other: ["VI_2", "MASTER"]}, error="")
    assert daemon.sent[0].body == ("UnicodeEncodeError: this is a bug",)
    assert daemon.results() == ["Failed", (("(s)", ("VI_2",)),)]
    assert len(daemon.failures) == 1
    assert daemon.failures[0].startswith("Get: UnicodeEncodeError: ")

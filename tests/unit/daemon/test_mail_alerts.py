"""Mail at events: keepalived's subjects, a queue that never blocks, and mail servers with errors."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import io
import os
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.daemon.notifications import Notifier, alert_of
from pylvs.health.events import Event, ServerDown, ServerUp
from pylvs.model.service import ServiceKey
from pylvs.model.wanted import Configuration, GlobalSettings, Mail, WantedService
from pylvs.notify import mail as mails
from pylvs.notify.mail import Alert, Outbox
from pylvs.notify.message import message
from pylvs.notify.smtp import Refused, deliver
from tests.fake_processes import FakeProcesses
from tests.privileges import assert_unprivileged
from tests.unit.daemon.test_notify_scripts import down, gained, lost, server_key, service, up
from tests.unit.health.fake_servers import Loop, close, closed, lapse
from tests.waiting import until_async

LONG_S = 60.0
MAIL = Mail(("a@example.com", "Bee <b@example.com>"), "lvs@example.com", "127.0.0.1", 0, "here", LONG_S)
Dialogue = Callable[["Mailbox", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def web_service(name: str = "web", **fields: object) -> WantedService:
    """Return a service with all alerts, and without scripts."""
    made = replace(service(name, smtp_alert=True, quorum_up=None, quorum_down=None), **fields)  # type: ignore[arg-type]
    alerting = {"smtp_alert": True, "notify_up": None, "notify_down": None}
    return replace(made, servers=tuple(replace(each, **alerting) for each in made.servers))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("event", "about", "subject", "body"),
    [
        (up(1), web_service(), "Realserver [10.0.0.1]:tcp:80 of virtual server [192.0.2.1]:tcp:80 - UP", ""),
        (down(2), web_service(), "Realserver [10.0.0.2]:tcp:80 of virtual server [192.0.2.1]:tcp:80 - DOWN", ""),
        (
            down(2),
            web_service(keys=(ServiceKey.of_mark(7),)),
            "Realserver [10.0.0.2]:none:80 of virtual server FWM 7 - DOWN",
            "",
        ),
        (
            gained(),
            web_service("group shop tcp", group_name="[shop]:1"),
            "Virtualserver [shop]:1 - UP",
            "Gained quorum 1+0=1 <= 1",
        ),
        (
            gained(initial=True),
            web_service(),
            "Virtualserver [192.0.2.1]:tcp:80 - UP",
            "Starting with quorum up 1+0=1 <= 1",
        ),
        (lost(), web_service(), "Virtualserver [192.0.2.1]:tcp:80 - DOWN", "Lost quorum 1-0=1 > 0"),
        (
            down(1, ending=True, removed=True),
            web_service(),
            "Realserver [10.0.0.1]:tcp:80 of virtual server [192.0.2.1]:tcp:80 - DOWN",
            "Removing",
        ),
        (
            lost(ending=True, removed=True),
            web_service(),
            "Virtualserver [192.0.2.1]:tcp:80 - DOWN",
            "Lost quorum 1-0=1 > 0",
        ),
    ],
)
def test_the_subject_is_keepaliveds(event: Event, about: WantedService, subject: str, body: str) -> None:
    assert alert_of(event, about, "LVS_1") == Alert(f"[LVS_1] {subject}", body, 0)


@pytest.mark.parametrize(
    "event", [down(1, initial=True), down(1, ending=True), lost(initial=True, silent=True), lost(ending=True), up(9)]
)
def test_keepalived_mails_nothing_about_these_events(event: Event) -> None:
    assert alert_of(event, web_service(), "LVS_1") is None


def test_services_without_alerts_mail_nothing() -> None:
    quiet = service()
    assert [alert_of(event, quiet, "x") for event in (up(1), down(1), gained(), lost())] == [None] * 4


@given(st.text(max_size=200), st.text(max_size=200))
def test_no_reason_breaks_the_headers_or_the_end_of_a_message(subject: str, body: str) -> None:
    wire = message(0, subject, body, MAIL)
    found = email.message_from_bytes(wire, policy=email.policy.default)
    assert {name.lower() for name in found} >= {"date", "from", "subject", "to", "x-mailer"}
    assert found["To"] == "a@example.com, Bee <b@example.com>"
    assert found["Subject"].split() == subject.encode(errors="replace").decode().split() or not subject.isprintable()
    assert re.fullmatch(rb"(?:[^\r\n]{0,998}\r\n)*", wire)


@dataclass
class Mailbox:
    """A mail server, and what it received."""

    port: int = 0
    commands: list[str] = field(default_factory=list)
    messages: list[list[str]] = field(default_factory=list)
    refuse: tuple[str, ...] = ()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Speak RFC 5321, with replies of several lines."""
        writer.write(b"220-mail.example\r\n220 ready\r\n")
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            self.commands.append(line)
            if any(word in line for word in self.refuse):
                writer.write(b"550 5.1.1 no such user\r\n")
            elif line == "DATA":
                writer.write(b"354 go on\r\n")
                lines = []
                while (text := (await reader.readline()).decode().rstrip("\r\n")) != ".":
                    lines.append(text)
                self.messages.append(lines)
                writer.write(b"250 taken\r\n")
            elif line == "QUIT":
                writer.write(b"221 bye\r\n")
                return
            else:
                writer.write(b"250-so\r\n250 be it\r\n")


@contextlib.asynccontextmanager
async def mail_server(dialogue: Dialogue = Mailbox.serve, refuse: tuple[str, ...] = ()) -> AsyncIterator[Mailbox]:
    """Return a dialogue that sends these pieces."""
    box = Mailbox(refuse=refuse)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await dialogue(box, reader, writer)
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        await close(server)


def test_a_message_is_sent_in_keepaliveds_dialogue() -> None:
    async def main() -> Mailbox:
        async with mail_server() as box:
            wire = message(0, "[L] Realserver x - UP", "a\n.dot", MAIL)
            assert await deliver(wire + b".\r\n.\r\n", replace(MAIL, port=box.port)) == {}
            return box

    box = asyncio.run(main())
    assert box.commands == [
        "HELO here",
        "MAIL FROM:<lvs@example.com>",
        "RCPT TO:<a@example.com>",
        "RCPT TO:<b@example.com>",
        "DATA",
        "QUIT",
    ]
    (lines,) = box.messages
    assert "Subject: [L] Realserver x - UP" in lines
    assert lines[lines.index("") + 1 :] == ["=> a .dot <=", "..", ".."]


def test_a_refused_recipient_does_not_stop_the_others() -> None:
    async def main() -> None:
        async with mail_server(refuse=("<b@",)) as box:
            refused = await deliver(b"x", replace(MAIL, port=box.port))
            assert refused == {"Bee <b@example.com>": "550 5.1.1 no such user"}
            assert box.messages == [["x"]]
        async with mail_server(refuse=("RCPT",)) as box:
            with pytest.raises(Refused, match=f"127.0.0.1 port {box.port}: 550 5.1.1 no such user"):
                await deliver(b"x", replace(MAIL, port=box.port))
            assert box.messages == []

    asyncio.run(main())


def replying(*pieces: bytes, hold: bool = False) -> Dialogue:
    async def dialogue(_: Mailbox, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
        await writer.drain()
        if hold:
            await reader.read()

    return dialogue


@pytest.mark.parametrize(
    ("dialogue", "text"),
    [
        (replying(), "after the greeting: the connection was closed"),
        (replying(b"554 go away\r\n"), "after the greeting: 554 go away"),
        (replying(b"SSH-2.0-OpenSSH\r\n"), "not a reply of a mail server: SSH-2.0-OpenSSH"),
        (replying(b"220-more\r\n" * 500), "a reply without an end"),
        (replying(b"2" * 10000), "limit"),
        (replying(b"220 hi\r\n"), "after HELO: the connection was closed"),
    ],
)
def test_a_malformed_reply_is_an_error_with_a_reason(dialogue: Dialogue, text: str) -> None:
    async def main() -> None:
        async with mail_server(dialogue) as box:
            with pytest.raises(Refused, match=text):
                await deliver(b"x", replace(MAIL, port=box.port))

    asyncio.run(main())


async def hanging(_: Mailbox, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send nothing."""
    for _turn in range(20):  # the other side is connected, and waits for the greeting
        await asyncio.sleep(0)
    lapse(LONG_S)
    await reader.read()


def test_a_silent_server_times_out() -> None:
    async def main() -> None:
        async with mail_server(hanging) as box:
            with pytest.raises(Refused, match=r"after the greeting: no answer in 60 s"):
                await deliver(b"x", replace(MAIL, port=box.port))
        with closed() as target, pytest.raises(Refused, match="refused"):
            await deliver(b"x", replace(MAIL, port=target.port))

    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())


def sending(mail: Mail, *services: WantedService) -> Notifier:
    made = Notifier()
    made.configure(Configuration(services or (web_service(),), GlobalSettings(router_id="LVS_1", mail=mail)))
    return made


def event(number: int, at: float) -> Event:
    kind = ServerUp if number % 2 else ServerDown
    more = {"weight": 1} if number % 2 else {}
    return kind(at=at, service="web", reason=f"event {number}", server=server_key(1), **more)  # type: ignore[arg-type]


def test_alerts_are_sent_in_order_and_dropped_beyond_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mails, "MOST_WAITING", 5)

    async def main() -> Mailbox:
        async with mail_server() as box:
            sender = sending(replace(MAIL, port=box.port))
            for number in range(9):
                sender.notify(event(number, 1000.0))
            await sender.finish()
            sender.notify(event(9, 1000.0))
            await sender.finish()
            return box

    bodies = [lines[-1] for lines in asyncio.run(main()).messages]
    assert bodies == [f"=> event {number} <=" for number in (0, 1, 2, 3, 4, 9)]


def test_a_server_that_a_reload_removed_is_mailed() -> None:
    async def main() -> Mailbox:
        async with mail_server() as box:
            mail = replace(MAIL, port=box.port)
            sender = sending(mail, web_service(servers=web_service().servers[:1]))
            sender.configure(Configuration((), GlobalSettings(router_id="LVS_1", mail=mail)))
            sender.notify(down(1, ending=True, removed=True))
            await sender.finish()
            return box

    (lines,) = asyncio.run(main()).messages
    assert "Subject: [LVS_1] Realserver [10.0.0.1]:tcp:80 of virtual server [192.0.2.1]:tcp:80 - DOWN" in lines
    assert lines[-1] == "=> Removing <="


@pytest.mark.parametrize("address", ["lvs@", "ops <", "@", "a@b\r\nX: y"])
def test_a_malformed_address_stops_no_alert(address: str) -> None:
    """As with keepalived, the mail server decides."""

    async def main() -> Mailbox:
        async with mail_server() as box:
            outbox = Outbox()
            outbox.configure(replace(MAIL, recipients=(address, "b@example.com"), sender=address, port=box.port))
            for number in range(2):
                outbox.put(Alert(f"alert {number}", "", 0))
            await outbox.finish()
            return box

    messages = asyncio.run(main()).messages
    assert [[line for line in lines if line.startswith("Subject")] for lines in messages] == [
        ["Subject: alert 0"],
        ["Subject: alert 1"],
    ]
    assert not [line for lines in messages for line in lines if line.startswith("X: ")]
    if "\r" not in address:
        assert f"From: {address}" in messages[0]
        assert f"To: {address}, b@example.com" in messages[0]


@pytest.mark.parametrize("lacking", [{"recipients": ()}, {"server": ""}])
def test_without_recipients_or_a_server_no_mail_is_sent(lacking: dict[str, Any]) -> None:
    async def main() -> None:
        outbox = Outbox()
        outbox.configure(replace(MAIL, **lacking))
        outbox.put(Alert("x", "", 0))
        assert not outbox.busy

    asyncio.run(main())


def test_an_alert_that_waited_too_long_is_dropped(monkeypatch: pytest.MonkeyPatch, log_output: io.StringIO) -> None:
    """The wall clock does not matter: it jumps by a day, and the first alert is sent."""
    monkeypatch.setattr(time, "time", lambda: 1e9)
    waited = [0.0]

    async def late(box: Mailbox, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waited[0] += mails.OLDEST_S + 1
        await box.serve(reader, writer)

    async def main() -> Mailbox:
        async with mail_server(late) as box:
            outbox = Outbox(lambda: waited[0])
            outbox.configure(replace(MAIL, port=box.port))
            outbox.put(Alert("first", "", 1e9 - 86400))
            outbox.put(Alert("second", "", 1e9))
            await outbox.finish()
            return box

    (lines,) = asyncio.run(main()).messages
    assert "Subject: first" in lines
    assert "an alert was not sent (subject=second, reason=it has waited for more than 600 s)" in log_output.getvalue()


async def delivered(wire: bytes, mail: Mail) -> dict[str, str]:
    """Deliver a mail in a process of its own. Raises Refused."""
    outbox = Outbox()
    outbox._edge.begin(outbox)
    try:
        return await outbox.deliver(wire, mail)
    finally:
        await outbox._edge.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has privileges to give up")
def test_the_process_that_delivers_has_no_privileges() -> None:
    """It has none before the mail server sends its first byte."""

    def unprivileged() -> int:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        (found,) = [each for each in children if Path(f"/proc/{each}/comm").read_text() == "pylvs-edge\n"]
        assert_unprivileged(int(found))
        return int(found)

    async def main() -> None:
        found: list[int] = []

        async def dialogue(box: Mailbox, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            found.append(unprivileged())
            await box.serve(reader, writer)

        async with mail_server(dialogue) as box:
            assert await delivered(b"x", replace(MAIL, server="localhost", port=box.port)) == {}
            assert box.messages == [["x"]]
        assert not Path(f"/proc/{found[0]}").exists()

    asyncio.run(main())


def test_the_process_reports_what_the_server_refused() -> None:
    async def main() -> None:
        async with mail_server(refuse=("<b@",)) as box:
            refused = await delivered("é".encode(), replace(MAIL, port=box.port))
            assert refused == {"Bee <b@example.com>": "550 5.1.1 no such user"}
            assert box.messages == [["é"]]
        async with mail_server(refuse=("RCPT",)) as box:
            with pytest.raises(Refused, match=f"127.0.0.1 port {box.port}: 550 5.1.1 no such user"):
                await delivered(b"x", replace(MAIL, port=box.port))

    asyncio.run(main())


async def endless(_: Mailbox, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Reply without end."""
    while True:
        writer.write(b"220-more\r\n" * 100)
        await writer.drain()


def test_a_reply_without_end_is_cut_off() -> None:
    async def main() -> None:
        async with mail_server(endless) as box:
            with pytest.raises(Refused, match="after the greeting: a reply without an end"):
                await delivered(b"x", replace(MAIL, port=box.port))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, "the edge process has ended"),
        ({"id": 1}, r"the edge process sent an invalid message \(not a result\)"),
        ({"id": 1, "recipient": "c@example.com", "reply": "no"}, r"the edge process sent an invalid message \(not a"),
        ({"id": [1]}, r"the edge process sent an invalid message \(a result without its number\)"),
        ({"id": 1, "reason": "mx port 25:\nno"}, "^mx port 25: no$"),
    ],
)
def test_a_process_that_fails_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, result: dict[str, object] | None, text: str
) -> None:
    processes = FakeProcesses(monkeypatch)

    async def main() -> None:
        delivery = asyncio.create_task(delivered(b"x", MAIL))
        await until_async(lambda: processes.started)
        processes.last.greet()
        await until_async(processes.last.received)
        if result is None:
            processes.last.its_end.close()
        else:
            processes.last.send({"task": "mail", **result})
            processes.last.its_end.shutdown(socket.SHUT_WR)
        with pytest.raises(Refused, match=text):
            await delivery

    asyncio.run(main())
    processes.close()


def test_a_process_that_hangs_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mails, "START_S", 0.01)
    processes = FakeProcesses(monkeypatch)
    with pytest.raises(Refused, match="it was not delivered in time"):
        asyncio.run(delivered(b"x", MAIL))
    processes.close()


def test_a_mail_server_that_is_down_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mails, "FINISH_S", 0.1)

    async def main() -> None:
        async with mail_server(replying(hold=True)) as box:
            sender = sending(replace(MAIL, port=box.port))
            sender.notify(event(1, time.time()))
            sender.notify(event(2, time.time()))
            await asyncio.wait_for(sender.finish(), LONG_S)

    asyncio.run(main())


def test_without_recipients_nothing_is_sent() -> None:
    async def main() -> None:
        sender = sending(replace(MAIL, recipients=()))
        sender.notify(event(1, 0))
        sender.notify(gained())
        assert not sender.outbox.busy

    asyncio.run(main())


@pytest.mark.parametrize("known", [True, False, None], ids=["canonical", "unknown", "no answer"])
def test_by_default_a_mail_names_this_machine_as_its_resolver_does(
    known: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver that does not answer stops neither the event loop nor the mail."""
    resolved, asked = threading.Event(), list[int]()

    def getaddrinfo(name: str, port: None, flags: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        assert threading.current_thread() is not threading.main_thread()
        asked.append(flags)
        if known is None:
            loop.call_soon_threadsafe(lapse, mails.RESOLVE_S)
            resolved.wait()
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(2, 1, 6, f"{name}.example.org", ("192.0.2.1", 0))]

    monkeypatch.setattr(socket, "gethostname", lambda: "lb1")
    monkeypatch.setattr(mails, "canonical_name", partial(mails.canonical_name, getaddrinfo))
    monkeypatch.setattr(mails, "RESOLVE_S", LONG_S)

    async def main() -> Mailbox:
        async with mail_server() as box:
            sender = Notifier()
            mail = Mail(("a@example.com",), server="127.0.0.1", port=box.port)
            sender.configure(Configuration((web_service(),), GlobalSettings(mail=mail)))
            for number in range(2):
                sender.notify(event(number, 1000.0))
            await sender.finish()
            return box

    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        box = runner.run(main())
    resolved.set()
    name = "lb1.example.org" if known else "lb1"
    assert [each for each in box.commands if each.startswith(("HELO", "MAIL"))] == [
        f"HELO {name}",
        f"MAIL FROM:<root@{name}>",
    ] * 2
    for lines in box.messages:
        assert f"From: root@{name}" in lines
        assert any(each.startswith(f"Subject: [{name}] ") for each in lines)
    assert set(asked) == {socket.AI_CANONNAME}
    assert len(asked) == 1, "a name that is known is kept, and a resolver without one is not asked for a minute"


@pytest.mark.parametrize(
    ("known", "reason"),
    [
        (None, "mx.invalid port 25: its name was not resolved in 0.01 s"),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "mx.invalid port 25: its name was not resolved",
        ),
    ],
)
def test_a_name_that_is_not_resolved_is_the_reason(known: socket.gaierror | None, reason: str) -> None:
    async def getaddrinfo(*_words: object, **_options: object) -> NoReturn:
        if known is not None:
            raise known
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario() -> None:
        asyncio.get_running_loop().getaddrinfo = getaddrinfo  # type: ignore[method-assign]
        await deliver(b"", Mail(("a@b",), server="mx.invalid", connect_timeout_s=0.01))

    with pytest.raises(Refused) as refused:
        asyncio.run(scenario())
    assert str(refused.value).startswith(reason)

"""The aide beside the real keepalived: the same scripts with the same arguments, the same lines, the same mail.

keepalived lives through it all in a network namespace; the aide is told of the same transitions by messages.
"""

from __future__ import annotations

import contextlib
import email
import os
import signal
import socket
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.config.compile.document import build
from pylvs.config.language.parser import read_text
from pylvs.vrrp.aide.messages import Configure, Finish, LowerHeard, Moved, PriorityMoved
from pylvs.vrrp.packet import PROTOCOL, Advertisement, encode
from tests.interop import keepalived
from tests.interop.places import inside
from tests.unit.vrrp.aide.aides import aide

pytestmark = pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not())

LONG_S = 60.0
VIP, HERE, ELSEWHERE, GROUP_ADDRESS = "10.9.0.103", "10.9.0.1", "10.9.0.2", "224.0.0.18"
FRAME = bytes.fromhex("01005e000012 020000000009 0800")

COMMON = """
global_defs {
    router_id R1
    script_user root
    vrrp_version 3
    notify_fifo FOLDER/all
    vrrp_notify_fifo FOLDER/vrrp daemon adm
    fifo_write_vrrp_states_on_reload
    notification_email { a@example.com }
    notification_email_from k@example.com
    smtp_server 127.0.0.1 PORT
}
vrrp_sync_group G1 {
    group { VI_1 VI_2 }
    SCRIPTS
}
vrrp_script checked {
    script FOLDER/check
    interval 1
    weight -20
}
vrrp_instance VI_1 {
    interface v0
    virtual_router_id 51
    priority 100
    advert_int 0.2
    virtual_ipaddress { 10.9.0.100 }
    notify_deleted "FOLDER/note VI_1 deleted"
    notify_master_rx_lower_pri "FOLDER/note VI_1 lower"
    SCRIPTS
}
vrrp_instance VI_2 {
    interface v0
    virtual_router_id 52
    priority 110
    advert_int 0.2
    virtual_ipaddress { 10.9.0.101 }
    notify "FOLDER/note VI_2 every"
}
"""
GONE_LATER = """
vrrp_instance VI_3 {
    interface v0
    virtual_router_id 53
    priority 90
    advert_int 0.2
    virtual_ipaddress { 10.9.0.103 }
    track_script { checked }
    notify_deleted "FOLDER/note VI_3 deleted"
    notify_master_rx_lower_pri "FOLDER/note VI_3 lower"
    SCRIPTS
}
vrrp_instance VI_4 {
    interface v0
    virtual_router_id 54
    priority 80
    advert_int 0.2
    virtual_ipaddress { 10.9.0.104 }
    SCRIPTS
}
"""
SCRIPTS = """
    notify_master "FOLDER/note NAME master 'two words'"
    notify_backup "FOLDER/note NAME backup"
    notify_fault "FOLDER/note NAME fault"
    notify_stop "FOLDER/note NAME stop"
    notify "FOLDER/note NAME every"
    notify_priority_changes
    smtp_alert
"""
PRIORITIES = {"VI_1": 100, "VI_2": 110, "VI_3": 90, "VI_4": 80}
MAILING = 4  # G1, and the instances but VI_2
GROUPED, ALL = ("VI_1", "VI_2"), tuple(PRIORITIES)


def text_of(outline: str, folder: Path, port: int) -> str:
    """A configuration; each block's scripts say whose they are."""
    pieces = []
    for block in outline.split("\n}\n"):
        words = block.split()
        name = words[1] if len(words) > 1 else ""
        pieces.append(block.replace("SCRIPTS", SCRIPTS.replace("NAME", name)))
    return "\n}\n".join(pieces).replace("FOLDER", str(folder)).replace("PORT", str(port))


@dataclass
class Told:
    """What reached the outside."""

    folder: Path
    port: int = 0
    lines: dict[str, list[str]] = field(default_factory=lambda: {"all": [], "vrrp": []})
    mails: list[tuple[str, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def calls(self) -> Sequence[str]:
        file = self.folder / "calls"
        return sorted(file.read_text().splitlines()) if file.exists() else []

    def calls_in(self, folder: Path) -> Sequence[str]:
        """Return the calls as they would be with another folder."""
        return sorted(line.replace(str(self.folder), str(folder)) for line in self.calls())

    def per_subject(self, pipe: str) -> Mapping[str, Sequence[str]]:
        """The lines of a pipe under the instance or group that they are about."""
        found = defaultdict(list)
        for line in self.lines[pipe]:
            _, name, word, priority = line.split()
            found[name.strip('"')].append(f"{word} {priority}")
        return found

    def read(self, name: str) -> None:
        """Follow a pipe, which a reload may replace by another."""
        rest = b""
        while not self.over.is_set():
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(self.folder / name, os.O_RDONLY | os.O_NONBLOCK)
                for chunk in self._chunks(name, descriptor):
                    *whole, rest = (rest + chunk).split(b"\n")
                    self.lines[name] += [line.decode() for line in whole]
                os.close(descriptor)
            time.sleep(0.005)

    def _chunks(self, name: str, descriptor: int) -> Iterator[bytes]:
        """To the end of this one, which is not that nobody has it open."""
        mine = os.fstat(descriptor).st_ino
        while True:
            try:
                chunk = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                chunk = b""
            if chunk:
                yield chunk
                continue
            path = self.folder / name
            if self.over.is_set() or not path.exists() or path.stat().st_ino != mine:
                return
            time.sleep(0.005)

    def take_mail(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._mail, args=(connection,), daemon=True).start()

    def _mail(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as talk, contextlib.suppress(OSError):
            talk.write(b"220 ready\r\n")
            talk.flush()
            while line := talk.readline().strip():
                if line == b"DATA":
                    talk.write(b"354 go on\r\n")
                    talk.flush()
                    wire = b""
                    while (text := talk.readline()) != b".\r\n":
                        wire += text
                    message = email.message_from_bytes(wire)
                    self.mails.append((str(message["Subject"]), str(message.get_payload()).strip()))
                talk.write(b"221 bye\r\n" if line == b"QUIT" else b"250 ok\r\n")
                talk.flush()


@contextlib.contextmanager
def outside(folder: Path) -> Iterator[Told]:
    """A mailbox, readers of the pipes, scripts that write down how they were called."""
    folder.mkdir()
    told = Told(folder)
    for name, words in (("note", f'echo "$#: $*" >>{folder}/calls'), ("check", f"exit $(cat {folder}/status)")):
        (folder / name).write_text(f"#!/bin/sh\n{words}\n")
        (folder / name).chmod(0o755)
    (folder / "status").write_text("0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        told.port = listener.getsockname()[1]
        threads = [threading.Thread(target=told.read, args=(name,)) for name in told.lines]
        threads.append(threading.Thread(target=told.take_mail, args=(listener,)))
        for thread in threads:
            thread.start()
        try:
            yield told
        finally:
            told.over.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(LONG_S)


def until(holds: Callable[[], bool], what: object = "") -> None:
    deadline = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def lower_priority_is_heard() -> None:
    """An advertisement from a router of lower priority, as it comes over the wire."""
    source, destination = ip_address(ELSEWHERE), ip_address(GROUP_ADDRESS)
    payload = encode(Advertisement(3, 53, 50, 0.2, (ip_address(VIP),)), source, destination)
    length = 20 + len(payload)
    head = bytearray(bytes((0x45, 0, length >> 8, length & 255, 0, 0, 0, 0, 255, PROTOCOL, 0, 0)))
    head += source.packed + destination.packed
    total = sum(int.from_bytes(head[at : at + 2]) for at in range(0, 20, 2))
    head[10:12] = (~(total + (total >> 16)) & 0xFFFF).to_bytes(2)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("v1", 0))
        out.send(FRAME + head + payload)


def keepalived_lives(told: Told, wanted: Told) -> None:
    """From its start to its end, in the caller's network namespace, with each transition waited for.

    keepalived kills its scripts when it stops, and they run for as long as the machine takes. So it is stopped only
    after all that is `wanted` before, and this returns after all that is wanted at the end.
    """
    folder, lines = told.folder, told.lines["all"]
    file = folder / "keepalived.conf"
    file.write_text(text_of(COMMON + GONE_LATER, folder, told.port))
    for words in (
        "link add v0 type veth peer name v1",
        "link set v0 up",
        "link set v1 up",
        f"address add {HERE}/24 dev v0",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    names = ("-p", "-r", "-c")
    pids = [word for name in names for word in (name, str(folder / f"pid{name}"))]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [keepalived.PROGRAM, "-n", "-l", "-D", "-f", str(file), *pids],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def seen(word: str, *whose: str, times: int = 1) -> None:
        for name in whose:
            until(lambda name=name: told.per_subject("all")[name].count(word) >= times, f"{name} {word}: {lines}")  # type: ignore[misc]

    def all_are(state: str, times: int = 1) -> None:
        for name in ALL:
            seen(f"{state} {PRIORITIES[name]}", name, times=times)
        seen(f"{state} 0", "G1", times=times)

    try:
        all_are("MASTER")
        lower_priority_is_heard()
        seen("MASTER_RX_LOWER_PRI 90", "VI_3")
        (folder / "status").write_text("1")
        seen("MASTER_PRIORITY 70", "VI_3")
        (folder / "status").write_text("0")
        seen("MASTER_PRIORITY 90", "VI_3")
        subprocess.run(["ip", "link", "set", "v0", "down"], check=True)
        all_are("FAULT")
        subprocess.run(["ip", "link", "set", "v0", "up"], check=True)
        all_are("MASTER", times=2)
        until(lambda: sum("MASTER" in subject for subject, _ in told.mails) == 2 * MAILING, told.mails)
        file.write_text(text_of(COMMON, folder, told.port))
        process.send_signal(signal.SIGHUP)
        seen("DELETED 90", "VI_3")
        seen("FAULT 80", "VI_4", times=2)
        seen("MASTER 0", "G1", times=3)
        before = [line for line in wanted.calls_in(folder) if "stop" not in line.lower()]
        until(lambda: told.calls() == before, "the scripts before the stop")
        until(lambda: sorted(told.mails) == sorted(wanted.mails), "all mail")
        process.send_signal(signal.SIGTERM)
        process.wait(LONG_S)
        seen("STOP 0", "G1")
        until(lambda: told.calls() == wanted.calls_in(folder), "the scripts of the stop")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def aide_lives(told: Told) -> None:
    """The same by messages."""

    def configure(outline: str) -> Configure:
        document, _ = read_text(text_of(outline, told.folder, told.port))
        configuration, _ = build(document)
        return Configure(configuration.settings, configuration.vrrp)

    def all_to(state: str, before: str = "", names: Sequence[str] = ALL) -> list[Any]:
        moved: list[Any] = [Moved("INSTANCE", name, state, PRIORITIES[name], before) for name in names]
        return [*moved, Moved("GROUP", "G1", state, 0, before)]

    messages = [
        configure(COMMON + GONE_LATER),
        *all_to("BACKUP"),
        *all_to("MASTER", "BACKUP"),
        LowerHeard("VI_3", 90),
        PriorityMoved("VI_3", "MASTER", 70),
        PriorityMoved("VI_3", "MASTER", 90),
        *all_to("FAULT", "MASTER"),
        *all_to("BACKUP", "FAULT"),
        *all_to("MASTER", "BACKUP"),
        configure(COMMON),
        Moved("INSTANCE", "VI_3", "DELETED", 90, "MASTER"),
        Moved("INSTANCE", "VI_4", "DELETED", 80, "MASTER"),
        Moved("GROUP", "G1", "MASTER", 0, "MASTER", at_reload=True),
        *all_to("STOP", "MASTER", GROUPED),
    ]
    with aide(told.folder) as one:
        one.tell(*messages, Finish())
        assert one.ended() == 0


def test_keepalived_and_the_aide_tell_the_same(tmp_path: Path) -> None:
    with inside("notify"):
        with outside(tmp_path / "a") as ours:
            aide_lives(ours)
        with outside(tmp_path / "k") as theirs:
            keepalived_lives(theirs, ours)
    assert theirs.calls()
    assert ours.calls_in(theirs.folder) == theirs.calls()
    for pipe in ("all", "vrrp"):
        assert ours.per_subject(pipe) == theirs.per_subject(pipe)
    assert theirs.mails
    assert sorted(ours.mails) == sorted(theirs.mails)

"""The helper process compared with the real keepalived: the same script calls, lines in FIFOs, and mail.

keepalived runs in a network namespace; the helper process receives the same transitions as messages.
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
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pylvs.config.compile import document as building
from pylvs.config.language.parser import read_text
from pylvs.vrrp.helper.link import Configure, Finish, LowerPriorityReceived, PriorityChanged, StateChanged
from pylvs.vrrp.protocol.adverts import PROTOCOL, Advertisement, encode
from tests.interop import keepalived
from tests.interop.namespaces import inside
from tests.unit.vrrp.helper.running_helper import run_helper
from tests.waiting import until_up

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
    timeout 60
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
    """Return a configuration; the arguments of each block's scripts name the block."""
    pieces = []
    for block in outline.split("\n}\n"):
        words = block.split()
        name = words[1] if len(words) > 1 else ""
        pieces.append(block.replace("SCRIPTS", SCRIPTS.replace("NAME", name)))
    return "\n}\n".join(pieces).replace("FOLDER", str(folder)).replace("PORT", str(port))


@dataclass
class Notifications:
    """The notifications that arrived."""

    folder: Path
    port: int = 0
    lines: dict[str, list[str]] = field(default_factory=lambda: {"all": [], "vrrp": []})
    mails: list[tuple[str, str]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def calls(self) -> Sequence[str]:
        file = self.folder / "calls"
        return sorted(file.read_text().splitlines()) if file.exists() else []

    def calls_in(self, folder: Path) -> Sequence[str]:
        """Return the calls with another directory."""
        return sorted(line.replace(str(self.folder), str(folder)) for line in self.calls())

    def per_subject(self, pipe: str) -> Mapping[str, Sequence[str]]:
        """Return the lines of a FIFO by instance or group."""
        found = defaultdict(list)
        for line in self.lines[pipe]:
            _, name, word, priority = line.split()
            found[name.strip('"')].append(f"{word} {priority}")
        return found

    def read(self, name: str) -> None:
        """Read a FIFO, which a reload may replace by another."""
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
        """Read until the FIFO is removed and empty, even while no process has it open for writing."""
        mine, removed = os.fstat(descriptor).st_ino, False
        while True:
            try:
                chunk = os.read(descriptor, 1 << 16)
            except BlockingIOError:
                chunk = b""
            if chunk:
                yield chunk
            elif removed:  # it was before this read: every line has been read
                return
            elif not (removed := self.over.is_set() or self._inode(name) != mine):
                time.sleep(0.005)

    def _inode(self, name: str) -> int:
        """Return that of the file which has this name now; 0 if there is none."""
        try:
            return (self.folder / name).stat().st_ino
        except FileNotFoundError:
            return 0

    def take_mail(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._mail, args=(connection,), daemon=True).start()

    def _mail(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as session, contextlib.suppress(OSError):
            session.write(b"220 ready\r\n")
            session.flush()
            while line := session.readline().strip():
                if line == b"DATA":
                    session.write(b"354 go on\r\n")
                    session.flush()
                    wire = b""
                    while (text := session.readline()) != b".\r\n":
                        wire += text
                    message = email.message_from_bytes(wire)
                    self.mails.append((str(message["Subject"]), str(message.get_payload()).strip()))
                session.write(b"221 bye\r\n" if line == b"QUIT" else b"250 ok\r\n")
                session.flush()


@contextlib.contextmanager
def outside(folder: Path) -> Iterator[Notifications]:
    """Provide a mail server, readers of the FIFOs, and scripts that record their arguments."""
    folder.mkdir()
    notifications = Notifications(folder)
    for name, words in (("note", f'echo "$#: $*" >>{folder}/calls'), ("check", f"exit $(cat {folder}/status)")):
        (folder / name).write_text(f"#!/bin/sh\n{words}\n")
        (folder / name).chmod(0o755)
    (folder / "status").write_text("0")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        notifications.port = listener.getsockname()[1]
        threads = [threading.Thread(target=notifications.read, args=(name,)) for name in notifications.lines]
        threads.append(threading.Thread(target=notifications.take_mail, args=(listener,)))
        for thread in threads:
            thread.start()
        try:
            yield notifications
        finally:
            notifications.over.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(LONG_S)


def until(holds: Callable[[], bool], what: object = "") -> None:
    deadline = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def send_lower_priority() -> None:
    """Send an advertisement of a router of lower priority."""
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


def keepalived_lives(notifications: Notifications, wanted: Notifications) -> None:
    """Run keepalived in the caller's network namespace, and wait for each transition.

    keepalived kills its scripts when it stops, and they may run for a while. So it stops only after all that is
    `wanted` before, and this returns after all that is wanted at the end.
    """
    folder, lines = notifications.folder, notifications.lines["all"]
    file = folder / "keepalived.conf"
    file.write_text(text_of(COMMON + GONE_LATER, folder, notifications.port))
    for words in (
        "link add v0 type veth peer name v1",
        "link set v0 up",
        "link set v1 up",
        f"address add {HERE}/24 dev v0",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    until_up("v0")
    names = ("-p", "-r", "-c")
    pids = [word for name in names for word in (name, str(folder / f"pid{name}"))]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [keepalived.PROGRAM, "-n", "-l", "-D", "-f", str(file), *pids],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def seen(word: str, *subjects: str, times: int = 1) -> None:
        def has(name: str) -> bool:
            return notifications.per_subject("all")[name].count(word) >= times

        for name in subjects:
            until(partial(has, name), f"{name} {word}: {lines}")

    def all_are(state: str, times: int = 1) -> None:
        for name in ALL:
            seen(f"{state} {PRIORITIES[name]}", name, times=times)
        seen(f"{state} 0", "G1", times=times)

    try:
        all_are("MASTER")
        send_lower_priority()
        seen("MASTER_RX_LOWER_PRI 90", "VI_3")
        (folder / "status").write_text("1")
        seen("MASTER_PRIORITY 70", "VI_3")
        (folder / "status").write_text("0")
        seen("MASTER_PRIORITY 90", "VI_3")
        subprocess.run(["ip", "link", "set", "v0", "down"], check=True)
        all_are("FAULT")
        subprocess.run(["ip", "link", "set", "v0", "up"], check=True)
        all_are("MASTER", times=2)
        until(
            lambda: sum("MASTER" in subject for subject, _ in notifications.mails) == 2 * MAILING, notifications.mails
        )
        file.write_text(text_of(COMMON, folder, notifications.port))
        process.send_signal(signal.SIGHUP)
        seen("DELETED 90", "VI_3")
        seen("FAULT 80", "VI_4", times=2)
        seen("MASTER 0", "G1", times=3)
        before = [line for line in wanted.calls_in(folder) if "stop" not in line.lower()]
        until(lambda: notifications.calls() == before, "the scripts before the stop")
        until(lambda: sorted(notifications.mails) == sorted(wanted.mails), "all mail")
        process.send_signal(signal.SIGTERM)
        process.wait(LONG_S)
        seen("STOP 0", "G1")
        until(lambda: notifications.calls() == wanted.calls_in(folder), "the scripts of the stop")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def run_in_helper(notifications: Notifications) -> None:
    """The same by messages."""

    def configure(outline: str) -> Configure:
        document, _ = read_text(text_of(outline, notifications.folder, notifications.port))
        configuration, _ = building.build(document)
        return Configure(configuration.settings, configuration.vrrp)

    def all_to(state: str, before: str = "", names: Sequence[str] = ALL) -> list[Any]:
        moved: list[Any] = [StateChanged("INSTANCE", name, state, PRIORITIES[name], before) for name in names]
        return [*moved, StateChanged("GROUP", "G1", state, 0, before)]

    messages = [
        configure(COMMON + GONE_LATER),
        *all_to("BACKUP"),
        *all_to("MASTER", "BACKUP"),
        LowerPriorityReceived("VI_3", 90),
        PriorityChanged("VI_3", "MASTER", 70),
        PriorityChanged("VI_3", "MASTER", 90),
        *all_to("FAULT", "MASTER"),
        *all_to("BACKUP", "FAULT"),
        *all_to("MASTER", "BACKUP"),
        configure(COMMON),
        StateChanged("INSTANCE", "VI_3", "DELETED", 90, "MASTER"),
        StateChanged("INSTANCE", "VI_4", "DELETED", 80, "MASTER"),
        StateChanged("GROUP", "G1", "MASTER", 0, "MASTER", at_reload=True),
        *all_to("STOP", "MASTER", GROUPED),
    ]
    with run_helper(notifications.folder) as helper:
        helper.send(*messages, Finish())
        assert helper.ended() == 0


def test_keepalived_and_the_helper_process_notify_the_same(tmp_path: Path) -> None:
    with inside("notify"):
        with outside(tmp_path / "a") as ours:
            run_in_helper(ours)
        with outside(tmp_path / "k") as theirs:
            keepalived_lives(theirs, ours)
    assert theirs.calls()
    assert ours.calls_in(theirs.folder) == theirs.calls()
    for pipe in ("all", "vrrp"):
        assert ours.per_subject(pipe) == theirs.per_subject(pipe)
    assert theirs.mails
    assert sorted(ours.mails) == sorted(theirs.mails)

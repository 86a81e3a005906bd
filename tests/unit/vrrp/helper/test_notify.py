"""Notifications by scripts, FIFOs and mail: contents, order, and time limits."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pylvs.model.checks import Script
from pylvs.model.vrrp import Fifo, Notify, VrrpConfiguration, VrrpGroup, VrrpSettings
from pylvs.model.wanted import GlobalSettings
from pylvs.vrrp.helper.link import (
    Configure,
    Finish,
    LogLine,
    LowerPriorityReceived,
    PriorityChanged,
    ScriptsReported,
    StateChanged,
)
from pylvs.vrrp.helper.notify import Notifier, alert_of
from tests.unit.vrrp.helper.running_helper import instance, run_helper, shell
from tests.waiting import PATIENCE_S, until


def note(file: Path, label: str) -> Script:
    """A script that appends its label and its arguments to a file."""
    return Script(("/bin/sh", "-c", f'echo "$@" >>{file}', "sh", label))


def everything(file: Path, label: str, **fields: Any) -> Notify:
    kinds = ("master", "backup", "fault", "stop", "every", "deleted", "lower_priority_received")
    return Notify(**{kind: note(file, f"{label}-{kind}") for kind in kinds} | fields)


def configure(notify: Notify, *fifos: Fifo, name: str = "VI", **fields: Any) -> Configure:
    group = VrrpGroup(name="G", members=(name,), notify=notify)
    settings = VrrpSettings(fifos=fifos, **fields)
    routers = VrrpConfiguration(instances=(instance(name, notify=notify),), groups=(group,), settings=settings)
    return Configure(GlobalSettings(), routers)


def state_changed(state: str, name: str = "VI", **fields: Any) -> StateChanged:
    kind = "GROUP" if name == "G" else "INSTANCE"
    return StateChanged(kind, name, state, 0 if kind == "GROUP" else 100, **fields)


@dataclass
class Listener:
    """Reads a FIFO to its end."""

    lines: list[str] = field(default_factory=list)
    ended: bool = False

    def read(self, descriptor: int) -> None:
        with open(descriptor) as pipe:
            for line in pipe:
                self.lines.append(line.rstrip("\n"))
        self.ended = True


@contextmanager
def listening(path: Path) -> Iterator[Listener]:
    until(path.exists)
    listener = Listener()
    # Opened before the first message: the helper process may remove the FIFO before the thread starts.
    thread = threading.Thread(target=listener.read, args=(os.open(path, os.O_RDONLY),))
    thread.start()
    yield listener
    thread.join(PATIENCE_S)
    assert listener.ended


def test_scripts_run_in_order_and_finish_waits_for_them(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with run_helper(tmp_path) as helper:
        helper.send(configure(everything(calls, "n")))
        helper.send(
            state_changed("BACKUP"),
            state_changed("MASTER"),
            state_changed("FAULT"),
            state_changed("MASTER"),
            LowerPriorityReceived("VI", 100),
        )
        helper.send(state_changed("STOP"), Finish())
        assert helper.ended() == 0
    lines = calls.read_text().splitlines()
    lines.remove("n-lower_priority_received")  # the scripts of states do not wait for it
    assert lines == [
        "n-backup",
        "n-every INSTANCE VI BACKUP 100",
        "n-master",
        "n-every INSTANCE VI MASTER 100",
        "n-fault",
        "n-every INSTANCE VI FAULT 100",
        "n-master",
        "n-every INSTANCE VI MASTER 100",
        "n-stop",
        "n-every INSTANCE VI STOP 100",
    ]


def test_a_take_over_does_not_wait_for_a_script_that_hangs(tmp_path: Path) -> None:
    """That of the state before. The report names it until it is ended, at the limit of the configuration."""
    calls = tmp_path / "calls"
    notify = Notify(backup=shell("exec sleep 600"), master=note(calls, "master"))
    configured = configure(notify)
    limited = replace(configured, settings=replace(configured.settings, notify_timeout_s=PATIENCE_S))
    with run_helper(tmp_path, constants={"system.processes.notify_scripts.ORDERED_S": 0.1}) as helper:
        helper.send(limited, state_changed("BACKUP"), state_changed("MASTER"))
        until(lambda: calls.exists() and calls.read_text() == "master\n", "notify_master has run")

        def reported() -> list[tuple[str, str]]:
            helper.receive()
            reports = [each.scripts for each in helper.reports if isinstance(each, ScriptsReported)]
            return [(each["keyword"], each["state"]) for each in reports[-1]["scripts"]] if reports else []

        until(lambda: reported() == [("notify_backup", "running")], "the report names notify_backup")
        helper.send(replace(limited, settings=replace(limited.settings, notify_timeout_s=0.1)))
        helper.send(state_changed("BACKUP"))
        until(lambda: ("notify_backup", "ended") in reported(), "the second one is ended")


def test_a_script_that_hangs_delays_no_other_instance(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    hangs = Notify(master=shell("exec sleep 600"), every=note(calls, "every"))
    configuration = configure(hangs)
    with run_helper(tmp_path) as helper:
        helper.send(configuration, state_changed("MASTER"), state_changed("BACKUP"), state_changed("BACKUP", "G"))
        helper.until(calls.exists)
        helper.until(lambda: calls.read_text() == "every GROUP G BACKUP 0\n")


def test_a_removed_instance_is_notified_by_its_former_configuration(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with run_helper(tmp_path) as helper:
        helper.send(configure(everything(calls, "old", say_deleted=True), name="GONE"))
        helper.send(
            configure(everything(calls, "new")), state_changed("DELETED", "GONE"), state_changed("FAULT", "G"), Finish()
        )
        assert helper.ended() == 0
    lines = calls.read_text().splitlines()
    assert [line for line in lines if "old" in line] == ["old-deleted", "old-every INSTANCE GONE DELETED 100"]
    assert [line for line in lines if "new" in line] == ["new-fault", "new-every GROUP G FAULT 0"]


def test_without_notify_deleted_a_removed_instance_is_reported_as_fault(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with run_helper(tmp_path) as helper, _pipe(tmp_path) as (fifo, path):
        helper.send(configure(everything(calls, "n", deleted=None), fifo))
        with listening(path) as listener:
            helper.send(state_changed("DELETED"), Finish())
            assert helper.ended() == 0
    assert calls.read_text().splitlines() == ["n-every INSTANCE VI FAULT 100"]
    assert listener.lines == ['INSTANCE "VI" FAULT 100']


@contextmanager
def _pipe(folder: Path, **fields: Any) -> Iterator[tuple[Fifo, Path]]:
    yield Fifo(str(folder / "fifo"), **fields), folder / "fifo"


def test_the_lines_of_a_fifo_are_keepalived_s(tmp_path: Path) -> None:
    with run_helper(tmp_path) as helper, _pipe(tmp_path) as (fifo, path):
        helper.send(configure(Notify(priority_changes=True), fifo, states_on_reload=True))
        with listening(path) as listener:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            helper.send(
                state_changed("BACKUP"),
                state_changed("MASTER"),
                state_changed("MASTER", "G"),
                PriorityChanged("VI", "MASTER", 70),
            )
            helper.send(
                LowerPriorityReceived("VI", 90),
                state_changed("MASTER", at_reload=True),
                state_changed("STOP"),
                Finish(),
            )
            assert helper.ended() == 0
        assert not path.exists()
    assert listener.lines == [
        'INSTANCE "VI" BACKUP 100',
        'INSTANCE "VI" MASTER 100',
        'GROUP "G" MASTER 0',
        'INSTANCE "VI" MASTER_PRIORITY 70',
        'INSTANCE "VI" MASTER_RX_LOWER_PRI 90',
        'INSTANCE "VI" MASTER 100',
        'INSTANCE "VI" STOP 100',
    ]


def test_notifications_of_lower_priorities_are_limited(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    count = 5000
    with run_helper(tmp_path) as helper, _pipe(tmp_path) as (fifo, path):
        helper.send(configure(Notify(lower_priority_received=note(calls, "lower")), fifo))
        with listening(path) as listener:
            helper.send(*(LowerPriorityReceived("VI", 100) for _ in range(count)), state_changed("STOP"), Finish())
            assert helper.ended() == 0
    count_run = len(calls.read_text().splitlines())
    assert 1 <= count_run < count / 10
    assert listener.lines == ['INSTANCE "VI" MASTER_RX_LOWER_PRI 100'] * count_run + ['INSTANCE "VI" STOP 100']


def test_notifications_are_optional(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with run_helper(tmp_path) as helper, _pipe(tmp_path) as (fifo, path):
        helper.send(configure(Notify(), fifo))
        with listening(path) as listener:
            helper.send(
                PriorityChanged("VI", "MASTER", 70),
                state_changed("MASTER", at_reload=True),
                state_changed("BACKUP"),
                Finish(),
            )
            assert helper.ended() == 0
    assert listener.lines == ['INSTANCE "VI" BACKUP 100']
    assert not calls.exists()


def test_a_fifo_without_reader_delays_nothing_and_keeps_the_order(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    count = 5000  # far more than its buffer holds
    with run_helper(tmp_path) as helper, _pipe(tmp_path) as (fifo, path):
        helper.send(configure(Notify(priority_changes=True, stop=note(calls, "stop")), fifo))
        helper.send(*(PriorityChanged("VI", "MASTER", number) for number in range(count)), state_changed("STOP"))
        helper.until(calls.exists)
        with listening(path) as listener:
            helper.send(Finish())
            assert helper.ended() == 0
    assert listener.lines == [f'INSTANCE "VI" MASTER_PRIORITY {number}' for number in range(count)] + [
        'INSTANCE "VI" STOP 100'
    ]


def test_finish_waits_a_limited_time_for_a_reader(tmp_path: Path) -> None:
    reader = shell("exec sleep 600")
    hasty = {"notify.fifos.FINISH_S": 0.2, "notify.fifos.READER_FINISH_S": 0.2}
    with run_helper(tmp_path, constants=hasty) as helper, _pipe(tmp_path, reader=reader) as (fifo, _):
        helper.send(configure(Notify(priority_changes=True), fifo))
        helper.send(*(PriorityChanged("VI", "MASTER", number) for number in range(5000)), Finish())
        assert helper.ended() == 0
    assert "lines of a notify FIFO are lost: no process read them" in helper.log.read_text()


def test_the_reader_of_a_fifo_gets_its_path_and_every_line(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    command = f'echo "$0 $1" >>{seen}; while read -r line; do echo "$line" >>{seen}; sleep 0.05; done <"$1"'
    reader = Script(("/bin/sh", "-c", command, "word"))
    with run_helper(tmp_path) as helper, _pipe(tmp_path, reader=reader) as (fifo, path):
        helper.send(configure(Notify(), fifo))
        helper.until(seen.exists)
        helper.send(state_changed("BACKUP"), state_changed("MASTER"), state_changed("STOP"), Finish())
        assert helper.ended() == 0
    states = [f'INSTANCE "VI" {state} 100' for state in ("BACKUP", "MASTER", "STOP")]
    assert seen.read_text().splitlines() == [f"word {path}", *states]


def test_a_reader_that_opens_its_fifo_after_the_end_of_the_lines_gets_them(tmp_path: Path) -> None:
    started, may_open, seen = (tmp_path / name for name in ("started", "may open", "seen"))
    command = f'touch "{started}"; until test -e "{may_open}"; do sleep 0.01; done; exec cat <"$0" >"{seen}"'
    with run_helper(tmp_path) as helper, _pipe(tmp_path, reader=shell(command)) as (fifo, _):
        helper.send(configure(Notify(stop=shell(f'touch "{may_open}"')), fifo))
        helper.until(started.exists)
        helper.send(state_changed("BACKUP"), state_changed("STOP"), Finish())
        assert helper.ended() == 0
    assert seen.read_text().splitlines() == [f'INSTANCE "VI" {state} 100' for state in ("BACKUP", "STOP")]


def test_a_reader_that_ends_is_restarted(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    reader = Script(("/bin/sh", "-c", f'read -r line <"$0"; echo "$line" >>{seen}'))
    with run_helper(tmp_path) as helper, _pipe(tmp_path, reader=reader) as (fifo, _):
        helper.send(configure(Notify(), fifo), state_changed("BACKUP"))
        helper.until(seen.exists)
        helper.send(state_changed("MASTER"))
        helper.until(lambda: len(seen.read_text().splitlines()) == 2)
    assert "the reader of a notify FIFO has ended" in helper.log.read_text()


def test_a_new_reader_replaces_the_former_which_reads_to_the_end(tmp_path: Path) -> None:
    def reader(label: str) -> Script:
        # The file shows that the FIFO is open: a reader that opened it later would get the lines of its successor.
        command = f'touch {tmp_path}/{label}; while read -r line; do sleep 0.05; echo "{label} $line"; done'
        return Script(("/bin/sh", "-c", f'exec <"$0" >>{tmp_path}/seen; {command}'))

    path = str(tmp_path / "fifo")
    with run_helper(tmp_path) as helper:
        helper.send(configure(Notify(), Fifo(path, reader=reader("old"))))
        helper.until((tmp_path / "old").exists)
        helper.send(
            state_changed("BACKUP"), state_changed("MASTER"), configure(Notify(), Fifo(path, reader=reader("new")))
        )
        helper.send(state_changed("FAULT"))
        helper.until((tmp_path / "new").exists)
        helper.send(Finish())
        assert helper.ended() == 0
        assert not (tmp_path / "fifo").exists()
    assert sorted((tmp_path / "seen").read_text().splitlines()) == [
        'new INSTANCE "VI" FAULT 100',
        'old INSTANCE "VI" BACKUP 100',
        'old INSTANCE "VI" MASTER 100',
    ]


def test_a_path_that_is_no_fifo_is_an_error_and_stays(tmp_path: Path) -> None:
    file, calls = tmp_path / "fifo", tmp_path / "calls"
    file.write_text("precious")
    with run_helper(tmp_path) as helper:
        helper.send(configure(Notify(master=note(calls, "master")), Fifo(str(file))), state_changed("MASTER"), Finish())
        assert helper.ended() == 0
    assert file.read_text() == "precious"
    assert calls.exists()
    assert f"error: notify FIFO {file}: not a named pipe; remove it, or name another" in helper.log.read_text()


def test_an_existing_fifo_stays(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o640)
    with run_helper(tmp_path) as helper:
        helper.send(configure(Notify(), Fifo(str(path))), state_changed("MASTER"), Finish())
        assert helper.ended() == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="chown needs root")
def test_a_fifo_has_the_configured_owner(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    with run_helper(tmp_path) as helper:
        helper.send(configure(Notify(), Fifo(str(path), "daemon", "adm")))
        helper.until(lambda: path.exists() and (path.owner(), path.group()) == ("daemon", "adm"))


@pytest.mark.parametrize(
    ("message", "subject", "body"),
    [  # by keepalived 2.2.7
        (
            state_changed("MASTER"),
            "[R] VRRP Instance VI - Entering MASTER state",
            "VRRP Instance is now owning VRRP VIPs",
        ),
        (
            state_changed("BACKUP"),
            "[R] VRRP Instance VI - Entering BACKUP state",
            "VRRP Instance is no longer owning VRRP VIPs",
        ),
        (
            state_changed("FAULT"),
            "[R] VRRP Instance VI - Entering FAULT state",
            "VRRP Instance is no longer owning VRRP VIPs",
        ),
        (state_changed("DELETED"), "[R] VRRP Instance VI - Deleted", "VRRP Deleted at reload"),
        (
            state_changed("FAULT", "G"),
            "[R] VRRP Group G - Entering FAULT state",
            "All VRRP group instances are now in FAULT state",
        ),
    ],
)
def test_mail(message: StateChanged, subject: str, body: str) -> None:
    alert = alert_of(message, message.state, "R")
    assert alert is not None
    assert (alert.subject, alert.body) == (subject, body)


def test_there_is_no_mail_about_stop() -> None:
    assert alert_of(state_changed("STOP"), "STOP", "R") is None


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_helper_writes_the_router_process_s_log(tmp_path: Path, log_format: str) -> None:
    with run_helper(tmp_path, log_format) as helper:
        helper.send(
            LogLine("warning", "unusual\nthing", {"event": 7, "router": "VI"}), LogLine("loud", "what"), Finish()
        )
        assert helper.ended() == 0
    first, second = helper.log.read_text().splitlines()
    expected = {
        "text": ("warning: unusual thing (event_=7, router=VI)", "info: what"),
        "json": ('"event_": 7, "router": "VI", "event": "unusual\\nthing", "level": "warning"', '"level": "info"'),
    }[log_format]
    assert expected[0] in first
    assert expected[1] in second


def test_a_closed_stderr_is_no_error(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with run_helper(tmp_path, stderr_closed=True) as helper:
        helper.send(
            configure(Notify(master=note(calls, "master"))), LogLine("error", "lost"), state_changed("MASTER"), Finish()
        )
        assert helper.ended() == 0
    assert calls.exists()


@pytest.mark.parametrize("name", ["VI", "G"])
def test_a_state_is_mailed_unless_the_last_mail_had_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no_email_faults a fault between two times of one state is not mailed, and neither is the second time."""
    notifier, mailed = Notifier(), list[str]()
    monkeypatch.setattr(notifier._outbox, "put", lambda alert: mailed.append(alert.subject.rsplit(" - ")[-1]))
    for no_faults in (True, False):
        made = configure(Notify(smtp_alert=True), no_fault_mails=no_faults)
        notifier.configure(made.settings, made.routers)
        for state in ("BACKUP", "FAULT", "BACKUP", "BACKUP", "MASTER", "FAULT", "MASTER"):
            notifier.state_changed(state_changed(state, name))
        notifier.state_changed(state_changed("MASTER", "OTHER"))
    without_faults = ["BACKUP", "MASTER"]
    everything = ["BACKUP", "FAULT", "BACKUP", "MASTER", "FAULT", "MASTER"]
    assert mailed == [f"Entering {state} state" for state in (*without_faults, *everything)]


def test_an_instance_that_starts_after_its_end_is_mailed(monkeypatch: pytest.MonkeyPatch) -> None:
    notifier, mailed = Notifier(), list[str]()
    monkeypatch.setattr(notifier._outbox, "put", lambda alert: mailed.append(alert.subject.rsplit(" - ")[-1]))
    made = configure(Notify(smtp_alert=True))
    notifier.configure(made.settings, made.routers)
    for state in ("BACKUP", "STOP", "BACKUP"):
        notifier.state_changed(state_changed(state))
    assert mailed == ["Entering BACKUP state"] * 2

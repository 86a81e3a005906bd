"""What scripts, named pipes and mailboxes are told of transitions: which words, in which order, and never too late."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pylvs.model.scripts import Script
from pylvs.model.vrrp import Fifo, Notify, VrrpConfiguration, VrrpGroup, VrrpSettings
from pylvs.model.wanted import GlobalSettings
from pylvs.vrrp.helper.link import Configure, Finish, LogLine, LowerPriorityReceived, PriorityChanged, StateChanged
from pylvs.vrrp.helper.notifications import alert_of
from tests.unit.vrrp.helper.running_helper import instance, run_helper, shell
from tests.waiting import PATIENCE_S, until


def note(file: Path, word: str) -> Script:
    """A program that writes its word and its arguments down."""
    return Script(("/bin/sh", "-c", f'echo "$@" >>{file}', "sh", word))


def everything(file: Path, word: str, **fields: Any) -> Notify:
    kinds = ("master", "backup", "fault", "stop", "every", "deleted", "lower_priority_heard")
    return Notify(**{kind: note(file, f"{word}-{kind}") for kind in kinds} | fields)


def configure(notify: Notify, *fifos: Fifo, name: str = "VI", **fields: Any) -> Configure:
    group = VrrpGroup(name="G", members=(name,), notify=notify)
    settings = VrrpSettings(fifos=fifos, **fields)
    routers = VrrpConfiguration(instances=(instance(name, notify=notify),), groups=(group,), settings=settings)
    return Configure(GlobalSettings(), routers)


def moved(state: str, name: str = "VI", **fields: Any) -> StateChanged:
    kind = "GROUP" if name == "G" else "INSTANCE"
    return StateChanged(kind, name, state, 0 if kind == "GROUP" else 100, **fields)


@dataclass
class Listener:
    """Somebody who reads a named pipe, to its end."""

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
    made = Listener()
    # Opened before anything is told: the pipe goes with who writes, perhaps sooner than a thread begins.
    thread = threading.Thread(target=made.read, args=(os.open(path, os.O_RDONLY),))
    thread.start()
    yield made
    thread.join(PATIENCE_S)
    assert made.ended


def test_scripts_are_told_in_order_and_the_last_words_are_not_lost(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with run_helper(tmp_path) as one:
        one.tell(configure(everything(calls, "n")))
        one.tell(moved("BACKUP"), moved("MASTER"), moved("FAULT"), moved("MASTER"), LowerPriorityReceived("VI", 100))
        one.tell(moved("STOP"), Finish())
        assert one.ended() == 0
    assert calls.read_text().splitlines() == [
        "n-backup",
        "n-every INSTANCE VI BACKUP 100",
        "n-master",
        "n-every INSTANCE VI MASTER 100",
        "n-fault",
        "n-every INSTANCE VI FAULT 100",
        "n-master",
        "n-every INSTANCE VI MASTER 100",
        "n-lower_priority_heard",
        "n-stop",
        "n-every INSTANCE VI STOP 100",
    ]


def test_one_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    hangs = Notify(master=shell("exec sleep 600"), every=note(calls, "every"))
    told = configure(hangs)
    with run_helper(tmp_path) as one:
        one.tell(told, moved("MASTER"), moved("BACKUP"), moved("BACKUP", "G"))
        one.until(calls.exists)
        one.until(lambda: calls.read_text() == "every GROUP G BACKUP 0\n")


def test_what_a_reload_removed_is_told_with_its_own_words(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with run_helper(tmp_path) as one:
        one.tell(configure(everything(calls, "old", say_deleted=True), name="GONE"))
        one.tell(configure(everything(calls, "new")), moved("DELETED", "GONE"), moved("FAULT", "G"), Finish())
        assert one.ended() == 0
    told = calls.read_text().splitlines()
    assert [line for line in told if "old" in line] == ["old-deleted", "old-every INSTANCE GONE DELETED 100"]
    assert [line for line in told if "new" in line] == ["new-fault", "new-every GROUP G FAULT 0"]


def test_without_notify_deleted_the_removed_one_is_at_fault(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with run_helper(tmp_path) as one, _pipe(tmp_path) as (fifo, path):
        one.tell(configure(everything(calls, "n", deleted=None), fifo))
        with listening(path) as heard:
            one.tell(moved("DELETED"), Finish())
            assert one.ended() == 0
    assert calls.read_text().splitlines() == ["n-every INSTANCE VI FAULT 100"]
    assert heard.lines == ['INSTANCE "VI" FAULT 100']


@contextmanager
def _pipe(folder: Path, **fields: Any) -> Iterator[tuple[Fifo, Path]]:
    yield Fifo(str(folder / "fifo"), **fields), folder / "fifo"


def test_the_lines_of_a_pipe_are_keepaliveds(tmp_path: Path) -> None:
    with run_helper(tmp_path) as one, _pipe(tmp_path) as (fifo, path):
        one.tell(configure(Notify(priority_changes=True), fifo, states_on_reload=True))
        with listening(path) as heard:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            one.tell(moved("BACKUP"), moved("MASTER"), moved("MASTER", "G"), PriorityChanged("VI", "MASTER", 70))
            one.tell(LowerPriorityReceived("VI", 90), moved("MASTER", at_reload=True), moved("STOP"), Finish())
            assert one.ended() == 0
        assert not path.exists()
    assert heard.lines == [
        'INSTANCE "VI" BACKUP 100',
        'INSTANCE "VI" MASTER 100',
        'GROUP "G" MASTER 0',
        'INSTANCE "VI" MASTER_PRIORITY 70',
        'INSTANCE "VI" MASTER_RX_LOWER_PRI 90',
        'INSTANCE "VI" MASTER 100',
        'INSTANCE "VI" STOP 100',
    ]


def test_a_flood_of_lower_priorities_is_no_flood_of_scripts(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    count = 5000
    with run_helper(tmp_path) as one, _pipe(tmp_path) as (fifo, path):
        one.tell(configure(Notify(lower_priority_heard=note(calls, "lower")), fifo))
        with listening(path) as heard:
            one.tell(*(LowerPriorityReceived("VI", 100) for _ in range(count)), moved("STOP"), Finish())
            assert one.ended() == 0
    told = len(calls.read_text().splitlines())
    assert 1 <= told < count / 10
    assert heard.lines == ['INSTANCE "VI" MASTER_RX_LOWER_PRI 100'] * told + ['INSTANCE "VI" STOP 100']


def test_what_is_not_wanted_is_not_told(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with run_helper(tmp_path) as one, _pipe(tmp_path) as (fifo, path):
        one.tell(configure(Notify(), fifo))
        with listening(path) as heard:
            one.tell(PriorityChanged("VI", "MASTER", 70), moved("MASTER", at_reload=True), moved("BACKUP"), Finish())
            assert one.ended() == 0
    assert heard.lines == ['INSTANCE "VI" BACKUP 100']
    assert not calls.exists()


def test_a_pipe_that_nobody_reads_holds_nobody_up_and_keeps_the_order(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    count = 5000  # far more than fit into it
    with run_helper(tmp_path) as one, _pipe(tmp_path) as (fifo, path):
        one.tell(configure(Notify(priority_changes=True, stop=note(calls, "stop")), fifo))
        one.tell(*(PriorityChanged("VI", "MASTER", number) for number in range(count)), moved("STOP"))
        one.until(calls.exists)
        with listening(path) as heard:
            one.tell(Finish())
            assert one.ended() == 0
    assert heard.lines == [f'INSTANCE "VI" MASTER_PRIORITY {number}' for number in range(count)] + [
        'INSTANCE "VI" STOP 100'
    ]


def test_at_the_end_nobody_waits_long_for_a_reader_that_does_not_read(tmp_path: Path) -> None:
    reader = shell("exec sleep 600")
    hasty = {"host.fifos.FINISH_S": 0.2, "host.fifo_readers.FINISH_S": 0.2}
    with run_helper(tmp_path, constants=hasty) as one, _pipe(tmp_path, reader=reader) as (fifo, _):
        one.tell(configure(Notify(priority_changes=True), fifo))
        one.tell(*(PriorityChanged("VI", "MASTER", number) for number in range(5000)), Finish())
        assert one.ended() == 0
    assert "lines of a notify FIFO are lost: nobody read them" in one.log.read_text()


def test_the_program_that_reads_a_pipe_gets_its_name_and_the_last_line(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    words = f'echo "$0 $1" >>{seen}; while read -r line; do echo "$line" >>{seen}; sleep 0.05; done <"$1"'
    reader = Script(("/bin/sh", "-c", words, "word"))
    with run_helper(tmp_path) as one, _pipe(tmp_path, reader=reader) as (fifo, path):
        one.tell(configure(Notify(), fifo))
        one.until(seen.exists)
        one.tell(moved("BACKUP"), moved("MASTER"), moved("STOP"), Finish())
        assert one.ended() == 0
    states = [f'INSTANCE "VI" {state} 100' for state in ("BACKUP", "MASTER", "STOP")]
    assert seen.read_text().splitlines() == [f"word {path}", *states]


def test_a_reader_that_ends_is_started_again(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    reader = Script(("/bin/sh", "-c", f'read -r line <"$0"; echo "$line" >>{seen}'))
    with run_helper(tmp_path) as one, _pipe(tmp_path, reader=reader) as (fifo, _):
        one.tell(configure(Notify(), fifo), moved("BACKUP"))
        one.until(seen.exists)
        one.tell(moved("MASTER"))
        one.until(lambda: len(seen.read_text().splitlines()) == 2)
    assert "the reader of a notify FIFO has ended" in one.log.read_text()


def test_another_reader_takes_the_place_of_the_one_before_which_reads_to_its_end(tmp_path: Path) -> None:
    def reader(word: str) -> Script:
        words = (
            f'touch {tmp_path}/{word}; while read -r line; do sleep 0.05; echo "{word} $line" >>{tmp_path}/seen; done'
        )
        return Script(("/bin/sh", "-c", f'{words} <"$0"'))

    path = str(tmp_path / "fifo")
    with run_helper(tmp_path) as one:
        one.tell(configure(Notify(), Fifo(path, reader=reader("old"))))
        one.until((tmp_path / "old").exists)
        one.tell(moved("BACKUP"), moved("MASTER"), configure(Notify(), Fifo(path, reader=reader("new"))))
        one.tell(moved("FAULT"))
        one.until((tmp_path / "new").exists)
        one.tell(Finish())
        assert one.ended() == 0
        assert not (tmp_path / "fifo").exists()
    assert sorted((tmp_path / "seen").read_text().splitlines()) == [
        'new INSTANCE "VI" FAULT 100',
        'old INSTANCE "VI" BACKUP 100',
        'old INSTANCE "VI" MASTER 100',
    ]


def test_a_path_that_is_no_pipe_is_left_alone_and_named(tmp_path: Path) -> None:
    file, calls = tmp_path / "fifo", tmp_path / "calls"
    file.write_text("precious")
    with run_helper(tmp_path) as one:
        one.tell(configure(Notify(master=note(calls, "master")), Fifo(str(file))), moved("MASTER"), Finish())
        assert one.ended() == 0
    assert file.read_text() == "precious"
    assert calls.exists()
    assert f"error: notify FIFO {file}: not a named pipe; remove it, or name another" in one.log.read_text()


def test_a_pipe_that_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path, 0o640)
    with run_helper(tmp_path) as one:
        one.tell(configure(Notify(), Fifo(str(path))), moved("MASTER"), Finish())
        assert one.ended() == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a pipe away")
def test_a_pipe_belongs_to_whom_the_configuration_names(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    with run_helper(tmp_path) as one:
        one.tell(configure(Notify(), Fifo(str(path), "daemon", "adm")))
        one.until(lambda: path.exists() and (path.owner(), path.group()) == ("daemon", "adm"))


@pytest.mark.parametrize(
    ("heard", "subject", "body"),
    [  # as keepalived 2.2.7 writes them
        (moved("MASTER"), "[R] VRRP Instance VI - Entering MASTER state", "VRRP Instance is now owning VRRP VIPs"),
        (
            moved("BACKUP"),
            "[R] VRRP Instance VI - Entering BACKUP state",
            "VRRP Instance is no longer owning VRRP VIPs",
        ),
        (moved("FAULT"), "[R] VRRP Instance VI - Entering FAULT state", "VRRP Instance is no longer owning VRRP VIPs"),
        (moved("DELETED"), "[R] VRRP Instance VI - Deleted", "VRRP Deleted at reload"),
        (
            moved("FAULT", "G"),
            "[R] VRRP Group G - Entering FAULT state",
            "All VRRP group instances are now in FAULT state",
        ),
    ],
)
def test_mail(heard: StateChanged, subject: str, body: str) -> None:
    alert = alert_of(heard, heard.state, "R")
    assert alert is not None
    assert (alert.subject, alert.body) == (subject, body)


def test_of_the_end_keepalived_mails_nothing() -> None:
    assert alert_of(moved("STOP"), "STOP", "R") is None


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_log_is_the_routers_too(tmp_path: Path, log_format: str) -> None:
    with run_helper(tmp_path, log_format) as one:
        one.tell(LogLine("warning", "odd\nthing", {"event": 7, "router": "VI"}), LogLine("loud", "what"), Finish())
        assert one.ended() == 0
    first, second = one.log.read_text().splitlines()
    expected = {
        "text": ("warning: odd thing (event_=7, router=VI)", "info: what"),
        "json": ('"event_": 7, "router": "VI", "event": "odd\\nthing", "level": "warning"', '"level": "info"'),
    }[log_format]
    assert expected[0] in first
    assert expected[1] in second


def test_a_log_that_nobody_reads_is_no_end(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    with run_helper(tmp_path, stderr_closed=True) as one:
        one.tell(configure(Notify(master=note(calls, "master"))), LogLine("error", "lost"), moved("MASTER"), Finish())
        assert one.ended() == 0
    assert calls.exists()

"""The owner of a pipe that pylvs creates; the user database may not answer."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.model.checks import Script
from pylvs.model.errors import PylvsError
from pylvs.model.vrrp import Fifo
from pylvs.model.wanted import GlobalSettings
from pylvs.notify import fifos
from pylvs.notify.fifos import FifoSet
from pylvs.system.processes.accounts import Account
from tests.waiting import PATIENCE_S, until_async

HANG_S = PATIENCE_S / 2  # a lookup in the event loop ends then, and the test fails
OWNER = Account("monitor", 12345, 23456)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")


class Users:
    """A user database that is silent until `answer`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._answers = threading.Event()

    @property
    def silent(self) -> bool:
        """Whether it is silent still: no lookup has waited to the end of HANG_S."""
        return not self._answers.is_set()

    def script_account(self, user: str, _group: str) -> Account:
        self.asked.append(user)
        if not self._answers.wait(HANG_S):
            self.answer()
        return OWNER

    def answer(self) -> None:
        self._answers.set()


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> Iterator[Users]:
    found = Users()
    monkeypatch.setattr(fifos, "script_account", found.script_account)
    yield found
    found.answer()


def owner(path: Path) -> tuple[int, int, int]:
    about = path.stat()
    return about.st_uid, about.st_gid, stat.S_IMODE(about.st_mode)


@needs_root
def test_while_the_user_database_is_silent_a_new_pipe_is_roots_alone(users: Users, tmp_path: Path) -> None:
    path, ran = tmp_path / "fifo", tmp_path / "ran"
    reader = Script(("/bin/sh", "-c", f'stat -c %u "$0" > {ran}; cat "$0"'), str(os.geteuid()))

    async def main() -> None:
        pipes = FifoSet()
        pipes.configure([Fifo(str(path), "monitor", reader=reader)], GlobalSettings())
        pipes.write("a line")
        await until_async(lambda: users.asked == ["monitor"])
        assert users.silent
        assert owner(path) == (os.geteuid(), os.getegid(), 0o600)
        assert not ran.exists(), "its user could not open the pipe"
        users.answer()
        await until_async(lambda: ran.exists() and ran.read_text())
        assert owner(path) == (OWNER.uid, OWNER.gid, 0o600)
        await pipes.finish()

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert ran.read_text().strip() == str(OWNER.uid)


def test_a_pipe_that_exists_needs_no_lookup(users: Users, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)

    async def main() -> None:
        pipes = FifoSet()
        pipes.configure([Fifo(str(path), "monitor")], GlobalSettings())
        end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        pipes.write("a line")
        assert os.read(end, 100) == b"a line\n"
        os.close(end)
        await pipes.finish()

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert users.asked == []


def test_a_lookup_that_hangs_is_logged_and_does_not_delay_the_end(
    users: Users, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fifos, "OWNER_S", 0.05)
    errors: list[str] = []
    monkeypatch.setattr(fifos, "get_logger", lambda: _Log(errors))
    path, ran = tmp_path / "fifo", tmp_path / "ran"
    reader = Script(("/bin/sh", "-c", f"touch {ran}"), str(os.geteuid()))

    async def main() -> None:
        pipes = FifoSet()
        pipes.configure([Fifo(str(path), "monitor", reader=reader)], GlobalSettings())
        await until_async(ran.exists)
        await pipes.finish()
        assert users.silent

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert errors == [f"notify FIFO {path}: its owner is not set: the user database does not answer"]
    assert not path.exists()


def test_an_owner_that_is_unknown_is_logged_and_the_pipe_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(user: str, _group: str) -> Account:
        raise PylvsError(f"user {user}: this machine has none of that name")

    errors: list[str] = []
    monkeypatch.setattr(fifos, "script_account", unknown)
    monkeypatch.setattr(fifos, "get_logger", lambda: _Log(errors))
    path = tmp_path / "fifo"

    async def main() -> None:
        pipes = FifoSet()
        pipes.configure([Fifo(str(path), "monitor")], GlobalSettings())
        await until_async(lambda: errors)
        assert owner(path) == (os.geteuid(), os.getegid(), 0o600)
        await pipes.finish()

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
    assert errors == [f"notify FIFO {path}: its owner is not set: user monitor: this machine has none of that name"]


class _Log:
    """Collects errors."""

    def __init__(self, errors: list[str]) -> None:
        self.error = errors.append

    def warning(self, *_: object, **__: object) -> None:
        pass

    info = warning

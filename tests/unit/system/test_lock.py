"""A PID file has one holder, also in the races between two system calls."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from pylvs.model.errors import Busy
from pylvs.system.lock import Held, claim
from pylvs.vrrp.router_service import single_instance


def give_back(path: Path, descriptor: int) -> None:
    path.unlink()
    os.close(descriptor)


def test_a_second_process_gets_the_pid_of_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    first = claim(path)
    assert path.read_text() == f"{os.getpid()}\n"
    with pytest.raises(Held, match=f"^{os.getpid()}$"):
        claim(path)
    give_back(path, first)
    give_back(path, claim(path))


@pytest.mark.parametrize("claims_again", [True, False])
def test_the_lock_of_an_unlinked_file_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claims_again: bool
) -> None:
    path = tmp_path / "pid"
    held = [claim(path)]
    lock = fcntl.flock

    def late(descriptor: int, kind: int) -> None:
        """Between open(2) and flock(2), the holder unlinks the file, and another process may create it."""
        monkeypatch.setattr(fcntl, "flock", lock)
        give_back(path, held.pop())
        if claims_again:
            held.append(claim(path))
        lock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", late)
    if claims_again:
        with pytest.raises(Busy), single_instance(str(path)):
            pytest.fail("two processes hold the file")
        give_back(path, held.pop())
    else:
        with single_instance(str(path)):
            assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()

"""A machine without a free process, descriptor or memory: no script is to blame for it."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.model.checks import Script
from pylvs.model.plain import from_plain
from pylvs.system.processes import channel, runner
from pylvs.system.processes.scripts import Ended, Processes
from tests.shortages import failing
from tests.unit.system.running import LONG_S, as_root, run
from tests.waiting import until

TRUE = runner.Run(
    arguments=("/bin/true",),
    environment={},
    user="root",
    uid=os.geteuid(),
    gid=os.getegid(),
    groups=tuple(os.getgroups()),
    secure=False,
    umask=0o77,
    timeout_s=LONG_S,
)


def test_a_failed_fork_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        monkeypatch.setattr(os, "fork", refused)
        runner.Runner(its)._start(7, TRUE)
        answer: runner.Answer = from_plain(runner.Answer, channel.receive(ours)[0])
    assert answer.problem == "cannot be started: Resource temporarily unavailable"
    assert answer.unable is True
    assert answer.status is None


def test_without_a_free_thread_a_script_is_not_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its user cannot be looked up."""

    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async def within(processes: Processes) -> tuple[Ended, Ended]:
        script = Script(("/bin/true",))
        with monkeypatch.context() as limit:
            limit.setattr(threading.Thread, "start", refused)
            first = await processes.run(script, LONG_S)
        return first, await processes.run(script, LONG_S)

    refusal, after = run(within)
    assert (refusal.status, refusal.unable, after.status) == (None, True, 0)
    assert refusal.problem.endswith("Resource temporarily unavailable")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_pipe_that_cannot_be_made_is_reported(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each of the two pipes of a script; none is left open."""
    make = os.pipe2
    for refused_at in (0, 1):
        made: list[int] = []

        def pipe(flags: int, refused_at: int = refused_at, made: list[int] = made) -> tuple[int, int]:
            if len(made) == 2 * refused_at:
                raise OSError(number, "Too many open files")
            made.extend(make(flags))
            return made[-2], made[-1]

        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, its:
            monkeypatch.setattr(os, "pipe2", pipe)
            runner.Runner(its)._start(7, TRUE)
            monkeypatch.undo()
            answer: runner.Answer = from_plain(runner.Answer, channel.receive(ours)[0])
        assert answer.problem == "cannot be started: Too many open files"
        assert answer.unable is True
        for descriptor in made:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(descriptor)


@pytest.mark.parametrize(
    ("number", "unable"), [(errno.EAGAIN, True), (errno.ENOMEM, True), (errno.ENOENT, False), (errno.EACCES, False)]
)
def test_a_shortage_of_this_machine_is_no_fault_of_the_script(
    number: int, unable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """execve(2) and setresuid(2) fail so in the child when pids.max or the memory limit is reached."""
    monkeypatch.setattr(os, "execve", failing(number))  # the child inherits it
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        made = runner.Runner(its)
        made._start(7, TRUE)
        (running,) = made._running.values()
        os.waitpid(running.pid, 0)
        running.status = 127 << 8
        made._finish(running)
        answer: runner.Answer = from_plain(runner.Answer, channel.receive(ours)[0])
    assert answer.problem == f"/bin/true: cannot be run as root: {os.strerror(number)}"
    assert answer.unable is unable


@pytest.fixture
def pids_group() -> Iterator[Path]:
    """Make a cgroup, and remove it when its processes have ended; skip the test where none can be made."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, options, *_ = line.split()
        group = Path(path, f"pylvs-test-{os.getpid()}")
        first = kind == "cgroup" and "pids" in options.split(",")
        second = kind == "cgroup2" and "pids" in Path(path, "cgroup.subtree_control").read_text().split()
        if (first or second) and os.access(path, os.W_OK):
            break
    else:
        pytest.skip("no cgroup hierarchy that can be written limits the number of processes")
    group.mkdir(exist_ok=True)
    try:
        yield group
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "the processes of the group end")
        group.rmdir()


@as_root
def test_without_a_free_process_a_script_is_not_to_blame(pids_group: Path) -> None:
    """The kernel refuses the fork; as soon as there is a process again, the next script runs."""

    async def within(processes: Processes) -> list[Ended]:
        script = Script(("/bin/true",))
        found = [await processes.run(script, LONG_S)]
        (pids_group / "cgroup.procs").write_text(str(processes._runner.pid))
        for limit in "1", "max":
            (pids_group / "pids.max").write_text(limit)
            found.append(await processes.run(script, LONG_S))
        return found

    before, refused, after = run(within)
    assert (before.status, before.unable) == (after.status, after.unable) == (0, False)
    assert (refused.status, refused.unable) == (None, True)
    assert refused.problem == "cannot be started: Resource temporarily unavailable"

"""Scripts: their account, what they inherit, and the end of all their processes."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pylvs.model.checks import Script
from pylvs.model.errors import PylvsError
from pylvs.system.processes import channel, other_version, runner, scripts
from pylvs.system.processes.accounts import Account, script_account
from pylvs.system.processes.child import PING_S
from pylvs.system.processes.scripts import Ended, Processes
from pylvs.system.processes.tree import alive, process, send, stopped_tree
from tests.unit.health.fake_servers import Loop, lapse
from tests.unit.system.running import LONG_S, as_root, run
from tests.waiting import PATIENCE_S, until, until_async, until_reaped

REPORT = """
import json, os, signal, sys
json.dump({
    "arguments": sys.argv[1:], "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(),
    "leader": os.getsid(0) == os.getpid() == os.getpgid(0), "umask": os.umask(0), "cwd": os.getcwd(),
    "stdin": os.readlink("/proc/self/fd/0"), "files": sorted(map(int, os.listdir("/proc/self/fd")))[:-1],
    "status": [line for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn"))],
    "environment": dict(os.environ)}, sys.stdout)
"""


def ended(*arguments: str, user: str = "", timeout_s: float = LONG_S, security: bool = False) -> Ended:
    """Run a script with these arguments and return how it ended."""
    return run(lambda processes: processes.run(Script(arguments, user), timeout_s), security)


def reported(*arguments: str, **environment: str) -> dict[str, object]:
    """Return what a script reports about its own process."""
    script = Script((sys.executable, "-I", "-c", REPORT, *arguments))
    end = run(lambda processes: processes.run(script, LONG_S, environment))
    assert end.status == 0, end
    found: dict[str, object] = json.loads(end.output)
    return found


def written(path: Path, text: str) -> str:
    """Write a program that all users may execute."""
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def gone(pids: list[int]) -> bool:
    """Wait until none of these processes runs."""
    until(lambda: not any((about := process(pid)) and alive(about) for pid in pids), pids)
    return True


def test_a_script_gets_its_arguments_and_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/somebody")
    monkeypatch.setenv("PYLVS_UNIT", "pylvs.service")
    monkeypatch.setenv("KEPT", "yes")
    with open("/dev/null") as file:
        os.set_inheritable(file.fileno(), True)
        found = reported("a b", "$HOME", "", EXTRA="more")
    assert found["arguments"] == ["a b", "$HOME", ""]
    assert found["leader"] is True
    assert found["stdin"] == "/dev/null"
    assert found["files"] == [0, 1, 2]
    assert found["umask"] == 0o077
    assert found["cwd"] == os.getcwd()
    environment = found["environment"]
    assert isinstance(environment, dict)
    assert {"NOTIFY_SOCKET", "PYLVS_UNIT"}.isdisjoint(environment)
    assert (environment["KEPT"], environment["EXTRA"]) == ("yes", "more")


def test_no_signal_is_blocked_or_ignored(tmp_path: Path) -> None:
    """A shell does not touch them, as Python would."""
    script = Script(("/bin/grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"))

    async def within(processes: Processes) -> Ended:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        old = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        try:
            return await processes.run(script, LONG_S)
        finally:
            signal.signal(signal.SIGUSR2, old)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert {int(line.split()[1], 16) for line in run(within).lines()} == {0}


@as_root
def test_a_script_runs_as_its_user_with_that_users_groups_and_no_way_back() -> None:
    end = ended("/bin/grep", "-E", "^(Uid|Gid|Groups|CapEff):", "/proc/self/status", user="daemon")
    found = {line.split(":")[0]: line.split()[1:] for line in end.output.splitlines()}
    groups = [str(group) for group in sorted(os.getgrouplist("daemon", 1))]
    assert found == {"Uid": ["1"] * 4, "Gid": ["1"] * 4, "Groups": groups, "CapEff": ["0" * 16]}


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("exit 0", 0, "exit status 0"),
        ("echo all pass; exit 0", 0, "exit status 0"),
        ("echo no route >&2; echo more; exit 3", 3, "exit status 3: no route"),
        ("exit 255", 255, "exit status 255"),
        ("kill -SEGV $$", None, "ended by SIGSEGV"),
        (r"printf '\033[31mred\n'; exit 1", 1, "exit status 1: [31mred"),
    ],
)
def test_a_result_has_a_short_text(code: str, status: int | None, words: str) -> None:
    end = ended("/bin/sh", "-c", code)
    assert (end.status, str(end)) == (status, words)


def test_a_script_that_cannot_start_has_the_reason(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    assert ended("/no/such/program").problem.endswith("No such file or directory")
    assert ended(str(plain)).problem.endswith("Permission denied")
    assert "no-such-user" in ended("/bin/true", user="no-such-user").problem
    assert ended("/bin/true", "a\0b").status is None


def test_an_account_stays_while_the_user_database_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """For a minute, a server of users and groups does not answer."""
    away = False

    def found(user: str, group: str) -> Account:
        if away:
            raise PylvsError(f"user {user}: this machine has none of that name")
        return script_account(str(os.geteuid()), group)

    monkeypatch.setattr(scripts, "script_account", found)
    monkeypatch.setattr(scripts, "_ACCOUNT_S", -1.0)

    async def within(processes: Processes) -> list[Ended]:
        nonlocal away
        named = Script(("/bin/true",), "monitor")
        first = await processes.run(named, LONG_S)
        away = True
        later = await processes.run(named, LONG_S)
        return [first, later, await processes.run(Script(("/bin/true",), "other"), LONG_S)]

    first, later, other = run(within)
    assert (first.status, later.status) == (0, 0)
    assert "scripts run as the account found before" in caplog.text
    assert (other.unable, other.problem) == (True, "user other: this machine has none of that name")


def test_a_lookup_that_blocks_ends_at_the_timeout_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, me, calls = threading.Event(), script_account(str(os.geteuid())), list[str]()

    def found(user: str, group: str) -> Account:
        calls.append(user)
        answers.wait(LONG_S)
        return me

    monkeypatch.setattr(scripts, "script_account", found)

    async def within(processes: Processes) -> list[Ended]:
        script = Script(("/bin/true",), "monitor")
        ends = [await processes.run(script, 0.01) for _ in range(3)]
        answers.set()
        return [*ends, await processes.run(script, LONG_S)]

    *early, later = run(within)
    assert {(each.unable, each.problem) for each in early} == {
        (True, "user monitor: the user database does not answer")
    }
    assert later.status == 0
    assert calls == ["monitor"], "one lookup of a user at a time"


def test_while_a_lookup_blocks_scripts_run_as_the_account_found_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers, me = threading.Event(), script_account(str(os.geteuid()))
    answers.set()

    def found(user: str, group: str) -> Account:
        answers.wait(LONG_S)
        return me

    monkeypatch.setattr(scripts, "script_account", found)
    monkeypatch.setattr(scripts, "_ACCOUNT_S", -1.0)

    async def within(processes: Processes) -> list[Ended]:
        script = Script(("/bin/true",), "monitor")
        first = await processes.run(script, LONG_S)
        answers.clear()
        later = await processes.run(script, LONG_S)
        answers.set()
        return [first, later]

    assert [each.status for each in run(within)] == [0, 0]
    assert f"user monitor: the user database does not answer; scripts run as the account found before, {me.uid}" in (
        caplog.text
    )


def test_waits_for_other_scripts_are_counted_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scripts, "_LONG_WAIT_S", 0.0)

    async def within(processes: Processes) -> list[tuple[int, int, int]]:
        seen = []
        tasks = [asyncio.create_task(processes.run(Script(("/bin/sleep", "600")), LONG_S)) for _ in range(2)]
        await until_async(lambda: processes.counts.running == 2)
        tasks += [asyncio.create_task(processes.run(Script(("/bin/true",)), LONG_S)) for _ in range(3)]
        await until_async(lambda: processes.counts.waiting == 3)
        seen.append((processes.counts.running, processes.counts.waiting, processes.counts.waited))
        for task in tasks[:2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        seen.append((processes.counts.running, processes.counts.waiting, processes.counts.waited))
        assert processes.counts.waited_s >= processes.counts.longest_wait_s > 0
        return seen

    assert run(within, at_once=2) == [(2, 3, 0), (0, 0, 3)]
    assert caplog.text.count("because the limit of 2 running scripts was reached") == 1  # once a minute


def test_a_runner_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an upgrade of the files, a daemon that runs starts the new code."""

    async def within(processes: Processes) -> Ended:
        monkeypatch.setattr(channel, "__version__", "0.0.1")
        return await processes.run(Script(("/bin/true",)), LONG_S)

    end = run(within)
    assert end.unable
    assert end.problem == f"the process that runs scripts {other_version()}"


def test_a_runner_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    """SIGSTOP. It is noticed long before the timeout of the script."""

    async def within(processes: Processes) -> tuple[Ended, int | None]:
        pids = tmp_path / "pids"
        code = f"echo $PPID >{pids}.new; mv {pids}.new {pids}; exec sleep 600"
        task = asyncio.create_task(processes.run(Script(("/bin/sh", "-c", code)), math.inf))
        await until_async(pids.exists)
        os.kill(int(pids.read_text()), signal.SIGSTOP)
        while not task.done():
            lapse(PING_S)
            await asyncio.sleep(0.01)
        return await task, (await processes.run(Script(("/bin/true",)), LONG_S)).status

    first, status = run(within, loop_factory=Loop)
    assert (first.unable, first.problem) == (True, "the process that runs scripts has been silent for 10 s")
    assert status == 0


def test_the_end_does_not_wait_for_a_runner_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scripts, "END_S", 0.05)

    async def within() -> int:
        processes = Processes()
        parent = int((await processes.run(Script(("/bin/sh", "-c", "echo $PPID")), LONG_S)).output)
        os.kill(parent, signal.SIGSTOP)
        async with asyncio.timeout(PATIENCE_S):
            await processes.close()
        return parent

    until_reaped(asyncio.run(within()))


def test_no_task_is_left_after_a_runner_was_killed() -> None:
    async def within() -> list[asyncio.Task[object]]:
        processes = Processes()
        parent = await processes.run(Script(("/bin/sh", "-c", "echo $PPID")), LONG_S)
        os.kill(int(parent.output), signal.SIGKILL)
        await until_async(lambda: not processes._runner._child.up)
        assert (await processes.run(Script(("/bin/true",)), LONG_S)).status == 0
        await processes.close()
        await asyncio.sleep(0)
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    assert asyncio.run(within()) == []


def test_a_script_without_its_first_line_is_the_shells(public_path: Path) -> None:
    assert ended(written(public_path / "old", "exit 4\n")).status == 4


def test_a_name_without_slash_is_found_on_path() -> None:
    assert ended("sh", "-c", "exit 5").status == 5


@as_root
def test_a_script_that_others_can_change_does_not_run_as_root(public_path: Path) -> None:
    program = written(public_path / "program", "#!/bin/sh\nexit 0\n")
    os.chmod(program, 0o777)
    end = ended(program, user="root", security=True)
    assert end.status is None
    assert f"{program} is writable by all users" in end.problem
    assert ended(program, user="root").status == 0
    assert ended(program, user="daemon", security=True).status == 0


def test_output_is_kept_in_part_and_never_stops_a_script() -> None:
    end = ended("/bin/sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo; exit 1")
    assert end.status == 1
    assert len(end.output) + end.lost_bytes == 3000001
    lines = end.lines()
    assert lines[0] == "x" * 199 + "…"
    assert lines[-1] == f"(and {end.lost_bytes} more bytes)"
    many = Ended(0, output="line\n" * 100)
    assert many.lines() == ["line"] * 20 + ["(and 80 more lines)"]
    assert Ended(0, output="line\n" * 21).lines()[-1] == "(and 1 more line)"


FORKS = """
trap '' TERM
(setsid sh -c 'trap "" TERM; echo $$ >>{pids}; while :; do sleep 60; done' &)
setsid setsid sh -c 'echo $$ >>{pids}; exec sleep 600' &
echo $$ >>{pids}
sleep 600 & echo $! >>{pids}
while :; do sleep 60; done
"""


def test_a_script_that_hangs_is_killed_with_all_its_children_at_its_timeout(public_path: Path) -> None:
    """Also children with sessions of their own, without parents, or that ignore SIGTERM."""
    pids = public_path / "pids"
    program = written(public_path / "forks", "#!/bin/sh\n" + FORKS.format(pids=pids))
    for timeout_s in (3, 20, 60):  # time enough to fork them all, on a busy machine as well
        pids.write_text("")
        end = ended(program, user="root" if os.geteuid() == 0 else "", timeout_s=timeout_s)
        assert (end.timed_out, str(end)) == (True, f"timed out after {timeout_s} s")
        found = [int(line) for line in pids.read_text().split()]
        assert gone(found)
        if len(found) == 4:
            return
    pytest.fail(f"only {len(found)} of 4 processes were forked")


def test_a_script_that_handles_sigterm_may_clean_up(tmp_path: Path) -> None:
    cleaned = tmp_path / "cleaned"
    write = f"echo yes >{cleaned}.new; mv {cleaned}.new {cleaned}"  # SIGKILL may end it before it has written
    code = f"trap '{write}; exit 0' TERM; while :; do sleep 0.05; done"
    for timeout_s in (1, 20, 60):
        assert ended("/bin/sh", "-c", code, timeout_s=timeout_s).timed_out
        if cleaned.exists():
            break
    assert cleaned.read_text() == "yes\n"


def test_background_processes_of_a_script_live_on_and_are_reaped(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def within(processes: Processes) -> bool:
        end = await processes.run(Script(("/bin/sh", "-c", f"sleep 600 & echo $! >{pids}; exit 7")), LONG_S)
        assert end.status == 7
        pid = int(pids.read_text())
        about = process(pid)
        lived = about is not None and alive(about)
        os.kill(pid, signal.SIGKILL)
        await until_async(lambda: not Path(f"/proc/{pid}").exists())
        return lived

    assert run(within)


def test_a_cancelled_script_is_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    async def within(processes: Processes) -> None:
        task = asyncio.create_task(
            processes.run(Script(("/bin/sh", "-c", f"echo $$ >{pids}.new; mv {pids}.new {pids}; sleep 600")), 600)
        )
        await until_async(pids.exists)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(gone, [int(pids.read_text())])
        assert (await processes.run(Script(("/bin/true",)), LONG_S)).status == 0

    run(within)


def test_close_kills_all_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "END_S", PATIENCE_S)
    pids = tmp_path / "pids"

    async def within(processes: Processes) -> Ended:
        code = f"setsid sleep 600 & echo $$ $! >{pids}.new; mv {pids}.new {pids}; wait"
        task = asyncio.create_task(processes.run(Script(("/bin/sh", "-c", code)), 600))
        await until_async(pids.exists)
        await processes.close()
        return await task

    assert run(within).problem == "the process that runs scripts has ended"
    assert gone([int(pid) for pid in pids.read_text().split()])


def test_nothing_outlives_a_killed_daemon(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    code = f"""
import asyncio
from pylvs.system.processes.scripts import Processes
from pylvs.model.checks import Script
from tests.unit.system.running import LONG_S, as_root, run
from tests.waiting import until, until_async
script = Script(("/bin/sh", "-c", "(setsid sleep 600 & echo $! >>{pids}); echo $$ $PPID >>{pids}; sleep 600"))
asyncio.run(Processes().run(script, 600))
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    daemon = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    until(lambda: pids.exists() and len(pids.read_text().split()) == 3)
    daemon.kill()
    daemon.wait()
    found = [int(pid) for pid in pids.read_text().split()]
    assert len(found) == 3, "the script, what it forked, and their runner"
    assert gone(found)


def test_nothing_outlives_a_daemon_that_is_killed_before_it_has_read_a_result(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    text = f"(setsid sleep 600 & echo $! >>{pids}); echo $$ >>{pids}; sleep 600"
    account = {"user": "root", "uid": os.getuid(), "gid": os.getgid(), "groups": []}
    request = {"arguments": ["/bin/sh", "-c", text], "timeout_s": 600, "environment": {}, "umask": 0o22}
    daemon, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with daemon, end:
        command = [sys.executable, "-m", runner.__name__, str(end.fileno()), "/"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        helper = subprocess.Popen(command, env=environment, pass_fds=[end.fileno()])
        daemon.send(channel.encode({"id": 1, "run": {**request, **account, "secure": False}}))
        until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    assert helper.wait() == 0  # the socket was closed with the runner's greeting in it
    assert gone([int(pid) for pid in pids.read_text().split()])


def test_many_failing_scripts_all_end_within_the_limit_of_concurrency(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = Script(("/bin/sh", "-c", f"echo + >>{log}; echo - >>{log}; exit 1"))
    log.touch()

    async def within(processes: Processes) -> list[Ended]:
        return await asyncio.gather(*(processes.run(script, LONG_S) for _ in range(300)))

    assert {end.status for end in run(within, at_once=4)} == {1}
    running = most = 0
    for line in log.read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert (running, 0 < most <= 4) == (0, True)


def test_a_killed_runner_is_replaced(tmp_path: Path) -> None:
    async def within(processes: Processes) -> tuple[str, bool, int | None]:
        pids = tmp_path / "pids"
        code = f"echo $PPID >{pids}.new; mv {pids}.new {pids}; exec sleep 600"
        task = asyncio.create_task(processes.run(Script(("/bin/sh", "-c", code)), 600))
        await until_async(pids.exists)
        os.kill(int(pids.read_text()), signal.SIGKILL)
        first = await task
        return first.problem, first.unable, (await processes.run(Script(("/bin/true",)), LONG_S)).status

    assert run(within) == ("the process that runs scripts has ended", True, 0)


def test_a_stopped_tree_is_whole(tmp_path: Path) -> None:
    """Also while its processes fork."""
    code = "import os, time\nfor _ in range(4): os.fork()\ntime.sleep(600)"
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", code])
    root = process(pid)
    assert root is not None
    tree = stopped_tree(root)

    def whole() -> bool:
        nonlocal tree
        if len(tree) < 16:
            for each in tree:
                send(each, signal.SIGCONT)
            time.sleep(0.02)  # in which it grows
            tree = stopped_tree(root)
        return len(tree) >= 16

    until(whole)
    assert len(tree) == 16
    assert tree[0] == root
    for each in tree:
        send(each, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert gone([each.pid for each in tree])


def test_no_script_starts_after_the_close() -> None:
    """One that waited for others while the daemon stopped would start a process that no one ends."""

    async def scenario() -> Ended:
        processes = Processes(at_once=1)
        first = asyncio.create_task(processes.run(Script(("sleep", "600")), LONG_S))
        second = asyncio.create_task(processes.run(Script(("true",)), LONG_S))
        await until_async(lambda: processes.counts.running == 1 and processes.counts.waiting == 1)
        await processes.close()
        await first
        return await second

    end = asyncio.run(scenario())
    assert (end.status, end.unable) == (None, True)

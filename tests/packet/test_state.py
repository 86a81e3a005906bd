"""Each network namespace has one state, which every mount namespace finds, and which ends with its namespace."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pylvs.bpf import libbpf, mounts
from pylvs.bpf.libbpf import create_map
from pylvs.bpf.maps import ArrayMap
from pylvs.daemon import STATE_ROOT
from pylvs.dataplane.state import SYNC_DAEMONS, State, collect_dead_states, netns_cookie
from pylvs.model.errors import Busy, PylvsError
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
ARRAY = 2
ALONE = "pylvs-alone"  # the mount of this namespace exists only in its own /run

CREATE = """
import struct
from pylvs.bpf import libbpf
from pylvs.dataplane.state import State
state = State.open(create=True)
with state.lock():
    if not state.pins():
        libbpf.pin(libbpf.create_map(2, "mark", 4, 8, 1), state.pin_path("mark"))
state.set_note("by", sys.argv[1])
print(state.cookie)
"""
DESCRIBE = """
from pylvs.bpf.maps import ArrayMap
from pylvs.dataplane.state import State
state = State.open()
print(state.cookie, state.exists, state.note("by"), state.pins(),
      ArrayMap.open(state.pin_path("mark")).info.id if state.exists else None)
"""
REMOVE = "from pylvs.dataplane.state import State; State.open().remove()"

# Ways to run a command in a network namespace.
WAYS = {
    "shell": ["nsenter", "--net=/run/netns/{name}"],
    "ip netns exec": ["ip", "netns", "exec", "{name}"],
    "unshare": ["nsenter", "--net=/run/netns/{name}", "unshare", "-m"],
    "nested": ["unshare", "-m", "ip", "netns", "exec", "{name}", "unshare", "-m"],
    "another /run": [
        *("nsenter", "--net=/run/netns/{name}", "unshare", "-m"),
        *("sh", "-c", 'mount -t tmpfs run /run; exec "$@"', "sh"),
    ],
    "orphan": ["ip", "netns", "exec", "{name}", "sh", "-c", '(sleep 0.2; exec "$@") & wait_for=0', "sh"],
}


def command(way: str, name: str, script: str, *arguments: str) -> list[str]:
    python = [sys.executable, "-c", f"import sys\n{script}", *arguments]
    return [part.format(name=name) if "{name}" in part else part for part in WAYS[way]] + python


def cookies() -> set[int]:
    """Return the cookies of the namespaces that have a state."""
    return {int(name.removeprefix("net")) for name in os.listdir(mounts.find() or "/") if name.startswith("net")}


def run(way: str, name: str, script: str, *arguments: str) -> str:
    """Return a command's output; with a process left behind, wait for the end of its output."""
    done = subprocess.run(command(way, name, script, *arguments), capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout.strip()


@contextmanager
def idle_process(*words: str) -> Iterator[int]:
    """Start an idle process with these words; return its PID."""
    with subprocess.Popen([*words, "sh", "-c", "echo ready; exec sleep 600"], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def namespace() -> Iterator[str]:
    name = f"pylvs-st{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield name
    run("shell", name, REMOVE)
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.mark.parametrize("maker", WAYS)
def test_every_mount_namespace_finds_the_state(namespace: str, maker: str) -> None:
    assert run("shell", namespace, DESCRIBE).split()[1] == "False"
    cookie = run(maker, namespace, CREATE, maker)
    seen = {way: run(way, namespace, DESCRIBE) for way in WAYS}
    assert len(set(seen.values())) == 1, seen
    assert seen["shell"].startswith(f"{cookie} True {maker} ['mark'] ")
    run("nested", namespace, REMOVE)
    assert {run(way, namespace, DESCRIBE) for way in WAYS} == {f"{cookie} False None [] None"}


def test_process_1_has_the_mount_if_its_namespace_can_be_entered(namespace: str) -> None:
    def quoted(way: str, script: str, *arguments: str) -> str:
        return shlex.join(command(way, namespace, script, *arguments))

    steps = [
        quoted("ip netns exec", CREATE, "first"),
        *(quoted(way, DESCRIBE) for way in WAYS if way != "orphan"),
        f"grep -c ' {mounts.POINT} ' /proc/1/mountinfo",
        quoted("unshare", REMOVE),
        quoted("shell", DESCRIBE),
    ]
    sequence = ["unshare", "-pf", "--mount-proc", "sh", "-ec", "\n".join(steps)]
    done = subprocess.run(sequence, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    made, *seen, mounted, gone = done.stdout.splitlines()
    assert len(set(seen)) == 1, seen
    assert seen[0].startswith(f"{made} True first ['mark'] ")
    assert mounted == "1"
    assert gone == f"{made} False None [] None"


def alone(*steps: str) -> list[str]:
    """Return the output of shell commands with their own process 1, /run and namespace, where there is no state."""
    begin = [
        f"while umount -l {mounts.POINT} 2>/dev/null; do :; done",
        "mount -t tmpfs run /run",
        "mkdir /run/netns",
        f"ip netns add {ALONE}",
    ]
    words = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "sh", "-ec"]
    done = subprocess.run(
        [*words, "\n".join([*begin, *steps, "exit 0"])], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_without_the_right_to_mount_the_missing_capability_is_named() -> None:
    attempt = (
        "from pylvs.dataplane.state import State\n"
        "try: State.open(create=True)\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    words = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", sys.executable, "-c", attempt]
    (output,) = alone(shlex.join(["nsenter", f"--net=/run/netns/{ALONE}", *words]))
    assert output.startswith("NotPermitted ")
    assert "CAP_SYS_ADMIN missing" in output


def test_many_makers_at_once_make_one_state(namespace: str) -> None:
    ways = [way for way in WAYS if way != "orphan"]
    makers = [
        subprocess.Popen(command(ways[i % len(ways)], namespace, CREATE, str(i)), env=ENVIRONMENT, text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for i in range(12)
    ]  # fmt: skip
    for maker in makers:
        _, errors = maker.communicate(timeout=200)
        assert maker.returncode == 0, errors
    assert len({run(way, namespace, DESCRIBE) for way in ways}) == 1


def test_a_command_that_makes_nothing_mounts_nothing() -> None:
    script = "from pylvs.dataplane.state import State, collect_dead_states; State.open(); collect_dead_states()"
    mounted = "grep -v ' - nsfs ' /proc/1/mountinfo"  # not the namespaces of other tests, which end everywhere at once
    output = alone(
        f"{mounted} >/run/before",
        shlex.join(command("shell", ALONE, script)),
        f"{mounted} | cmp - /run/before && echo the same",
    )
    assert output == ["the same"]


def test_the_last_state_removes_the_mount() -> None:
    mounted = f"grep -c ' {mounts.POINT} ' /proc/1/mountinfo || true"
    output = alone(
        mounted,
        shlex.join(command("ip netns exec", ALONE, CREATE, "x")),
        mounted,
        shlex.join(command("unshare", ALONE, REMOVE)),
        mounted,
    )
    assert (output[0], *output[2:]) == ("0", "1", "0")


def test_parallel_first_and_last_states_keep_the_mount() -> None:
    rounds = """
import os
from pylvs.bpf import mounts
for _ in range(40):
    with mounts.ensured(20) as root:
        os.mkdir(f"{root}/net-{os.getpid()}")
    found = mounts.find()
    os.rmdir(f"{found}/net-{os.getpid()}")
    mounts.remove()
"""
    workers = [
        subprocess.Popen(
            ["unshare", "-m", sys.executable, "-c", rounds], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        for _ in range(5)
    ]
    errors = [worker.communicate(timeout=250)[1] for worker in workers]
    assert errors == [""] * len(workers)


def test_a_process_that_ends_while_its_root_is_searched_is_no_lack_of_permission(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its /proc/PID/root still has the directory at one look, and is gone at the next."""
    monkeypatch.setattr(mounts, "_roots", lambda: [str(tmp_path / "ended")])
    monkeypatch.setattr(os.path, "isdir", lambda path: True)
    assert mounts.find() is None


def test_an_abandoned_mount_is_not_used(namespace: str) -> None:
    run("shell", namespace, CREATE, "first")
    with idle_process("unshare", "-m") as keeper:  # its copy of the mount stays
        run("shell", namespace, REMOVE)
        run("shell", namespace, CREATE, "second")
        script = [sys.executable, "-c", f"import sys\n{DESCRIBE}"]
        inside = ["nsenter", f"--mount=/proc/{keeper}/ns/mnt", f"--net=/run/netns/{namespace}", *script]
        done = subprocess.run(inside, capture_output=True, text=True, env=ENVIRONMENT)
        assert " True second " in done.stdout, done.stderr


def test_the_bpffs_of_a_container_is_not_used_from_outside() -> None:
    inside = "\n".join(
        [
            "mount -t tmpfs run /run",
            "mkdir /run/netns",
            "ip netns add inside",
            shlex.join(["nsenter", "--net=/run/netns/inside", sys.executable, "-c", f"import sys\n{CREATE}", "inside"]),
            "exec sleep 600",
        ]
    )
    container = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "sh", "-ec", inside]
    steps = [
        "mkfifo /run/made",
        f"{shlex.join(container)} >/run/made &",
        "read made </run/made",
        shlex.join(command("shell", ALONE, CREATE, "outside")),
        "kill -KILL $!",
        "wait $! 2>/dev/null || true",
        shlex.join(command("shell", ALONE, DESCRIBE)),
    ]
    # As in a sandbox, whose process 1 has more capabilities than the others: they cannot enter its mount namespace.
    less = "-sys_ptrace,-sys_time"
    words = ["setpriv", "--bounding-set", less, "--inh-caps", less, "sh", "-ec", "\n".join(steps)]
    made, seen = alone(shlex.join(words))
    assert seen.startswith(f"{made} True outside ['mark'] ")


def test_the_state_of_a_dead_namespace_is_collected_and_no_other(namespace: str) -> None:
    other = f"{namespace}x"
    subprocess.run(["ip", "netns", "add", other], check=True)
    dead = int(run("ip netns exec", other, CREATE, "dead"))
    living = int(run("ip netns exec", namespace, CREATE, "living"))
    daemons = {cookie: Path(SYNC_DAEMONS, f"net{cookie}", "backup.json") for cookie in (dead, living)}
    for file in daemons.values():  # of killed daemons
        file.parent.mkdir(parents=True)
        file.touch()
    with idle_process("nsenter", f"--net=/run/netns/{other}"):
        subprocess.run(["ip", "netns", "del", other], check=True)
        assert dead not in collect_dead_states(), "a process still lives in it"
        assert {dead, living} <= cookies()
    gone: list[int] = []

    def collected() -> bool:
        gone.extend(collect_dead_states())
        return dead in gone

    until(collected, "the kernel, which takes namespaces down in the background")
    assert living not in gone
    assert living in cookies()
    assert dead not in cookies()
    assert [daemons[living].exists(), daemons[dead].parent.exists()] == [True, False]
    shutil.rmtree(daemons[living].parent)
    assert run("shell", namespace, DESCRIBE).split()[1] == "True"


@contextmanager
def daemon(namespace: str, folder: Path) -> Iterator[Path]:
    """Run `pylvs run` in a network namespace; yield its state directory when it has made its tables."""
    file = folder / "keepalived.conf"
    file.write_text("virtual_server 192.0.2.1 80 {\n real_server 192.0.2.2 80 {\n }\n}\n")
    cookie = run("shell", namespace, "from pylvs.dataplane.state import netns_cookie; print(netns_cookie())")
    directory = STATE_ROOT / f"net{cookie}"
    words = [*WAYS["shell"], sys.executable, "-m", "pylvs", "run", "-f", str(file)]
    process = subprocess.Popen([each.format(name=namespace) for each in words], env=ENVIRONMENT)
    try:
        until(lambda: int(cookie) in cookies() or process.poll() is not None, "the tables of the daemon")
        assert process.poll() is None
        yield directory
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("command", ["stop", "down", "run"])
def test_the_state_directory_of_a_dead_namespace_is_removed_and_no_other(
    namespace: str, command: str, tmp_path: Path
) -> None:
    other = f"{namespace}x"
    subprocess.run(["ip", "netns", "add", other], check=True)
    try:
        with daemon(namespace, tmp_path) as living, daemon(other, tmp_path) as dead:
            pass
    finally:
        subprocess.run(["ip", "netns", "del", other], check=True)
    number = int(dead.name.removeprefix("net"))
    until(lambda: number in collect_dead_states(), "the kernel, which takes namespaces down in the background")
    assert living.exists()
    assert dead.exists()  # commands such as ipvsadm remove the tables alone
    if command == "run":
        with daemon(namespace, tmp_path):
            until(lambda: not dead.exists(), "its directory is removed")
    else:
        where = WAYS["shell"] if command == "down" else []
        words = [*(each.format(name=namespace) for each in where), sys.executable, "-m", "pylvs", command]
        subprocess.run(words, env=ENVIRONMENT, check=True)
        assert not dead.exists()
    assert (living / "services.json").exists()
    shutil.rmtree(living)


def test_a_killed_builder_leaves_no_state(namespace: str) -> None:
    script = """
import time
from pylvs.dataplane.state import State
state = State.open()
with state.building() as fresh:
    fresh.set_note("half", "made")
    print("ready", flush=True)
    time.sleep(600)
"""
    builder = subprocess.Popen(command("shell", namespace, script), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert builder.stdout is not None
    assert builder.stdout.readline() == "ready\n"
    builder.stdout.close()
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert run("shell", namespace, DESCRIBE).split()[1] == "False"
    collect_dead_states()
    root = mounts.find()
    cookie = run("shell", namespace, DESCRIBE).split()[0]
    assert root is None or f"new-net{cookie}" not in os.listdir(root)
    run("shell", namespace, CREATE, "whole")
    assert " True whole ['mark'] " in run("shell", namespace, DESCRIBE)


def test_a_failed_building_leaves_nothing(namespace: str) -> None:
    script = """
from pylvs.dataplane.state import State
state = State.open()
try:
    with state.building() as fresh:
        raise RuntimeError
except RuntimeError:
    print(state.exists, fresh.exists)
"""
    assert run("shell", namespace, script) == "False False"


def test_all_share_one_lock_which_names_its_holder(namespace: str) -> None:
    run("shell", namespace, CREATE, "x")
    script = """
import time
from pylvs.dataplane.state import State
with State.open().lock():
    print("held", flush=True)
    time.sleep(600)
"""
    holder = subprocess.Popen(command("nested", namespace, script), stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    attempt = """
from pylvs.dataplane.state import State
try:
    with State.open().lock(0.05): print("mine")
except Exception as error: print(type(error).__name__, error)
"""
    refused = run("shell", namespace, attempt)
    assert refused.startswith("Busy ")
    assert f"process {holder.pid} " in refused
    holder.stdout.close()
    holder.kill()  # the kernel releases the lock
    holder.wait()
    assert run("shell", namespace, attempt) == "mine"


def test_notes_are_replaced_atomically_and_bounded(namespace: str) -> None:
    script = """
from pylvs.dataplane.state import State
state = State.open(create=True)
state.set_note("why", "first"); state.set_note("why", "an umlaut: \\u00fc"); state.set_note("other", "x" * 4000)
state.set_note("gone", "y"); state.set_note("gone", None); state.set_note("gone", None)
print(state.note("why"), state.note("gone"), sorted(state.notes()), state.pins())
for text in ("", "x" * 4001, "a\\0b"):
    try: state.set_note("why", text)
    except ValueError as error: print("refused")
"""
    assert run("shell", namespace, script).split("\n") == ["an umlaut: ü None ['other', 'why'] []"] + ["refused"] * 3


def test_a_note_of_a_killed_writer_does_not_count(namespace: str) -> None:
    killed = """
import os
from pylvs.dataplane.state import State
state = State.open(create=True)
state.set_note("wanted-1", "first")
os.rename = lambda *_: os._exit(0)
state.set_note("wanted-1", "second")
"""
    run("shell", namespace, killed)
    script = """
import os
from pylvs.dataplane.state import State
state = State.open()
print(state.notes(), state.pins(), len(os.listdir(state.path)))
state.set_note("wanted-1", "third")
print(state.notes(), len(os.listdir(state.path)))
"""
    assert run("shell", namespace, script).split("\n") == ["{'wanted-1': 'first'} [] 3", "{'wanted-1': 'third'} 2"]


def test_without_privileges_the_missing_ones_are_named(namespace: str) -> None:
    script = """
import os
from pylvs.dataplane.state import State
os.setresuid(65534, 65534, 65534)
try: State.open()
except Exception as error: print(type(error).__name__, error)
"""
    answer = run("shell", namespace, script)
    assert answer.startswith("NotPermitted Operation not permitted; CAP_BPF and CAP_NET_ADMIN missing")


def test_each_namespace_has_its_own_cookie(namespace: str) -> None:
    script = "from pylvs.dataplane.state import netns_cookie; print(netns_cookie())"
    inside = {run(way, namespace, script) for way in WAYS}
    assert len(inside) == 1
    assert inside != {str(netns_cookie())}


def test_a_pinned_map_keeps_its_values(namespace: str) -> None:
    run("shell", namespace, CREATE, "x")
    cookie = run("shell", namespace, DESCRIBE).split()[0]
    state = State(int(cookie), f"{mounts.find()}/net{cookie}")
    with ArrayMap.open(state.pin_path("mark")) as first:
        first.put(0, b"8 bytes.")
    with ArrayMap.open(state.pin_path("mark")) as second:
        assert second.get(0) == b"8 bytes."
    with pytest.raises(Busy), ArrayMap(create_map(ARRAY, "other", 4, 4, 1)) as other:
        libbpf.pin(other.fd, state.pin_path("mark"))
    with pytest.raises(PylvsError), ArrayMap(create_map(ARRAY, "other", 4, 4, 1)) as other:
        libbpf.pin(other.fd, state.pin_path("a.dot"))

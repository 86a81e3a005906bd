"""Run commands as root and as another user: without a daemon, with one elsewhere, with one here; print the answers.

`python -m tests.lab.every_command` in network, mount and PID namespaces of its own reads commands as JSON, and prints
their answers as JSON. Each command runs in a fork of this process, which has all modules already: the other user
may not be allowed to read this tree.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import pylvs
from pylvs.cli.consoles import web
from pylvs.cli.main import run
from pylvs.cli.packets import log
from pylvs.daemon import STATE_ROOT
from pylvs.daemon.api.client import Client, NoDaemon
from pylvs.daemon.state.directory import default_path
from pylvs.daemon.supervisor import Supervisor
from pylvs.dataplane import watch
from pylvs.ipvsadm import main as ipvsadm
from pylvs.system import syscalls
from pylvs.system.namespaces import NAMED, inside_network
from pylvs.top import start
from tests.waiting import PATIENCE_S, until

OTHER_USER = 65534
NAMESPACE = "blue"
STATES = ("without", "elsewhere", "here")  # where a daemon runs
USERS = ("other", "root")  # in this order: the other user changes nothing
FILES = {
    "k.conf": """
vrrp_instance one {
    interface d0
    virtual_router_id 51
    virtual_ipaddress {
        10.0.0.100
    }
}
virtual_server 10.0.0.1 80 {
    lvs_sched rr
    lvs_method DR
    protocol TCP
    real_server 10.0.0.2 80 {
    }
}
""",
    "table": "-A -t 10.0.0.1:80 -s rr\n-a -t 10.0.0.1:80 -r 10.0.0.2 -g\n",
    "rules": "*mangle\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n",
}
Answer = tuple[int, str]  # exit status and all output


def main() -> None:
    """Print the answers by state, user and command."""
    given = json.load(sys.stdin)
    assert os.getpid() < 10, "in a PID namespace of its own"
    os.umask(0o022)
    folder = Path(tempfile.mkdtemp(prefix="pylvs-every-"))
    try:
        folder.chmod(0o755)
        os.chdir(folder)
        for name, text in FILES.items():
            (folder / name).write_text(text)
        _prepare()
        answers = {state: _answers(state, given["commands"], given["not_as_root"]) for state in STATES}
        json.dump(answers, sys.stdout)
    finally:
        shutil.rmtree(folder)


def _prepare() -> None:
    syscalls.mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
    for words in (
        f"ip netns add {NAMESPACE}",
        *(f"ip {where} {what}" for where in ("", f"-n {NAMESPACE}") for what in _NETWORK),
    ):
        subprocess.run(words.split(), check=True)
    for module in pkgutil.walk_packages(pylvs.__path__, "pylvs."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


_NETWORK = (
    "link set lo up",
    "link add d0 type veth peer d1",
    "link set d1 up",
    "link set d0 up",
    "address add 10.0.0.1/24 dev d0",
)


def _answers(state: str, commands: list[str], not_as_root: list[str]) -> dict[str, dict[str, Answer]]:
    with _daemon(state):
        found = {}
        for user in USERS:
            before = _tables() if user == "other" else ""
            left_out = not_as_root if user == "root" else []
            found[user] = {command: _answer(command, user) for command in commands if command not in left_out}
            assert user != "other" or _tables() == before, f"{state}: another user has changed the tables"
    for path in STATE_ROOT.glob("*"):  # else the next state has events of this one
        shutil.rmtree(path)
    return found


@contextmanager
def _daemon(state: str) -> Iterator[None]:
    if state == "without":
        yield
        return
    path = NAMED / NAMESPACE if state == "elsewhere" else Path("/proc/self/ns/net")
    with inside_network(path):
        socket_path = default_path() / "control"
        child = _forked(lambda: run(["run", "-f", "k.conf"]), "root", Path(f"daemon-{state}.log"))
    try:
        until(lambda: _is_ready(socket_path), f"the daemon at {socket_path} has its first table")
        yield
        if state == "elsewhere":
            os.kill(child, signal.SIGTERM)
        until(lambda: _ended(child), "the daemon has ended")  # by `pylvs stop`, if it is here
    except BaseException:
        print(Path(f"daemon-{state}.log").read_text(), file=sys.stderr)
        raise


def _is_ready(path: Path) -> bool:
    try:
        status, reply = Client(path.parent).ask("GET", "/v1/status")
    except NoDaemon:
        return False
    return status == 200 and all(each["kind"] != "starting" for each in reply["problems"])


def _ended(child: int) -> bool:
    return os.waitpid(child, os.WNOHANG)[0] == child


def _answer(command: str, user: str) -> Answer:
    output = Path("output")
    child = _forked(lambda: _once(command), user, output)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), output.read_text()


def _forked(command: Callable[[], int], user: str, output: Path) -> int:
    """Run a function in a child, as this user, with all output in a file; return the child."""
    written = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    child = os.fork()
    if child:
        os.close(written)
        return child
    status = 99
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        for source, descriptor in ((null, 0), (written, 1), (written, 2)):
            os.dup2(source, descriptor)
        if user == "other":
            os.setgroups([])
            os.setresgid(OTHER_USER, OTHER_USER, OTHER_USER)
            os.setresuid(OTHER_USER, OTHER_USER, OTHER_USER)
        status = command()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _once(line: str) -> int:
    """Run a command. `pylvs run`, `keepalived`, `watch`, `top` and `web` return where they would wait for events."""
    program, *words = shlex.split(line)
    sys.argv = [program, *words]
    signal.alarm(int(PATIENCE_S))
    waiting = (watch, "watch"), (Supervisor, "run"), (start, "open_console"), (web, "_serve")
    with ExitStack() as stack:
        for where, name in waiting:
            stack.enter_context(patch.object(where, name))
        stack.enter_context(patch.object(log, "events", return_value=[]))
        return _run(program, words)


def _run(program: str, words: list[str]) -> int:
    if program == "pylvs":
        return run(words)
    return {"ipvsadm": ipvsadm.main, "ipvsadm-save": ipvsadm.save, "ipvsadm-restore": ipvsadm.restore}[program]()


def _tables() -> str:
    """Return the rules of the table, and the addresses of lo, to which `pylvs realserver` adds."""
    listing = subprocess.check_output(["ip", "-o", "address", "show", "dev", "lo"], text=True)
    return _answer("ipvsadm-save -n", "root")[1] + listing


if __name__ == "__main__":
    main()

"""The rows of docs/reference/mistakes.md that are about pylvs and about the machine."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pylvs.bpf import abi, kernel, libbpf, mounts
from pylvs.cli import director
from pylvs.cli.main import run
from pylvs.daemon.api import client
from pylvs.daemon.state import directory
from pylvs.daemon.state.directory import StateDirectory
from pylvs.dataplane import load
from pylvs.dataplane.devices import advice
from pylvs.dataplane.state import State
from pylvs.lab import lab
from pylvs.model.errors import PylvsError
from pylvs.netlink import links
from pylvs.netlink.links import Device
from pylvs.realserver import vip
from pylvs.system import lock, syscalls

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "reference" / "mistakes.md").read_text()
COMMANDS, MACHINE = (
    [(found[1], found[2]) for line in section.splitlines() if (found := re.match(r"\| (.*?) \| (.*?) \|$", line))][1:]
    for title in ("Commands of pylvs", "The machine")
    for section in [PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]]
)
WRONG_USAGE = 2
SERVICE = "virtual_server 192.0.2.1 80 {\n protocol TCP\n real_server 10.0.0.2 80 {\n }\n}\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without a lab, a daemon and a real server."""
    monkeypatch.setattr(directory, "STATE_ROOT", tmp_path / "daemon")
    monkeypatch.setattr(vip, "STATE", tmp_path / "realserver")
    monkeypatch.setattr(lab, "STATE", tmp_path / "lab")
    monkeypatch.setattr(lab, "_need_machine", lambda: None)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def veth(_: object) -> Device:
    return Device(7, "v0", bytes(6), "veth", True, False, 1500, 0, 0, ())


@pytest.mark.parametrize(("command", "answer"), COMMANDS, ids=lambda text: text[:50])
def test_commands(
    command: str, answer: str, machine: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command.partition("`")[2].partition("`")[0])[1:]
    expected = 1
    if "while the daemon starts" in command:
        machine.setattr(lock, "holder", lambda path: 7)
    if "pylvs check" in command:
        Path("k.conf").write_text(SERVICE.replace("TCP", "TCP\n lvs_sched rr\n lvs_method NAT"))
        words, expected = [*words, "k.conf"], 0
    if "pylvs attach" in command:
        machine.setattr(links, "device", veth)
        machine.setattr(links, "native_xdp", lambda index: links.XDP_BASIC)
        machine.setattr(director, "open_director", lambda: None)
    if "pylvs down" in command:
        machine.setattr(State, "open", lambda: State(1, ""))
        machine.setattr(load, "take_down", lambda state: pytest.fail("the tables were removed"))
        machine.setattr(director, "_daemons", lambda: [(7, "pylvs stop")])
    if "cannot be run" in answer:
        expected = os.EX_CONFIG
    if command in ("`pylvs lab list`", "`pylvs stop`, if nothing runs"):
        expected = 0
    if "; see pylvs" in answer:
        expected = WRONG_USAGE
    assert run(words) == expected
    out, err = capfd.readouterr()
    printed = (out + err).replace(str(StateDirectory().socket_path), "SOCKET")
    assert printed.count("Traceback") == 0
    assert printed.count(answer.strip("`")) == 1, printed


def test_a_daemon_that_starts_holds_the_lock_of_its_pid_file(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    state = StateDirectory(tmp_path / "state")
    state.acquire()
    with pytest.raises(client.NoDaemon, match=f"process {os.getpid()}, is starting or stopping"):
        client.Client(state.path).ask("GET", "/v1/status")
    state.release()
    with pytest.raises(client.NoDaemon, match="start it"):
        client.Client(state.path).ask("GET", "/v1/status")


# The machine: what raises each answer.


def no_root(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "geteuid", lambda: 1000)
    patch.setattr(syscalls, "missing_capabilities", lambda *names: list(names))
    State.open()


def root_without_bpf(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "geteuid", lambda: 0)
    patch.setattr(syscalls, "missing_capabilities", lambda *names: ["CAP_BPF"])
    State.open()


def _release(patch: pytest.MonkeyPatch, release: str) -> None:
    patch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", release, "#1", "x86_64")))


def old_kernel(patch: pytest.MonkeyPatch) -> None:
    _release(patch, "5.15.0")
    kernel.require()


def kernel_without_btf(patch: pytest.MonkeyPatch) -> None:
    _release(patch, "6.1.0")
    patch.setattr(os.path, "exists", lambda path: False)
    kernel.require()


def kernel_without_bpf(patch: pytest.MonkeyPatch) -> None:
    with mounts._explained("making /run/pylvs/bpf"):
        raise OSError(errno.ENODEV, "No such device")


def no_libbpf(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(libbpf, "_library", None)
    patch.setattr(libbpf, "SONAME", "libbpf.so.1")
    patch.setattr("ctypes.CDLL", lambda *_, **__: (_ for _ in ()).throw(OSError("CAUSE")))
    libbpf.library()


def installed_in_part(patch: pytest.MonkeyPatch) -> None:
    abi.Abi("DIRECTORY")


def unreachable_run(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mounts, "find", lambda: None)
    patch.setattr(mounts, "_made", lambda: None)
    patch.setattr(mounts, "_outermost", lambda: 1)
    mounts.ensure()


def read_only_run(patch: pytest.MonkeyPatch) -> None:
    state = StateDirectory(Path("/run/pylvs/daemon/net1"))

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "/run/pylvs/daemon")

    patch.setattr(Path, "mkdir", refused)
    state.acquire()


ELSEWHERE = {  # rows that another test covers
    "the port of `metrics_address` is taken": (
        "tests/unit/daemon/test_problems.py",
        "test_a_metrics_address_that_is_in_use_is_a_problem",
    ),
    "the port of `web_address` is taken": ("tests/unit/web/test_web_page.py", "test_a_taken_port_is_one_line"),
    "others may read the file of `web_tokens`": (
        "tests/unit/web/test_web_page.py",
        "test_a_wrong_file_of_tokens_serves_no_page",
    ),
    "`enable_dbus` without its library": (
        "tests/unit/daemon/test_dbus_task.py",
        "test_without_the_library_one_line_is_the_problem",
    ),
    "a Python module is missing": ("tests/unit/cli/test_mistakes.py", "test_a_missing_module_is_no_bug"),
    "Python older than 3.11": ("pyproject.toml", 'requires-python = ">=3.11"'),
    "/etc is read-only": (
        "tests/interop/test_unsuitable_machines.py",
        "test_nothing_is_written_below_etc",
    ),
}
RAISERS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "no root": no_root,
    "root without CAP_BPF, as in a container": root_without_bpf,
    "Linux older than 6.1": old_kernel,
    "a kernel without BTF": kernel_without_btf,
    "a kernel without BPF": kernel_without_bpf,
    "libbpf is not installed": no_libbpf,
    "pylvs is installed in part": installed_in_part,
    "/run of PID 1 cannot be reached": unreachable_run,
    "/run is read-only": read_only_run,
}


@pytest.mark.parametrize(("wrong", "answer"), MACHINE, ids=lambda text: text[:50])
def test_the_machine(wrong: str, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if wrong in ELSEWHERE:
        path, text = ELSEWHERE[wrong]
        assert text in (ROOT / path).read_text()
        return
    with monkeypatch.context() as patch, pytest.raises(PylvsError) as raised:
        RAISERS[wrong](patch)
    assert str(raised.value) == answer.strip("`")


def test_a_missing_module_is_no_bug(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """As `dpkg -i` leaves the package where its dependencies are missing."""
    monkeypatch.setitem(sys.modules, "click", None)
    assert run(["show"]) == 1
    out, err = capfd.readouterr()
    row = next(answer for wrong, answer in MACHINE if wrong == "a Python module is missing")
    assert (out, err) == ("", f"pylvs: {row.strip('`')}\n")


def test_native_xdp_is_refused_where_its_frames_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    device = veth("v0")
    for features, lost in ((links.XDP_BASIC, True), (links.XDP_BASIC | links.XDP_TRANSMIT, False), (None, False)):
        monkeypatch.setattr(links, "native_xdp", lambda index, known=features: known)
        assert bool(advice.loses_frames(device)) == lost

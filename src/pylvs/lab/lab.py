"""Build, find and remove labs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pylvs.lab.hosts import (
    DAEMONS,
    DESCRIPTION,
    MARK,
    PINS,
    QUIET_SWITCHES,
    STATE,
    LabHost,
    environment,
    listed,
    namespace_commands,
    port_name,
    unmount_all,
    until,
    wire_commands,
)
from pylvs.lab.network import DIRECTOR, NETWORK_HOST, PREFIX, Host, Network, without_configuration
from pylvs.lab.processes import STEP_S, DeferredSignals, defer_signals, end_all, identity, kill_all
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import Busy, InvalidOperation, NotPermitted, PylvsError, Unsupported
from pylvs.realserver import vip
from pylvs.system.lock import Lock, locked
from pylvs.system.namespaces import NAMED, inside_network, network_cookie
from pylvs.system.processes import command as python_command
from pylvs.system.syscalls import MS_BIND, MS_PRIVATE, mount

TOOLS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "nginx": "nginx",
    "nft": "nftables",
    "awk": "mawk",
}
COMMAND_SECONDS = 60
MAKING_SECONDS = 300  # a step of a lab with many hosts, on a busy machine


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab that is up."""

    name: str
    network: Network

    def host(self, host: str) -> LabHost:
        """Return a host. Raises InvalidOperation with the list of hosts."""
        names = [each.name for each in self.network.hosts]
        if host not in names:
            raise InvalidOperation(f"{host}: lab {self.name} has no such host; there are: {', '.join(names)}")
        return LabHost(self.name, host)

    def run(
        self, host: str, command: Sequence[str], text: str | None = None, seconds: float = COMMAND_SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a host, and capture its output."""
        return subprocess.run(
            [*self.host(host).inside(), *command],
            input="" if text is None else text,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment(),
            check=False,
        )

    def sh(self, host: str, script: str) -> str:
        """Run a shell script in a host; return its output. Raises Unsupported with its error output."""
        done = self.run(host, ["sh", "-c", script])
        if done.returncode:
            raise Unsupported(f"{host}: {script}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    @property
    def wire(self) -> Path:
        """Return the namespace of the bridges, which every frame crosses."""
        return LabHost(self.name, NETWORK_HOST).network


def build(name: str, network: Network, bare: bool = False, blank: bool = False) -> Lab:
    """Make a lab. Removes what was made so far if it raises PylvsError or is interrupted.

    `bare`: the director and the real servers have only their own addresses. `blank`: not even those.
    """
    planned = without_configuration(network, addresses=not blank) if bare or blank else network
    _check_machine(planned)
    lab = Lab(name, planned)
    with defer_signals() as signals, _lock(signals) as lock:
        if _remains(name):
            if _state(name) == "up":
                raise Busy(f"lab {name} is up already; pylvs lab down {name} first, or choose another --name")
            _remove(name)  # a killed process left it half-made
        try:
            for step in _steps(lab, lock, signals):
                signals.check()
                step()
            signals.check()
        except BaseException:
            _remove(name)
            raise
    return lab


def take_down(name: str) -> bool:
    """Remove a lab, even a half-made one; return whether there was one."""
    _need_machine()
    with defer_signals() as signals, _lock(signals):
        exists = _remains(name)
        if exists:
            _remove(name)
    return exists


def open_lab(name: str) -> Lab:
    """Return a lab that is up. Raises InvalidOperation."""
    _need_machine()
    state = _state(name)
    if state != "up":
        exists = ", ".join(each for each, state in labs() if state == "up") or "none"
        what = "is half-made; pylvs lab down removes it" if state else f"is not there; up are: {exists}"
        raise InvalidOperation(f"lab {name} {what}")
    description = json.loads((STATE / name / DESCRIPTION).read_text(encoding="utf-8"))
    return Lab(name, Network.from_dict(description["network"]))


def labs() -> list[tuple[str, str]]:
    """Return (name, "up" or "half-made") of all labs. Raises NotPermitted."""
    _need_machine()
    names = {path.name for path in listed(STATE) if path.is_dir()}
    return [(name, _state(name) or "half-made") for name in sorted(names)]


def free_name(letter: str) -> str:
    """Return d1, or the next free name."""
    return next(name for number in range(1, 1000) if not _remains(name := f"{letter}{number}"))


def _check_machine(network: Network) -> None:
    _need_machine()
    tools = dict(TOOLS)
    if any("service keepalived start" in host.commands for host in network.hosts):
        tools["keepalived"] = "keepalived"
    routing = {"bird": ("bird", "bird2"), "frr": ("vtysh", "frr"), "gobgp": ("gobgpd", "gobgpd")}
    for daemon, (tool, package) in routing.items():
        if any(f"service {daemon} start" in host.commands for host in network.hosts):
            tools[tool] = package
    path = environment()["PATH"]
    missing = [f"{tool} (package {package})" for tool, package in tools.items() if not shutil.which(tool, path=path)]
    if missing:
        raise Unsupported(f"a lab needs {', '.join(missing)}; install it")


def _need_machine() -> None:
    if os.geteuid():
        raise NotPermitted("Operation not permitted: a lab is made of network namespaces; run as root")
    if MARK.exists():
        raise InvalidOperation(f"this is {MARK.read_text(encoding='utf-8').strip()}: leave it first")


@contextlib.contextmanager
def _lock(signals: DeferredSignals) -> Iterator[int]:
    """Allow one lab to be made or removed at a time. The lock is the directory of all labs; the last lab removes it.

    Processes that make parts of a lab inherit the descriptor. So the lock is held until they end, even if the process
    that started them is killed. Raises Interrupted.
    """
    while True:
        try:
            STATE.mkdir(parents=True, exist_ok=True)
            descriptor = locked(STATE, os.O_RDONLY | os.O_DIRECTORY)
            break
        except FileNotFoundError:
            continue  # another process removed it
        except BlockingIOError:
            signals.sleep(STEP_S)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            STATE.rmdir()  # only if it is empty
            STATE.parent.rmdir()
        os.close(descriptor)


def _remains(name: str) -> bool:
    return (STATE / name).exists() or bool(_namespaces(name)) or bool(_pins(name))


def _namespaces(name: str) -> list[Path]:
    return listed(NAMED, f"{PREFIX}{name}-")


def _pins(name: str) -> list[Path]:
    return listed(PINS, f"{name}-")


def _state(name: str) -> str:
    """Return "up", "half-made", or "" if there is no such lab."""
    path = STATE / name / DESCRIPTION
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["state"])
    except (OSError, ValueError, KeyError):
        return "half-made" if _remains(name) else ""


def _describe(lab: Lab, state: str) -> None:
    path = STATE / lab.name / DESCRIPTION
    draft = path.with_suffix(".new")
    namespaces = {host.name: str(LabHost(lab.name, host.name).network) for host in lab.network.hosts}
    content = {"name": lab.name, "state": state, "namespaces": namespaces, "network": lab.network.to_dict()}
    draft.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)


def _steps(lab: Lab, lock: int, signals: DeferredSignals) -> list[Callable[[], None]]:
    """Return the steps: description, namespaces, links, hosts with their commands."""
    net = LabHost(lab.name, NETWORK_HOST).network
    quiet = ["nsenter", f"--net={net}", "sh"]
    network = json.dumps(lab.network.to_dict())

    def finish(*processes: tuple[str, subprocess.Popen[str]]) -> None:
        _finish(processes, signals)

    def awaited(host: Host) -> subprocess.Popen[str]:
        return _start([*lab.host(host.name).inside(), "sh"], f"{until(host.awaits)}\n")

    return [
        (STATE / lab.name).mkdir,
        lambda: _describe(lab, "half-made"),
        lambda: _private_pins(lab.name),
        lambda: finish(_ip(namespace_commands(lab.name, lab.network), lock)),
        lambda: finish((NETWORK_HOST, _start(quiet, QUIET_SWITCHES, lock))),
        lambda: finish(_ip(wire_commands(lab.name, lab.network), lock, net)),
        lambda: finish(("", _start(python_command("pylvs.lab.boot", lab.name, str(lock)), network, lock))),
        lambda: finish(*((host.name, awaited(host)) for host in lab.network.hosts if host.awaits)),
        lambda: _describe(lab, "up"),
    ]


def _private_pins(name: str) -> None:
    """Make a directory with private mounts: the kernel binds mount namespaces only there.

    A file of the lab keeps the directory while another process removes the last other lab.
    """
    PINS.parent.mkdir(parents=True, exist_ok=True)
    with _pins_lock():
        PINS.mkdir(exist_ok=True)
        # os.path.ismount compares devices, and so does not see a directory that is bound to itself.
        # The kernel escapes space, tab, newline and backslash alone: a path may have other separators.
        mounts = Path("/proc/self/mountinfo").read_bytes().split(b"\n")
        if not any(line.split(b" ")[4:5] == [bytes(PINS)] for line in mounts):
            mount(str(PINS), PINS, flags=MS_BIND)
            mount("", PINS, flags=MS_PRIVATE)
        (PINS / f"{name}-").touch()


def _pins_lock() -> Lock:
    return Lock(str(PINS.parent), what="the labs of this machine")


def _ip(lines: Sequence[str], lock: int, namespace: Path | None = None) -> tuple[str, subprocess.Popen[str]]:
    where = ["-n", namespace.name] if namespace else []
    return "ip", _start(["ip", *where, "-batch", "-"], "".join(f"{line}\n" for line in lines), lock)


def _start(command: Sequence[str], text: str, *inherited: int) -> subprocess.Popen[str]:
    """Start a command with a text as its input."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,  # signals of the terminal come to this process alone
        pass_fds=inherited,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(text)
        process.stdin.close()
    process.stdin = None
    return process


def _finish(processes: Sequence[tuple[str, subprocess.Popen[str]]], signals: DeferredSignals) -> None:
    """Wait for all. Raises Unsupported with the subject and output of the first that failed.

    A process with an empty subject prints the subject itself. Raises Interrupted after a signal, when all have ended.
    """
    failed = ""
    deadline = time.monotonic() + MAKING_SECONDS
    try:
        for subject, process in processes:
            output = _output(process, signals, deadline)
            if output is None:
                failed = failed or f"{subject or 'its hosts'}: nothing happened for {MAKING_SECONDS} s"
                break
            if process.returncode and not failed:
                what = output.strip() or f"exit status {process.returncode}"
                failed = f"{subject}: {what}" if subject else what
    finally:
        for _, process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # see _start: its own session
                process.communicate()
    if failed:
        raise Unsupported(f"the lab could not be made: {failed}")


def _output(process: subprocess.Popen[str], signals: DeferredSignals, deadline: float) -> str | None:
    """Wait for a process; return its output, None if it takes too long. Raises Interrupted."""
    while time.monotonic() < deadline:
        signals.check()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=STEP_S)[0]
    return None


def _remove(name: str) -> None:
    """Remove what there is of a lab, complete or not."""
    namespaces = {path.name.removeprefix(f"{PREFIX}{name}-"): path for path in _namespaces(name)}
    end_all(
        each for path in namespaces.values() if (each := identity(path))
    )  # first, because a daemon would make its tables again
    _remove_tables(name, namespaces)
    for host, path in namespaces.items():
        if host != NETWORK_HOST:
            _forget_realserver(path)
            _forget_daemons(path)
        _remove_pin(path)
    for pin in _pins(name):
        _remove_pin(pin)
    shutil.rmtree(STATE / name, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError), _pins_lock():
        if not listed(PINS):
            unmount_all(PINS)
            with contextlib.suppress(OSError):
                PINS.rmdir()


def _remove_tables(name: str, namespaces: Mapping[str, Path]) -> None:
    """Run `pylvs down` in directors, because pinned maps outlive a namespace."""
    for host in namespaces:
        lab_host = LabHost(name, host)
        if not host.startswith(DIRECTOR) or not os.path.ismount(lab_host.mounts) or not os.path.ismount(lab_host.name):
            continue
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(
                [*lab_host.inside(), "pylvs", "down", "--force"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_SECONDS,
                env=environment(),
                start_new_session=True,
                check=False,
            )


def _forget_realserver(namespace: Path) -> None:
    """Remove what `pylvs realserver` stored about a namespace."""
    with contextlib.suppress(OSError, PylvsError), inside_network(namespace):
        memory = vip.memory_path(network_cookie())
        memory.unlink(missing_ok=True)
        memory.parent.rmdir()  # only if it is empty


def _forget_daemons(namespace: Path) -> None:
    """Remove the state directories of `pylvs run`, which keeps them for the next run in the same namespace."""
    with contextlib.suppress(OSError, PylvsError), inside_network(namespace):
        own = f"net{network_cookie()}"
        for folder in (DAEMONS / own, *listed(DAEMONS, f"{own}-")):  # with a hyphen: that of an instance
            shutil.rmtree(folder, ignore_errors=True)


def _remove_pin(path: Path) -> None:
    """Unmount a namespace from its file, and remove the file."""
    unmount_all(path)
    path.unlink(missing_ok=True)


def power_off(lab: Lab, host: str) -> None:
    """Switch a host off without a shutdown: cut the links, then kill the processes.

    What they configured stays until `power_on`.
    """
    namespace = identity(lab.host(host).network)
    assert namespace
    _set_links(lab, lab.network.host(host), "down")
    kill_all(namespace)


def power_on(lab: Lab, host: str) -> None:
    """Restore the host as after a boot: its addresses, no tables, its commands. Raises Unsupported."""
    spec = lab.network.host(host)
    if spec.shared_vip_device:
        lab.sh(host, f"ip addr flush to {lab.network.vip}")
    lab.sh(host, "pylvs down --force")
    _set_links(lab, spec, "up")
    for command in spec.commands:
        lab.sh(host, command)


def _set_links(lab: Lab, host: Host, state: str) -> None:
    lines = "".join(f"link set {port_name(host, number)} {state}\n" for number in range(len(host.interfaces)))
    with inside_network(lab.wire):
        done = subprocess.run(["ip", "-batch", "-"], input=lines, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unsupported(f"{host.name}: its links: {done.stderr.strip()}")

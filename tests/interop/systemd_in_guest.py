"""Play packaging/pylvs.service under a real systemd: `python -m tests.interop.systemd_in_guest [container]`.

It starts systemd as PID 1 of a PID namespace, as a guest's command. With `container` it does so on this machine, in
namespaces and a control group of its own. There, a unit runs it again with `scenario`. That prints one line for each
step: start, reload, restart under a connection, and crash of each process. A daemon that hangs is ended by the
watchdog. Then a script is killed for its memory, and the unit is stopped: in good order, while the daemon hangs, and
after a crash. The commands of the unit find an instance with a state directory of its own. At last the unit is started
with a file that is refused.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.package.boot import PATIENT
from tests.package.roots import CGROUPS

ROOT = Path(__file__).parents[2]
RESULT, OUTPUT = Path("/run/scenario.result"), Path("/run/scenario.output")
UNITS = Path("/run/systemd/system")
FILE = Path("/etc/keepalived/keepalived.conf")
VIP, CLIENT, SERVER = "10.9.1.100", "10.9.1.2", "10.9.2.2"
PATIENCE_S = float(os.environ.get("PYLVS_SCENARIO_S", "300"))  # an emulated processor is slow
FLAG = Path("/run/eat")  # while it exists, the check's script takes all memory
CONFIGURATION = f"""
global_defs {{
    metrics_address 127.0.0.1 9100
}}
vrrp_instance VI_1 {{
    interface c0
    virtual_router_id 51
    priority 255
    version 3
    virtual_ipaddress {{
        {VIP}/24
    }}
}}
virtual_server {VIP} 80 {{
    delay_loop 1
    lb_algo rr
    lb_kind NAT
    protocol TCP
    real_server {SERVER} 80 {{
        weight WEIGHT
        MISC_CHECK {{
            misc_path "/usr/local/bin/eat"
            misc_timeout 600
        }}
        TCP_CHECK {{
        }}
    }}
}}
"""
REFUSED = f"{CONFIGURATION}}}\nvirtual_server {VIP} 81 {{\n"
EAT = f"""#!/bin/sh
[ -e {FLAG} ] || exit 0
exec {shlex.quote(sys.executable)} -c 'x = []
while True: x.append(b"x" * (1 << 20))'
"""
ECHO = """
import socket, threading
def serve(end):
    while data := end.recv(100):
        end.sendall(data)
with socket.create_server(("", 80)) as listener:
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
# The guest has no network target, and pylvs is that of this tree.
DROP_IN = """[Unit]
DefaultDependencies=no
Wants=
Wants=pylvs-cleanup.service
After=
Conflicts=
[Service]
MemoryMax=500M
MemorySwapMax=0
Environment=PYTHONDONTWRITEBYTECODE=1 PYLVS_CONN_MAX=65536
"""
CLEANUP_DROP_IN = """[Unit]
DefaultDependencies=no
[Service]
ProtectHome=read-only
PrivateTmp=no
"""  # the interpreter may be in /root, and the clone in /tmp
TARGET = """[Unit]
DefaultDependencies=no
Wants=systemd-journald.socket systemd-journald.service scenario.service
AllowIsolate=yes
"""


def _word(text: str) -> str:
    """Return one word of a unit file: a path may have blanks (systemd.syntax(7))."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


SCENARIO = f"""[Unit]
DefaultDependencies=no
After=systemd-journald.service
[Service]
Type=oneshot
WorkingDirectory={str(ROOT).replace("%", "%%")}
Environment={_word(f"PATH={os.environ.get('PATH', '')}")} PYTHONDONTWRITEBYTECODE=1
Environment=SYSTEMD_BUS_TIMEOUT={PATIENCE_S:.0f}
ExecStart={_word(sys.executable)} -m tests.interop.systemd_in_guest STEPS
StandardOutput=file:{OUTPUT}
StandardError=file:{OUTPUT}
TimeoutStartSec=infinity
ExecStopPost=/bin/systemctl --no-block exit
"""


def container() -> int:
    """Run `boot` in new namespaces and in a control group, which is removed afterwards. The memory is not limited."""
    group = CGROUPS / f"pylvs-{os.getpid()}-{time.monotonic_ns()}"  # processes of PID namespaces have the same PIDs
    group.mkdir()
    command = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup"]
    command += [sys.executable, "-m", "tests.interop.systemd_in_guest", "inside"]
    try:
        join = lambda: (group / "cgroup.procs").write_text(str(os.getpid()))  # noqa: E731
        return subprocess.run(command, preexec_fn=join, cwd=ROOT, check=False).returncode
    finally:
        for path in sorted(group.rglob("*/"), reverse=True):
            if path.is_dir():
                path.rmdir()
        group.rmdir()


def inside() -> int:
    """Mount what a container has, and `boot`."""
    sh("ip link set lo up")
    sh("mount -t sysfs sys /sys && mount -t cgroup2 cgroup /sys/fs/cgroup")
    for folder, options in (("/run", "mode=755"), ("/usr/local/bin", "mode=755"), ("/etc/keepalived", "mode=755")):
        Path(folder).mkdir(exist_ok=True)
        sh(f"mount -t tmpfs -o {options} tmpfs {folder}")
    Path("/run/netns").mkdir()
    return boot(DROP_IN, CLEANUP_DROP_IN, "scenario")


def boot(drop_in: str = DROP_IN + PATIENT, cleanup: str = CLEANUP_DROP_IN + PATIENT, steps: str = "memory") -> int:
    """Install the unit, run systemd until the scenario ends, and return its exit status."""
    UNITS.mkdir(parents=True, exist_ok=True)
    for unit, changes in (("pylvs.service", drop_in), ("pylvs-cleanup.service", cleanup)):
        text = (ROOT / "packaging" / unit).read_text()
        (UNITS / unit).write_text(text.replace("/usr/sbin/pylvs", "/usr/local/bin/pylvs"))
        (UNITS / f"{unit}.d").mkdir()
        (UNITS / f"{unit}.d/guest.conf").write_text(changes)
    (UNITS / "scenario.target").write_text(TARGET)
    (UNITS / "scenario.service").write_text(SCENARIO.replace("STEPS", steps))
    Path("/usr/local/bin/pylvs").unlink(missing_ok=True)
    Path("/usr/local/bin/pylvs").symlink_to(Path(sys.executable).parent / "pylvs")
    eat = Path("/usr/local/bin/eat")
    eat.write_text(EAT)
    eat.chmod(0o755)
    Path("/etc/keepalived").mkdir(exist_ok=True)
    _configure(1)
    command = ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "/lib/systemd/systemd", "--system"]
    command += ["--unit=scenario.target", "--log-target=null", "--show-status=no"]
    environment = {"container": "guest", "PATH": os.environ["PATH"]}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL) as systemd:
        shown = 0
        while True:
            ended = systemd.poll() is not None
            text = OUTPUT.read_text() if OUTPUT.exists() else ""
            print(text[shown:], end="", flush=True)
            shown = len(text)
            if ended:
                break
            time.sleep(1)
    return int(RESULT.read_text()) if RESULT.exists() else 1


def _configure(weight: int, more: str = "") -> None:
    FILE.write_text(more + CONFIGURATION.replace("WEIGHT", str(weight)))


def sh(command: str) -> str:
    """Return a command's output. Raises CalledProcessError."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{command}: exit status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"not in time: {what}"
        time.sleep(0.2)


def shown(name: str) -> str:
    return sh(f"systemctl show -P {name} pylvs.service")


def main_pid() -> int:
    return int(shown("MainPID"))


def running_pid() -> int:
    """Return the daemon to which a signal is sent: kill(2) would take 0 for the caller's process group."""
    pid = main_pid()
    assert pid > 0, "the daemon does not run"
    return pid


def is_active() -> bool:
    return shown("ActiveState") == "active"


def router(options: str = "") -> int:
    """Return the process pylvs-vrrp, once the command has a reply: on a busy machine it may end without one."""
    found: list[int] = []

    def replies() -> bool:
        with contextlib.suppress(AssertionError):
            found.append(int(json.loads(sh(f"pylvs vrrp status --json {options}"))["process"]["pid"]))
        return bool(found)

    until(replies, "pylvs-vrrp replies")
    return found[0]


def helper() -> int:
    """Return the helper process of pylvs-vrrp, its child, once it runs."""
    find = f"pgrep -P {router()} -f pylvs.vrrp.helper || :"
    until(lambda: sh(find), "a helper process")
    return int(sh(find))


def holds() -> bool:
    return VIP in sh("ip -o addr show dev c0")


def services() -> str:
    return sh("ipvsadm -ln")


def processes() -> list[str]:
    """Return the processes of the unit."""
    group = shown("ControlGroup")
    path = Path(f"/sys/fs/cgroup{group}/cgroup.procs")
    return path.read_text().split() if group and path.exists() else []


class Connection:
    """A client's connection to the service, by way of the director."""

    def __init__(self) -> None:
        code = f"import socket, sys; s = socket.create_connection(({VIP!r}, 80), 60); s.settimeout(120)\n"
        code += "for line in sys.stdin:\n    s.sendall(line.encode()); print(s.recv(100).decode(), end='', flush=True)"
        command = ["ip", "netns", "exec", "client", sys.executable, "-c", code]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._count = 0

    def works(self) -> bool:
        """Return whether an echo comes back on the same connection."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._count += 1
        self._process.stdin.write(f"{self._count}\n")
        return self._process.stdout.readline() == f"{self._count}\n"


def network() -> None:
    for name, device, inner, outer in (("client", "c0", CLIENT, "10.9.1.1"), ("server", "s0", SERVER, "10.9.2.1")):
        sh(f"ip netns add {name}; ip link add {device} type veth peer name eth0 netns {name}")
        sh(f"ip addr add {outer}/24 dev {device}; ip link set {device} up; ip -n {name} link set lo up")
        sh(f"ip -n {name} addr add {inner}/24 dev eth0; ip -n {name} link set eth0 up")
        sh(f"ip -n {name} route add default via {outer}")
    sh("sysctl -qw net.ipv4.ip_forward=1")
    subprocess.Popen(["ip", "netns", "exec", "server", sys.executable, "-c", ECHO])


def start() -> None:
    sh("systemctl start pylvs.service")
    assert is_active()
    until(holds, "the virtual router is master")
    assert f"TCP  {VIP}:80 rr" in services()
    assert shown("StatusText").startswith("1 service, 1 real server")


def reload(connection: Connection) -> None:
    _configure(3)
    sh("systemctl reload pylvs.service")
    assert "Masq    3" in services(), services()
    assert connection.works()


def restart(connection: Connection) -> None:
    before, routers = main_pid(), router()
    sh("systemctl restart pylvs.service")
    assert is_active()
    assert main_pid() != before
    assert (router(), holds()) == (routers, True)
    assert connection.works()


def crash(connection: Connection) -> None:
    """Kill each process; systemd, the daemon or pylvs-vrrp starts it again."""
    before, routers = running_pid(), router()
    os.kill(before, signal.SIGKILL)
    until(lambda: is_active() and main_pid() not in (0, before), "another daemon is ready")
    assert (router(), holds()) == (routers, True)
    assert connection.works()
    daemon, before = main_pid(), helper()
    os.kill(before, signal.SIGKILL)
    until(
        lambda: sh(f"pgrep -P {routers} -f pylvs.vrrp.helper || :") not in ("", str(before)), "another helper process"
    )
    os.kill(routers, signal.SIGKILL)
    until(lambda: router() != routers and holds(), "other virtual routers are master")
    for module in ("pylvs.edge.* probes", "pylvs.edge.* services", "pylvs.system.processes.runner"):
        _crash_child(daemon, module)
    assert (is_active(), main_pid()) == (True, daemon)
    assert f"{SERVER}:80" in services()
    assert connection.works()


def _crash_child(daemon: int, module: str) -> None:
    """Kill the daemon's process that runs a module in a role, and wait for the next one."""
    find = f"pgrep -P {daemon} -f '{module}' || :"
    until(lambda: sh(find), module)
    before = sh(find)
    os.kill(int(before), signal.SIGKILL)
    until(lambda: sh(find) not in ("", before), f"another {module}")


def watchdog(connection: Connection) -> None:
    """The daemon hangs: systemd's watchdog ends it, and another one adopts what it left."""
    drop_in = UNITS / "pylvs.service.d/watchdog.conf"
    drop_in.write_text("[Service]\nWatchdogSec=30\n")
    sh("systemctl daemon-reload; systemctl restart pylvs.service")
    before, routers, restarts = running_pid(), router(), int(shown("NRestarts"))
    os.kill(before, signal.SIGSTOP)
    until(lambda: is_active() and main_pid() not in (0, before), "another daemon is ready")
    assert (router(), holds(), int(shown("NRestarts")) > restarts) == (routers, True, True)
    assert f"{SERVER}:80" in services()
    assert connection.works()
    drop_in.unlink()
    sh("systemctl daemon-reload; systemctl restart pylvs.service")


def out_of_memory(connection: Connection, weight: int = 3) -> None:
    daemon = main_pid()
    events = Path(f"/sys/fs/cgroup{shown('ControlGroup')}/memory.events")

    def kills() -> int:
        return int(dict(line.split() for line in events.read_text().splitlines())["oom_kill"])

    before = kills()
    FLAG.touch()
    until(lambda: kills() > before, "the kernel has killed a process")
    until(lambda: "down" in sh("pylvs status || :"), "the server is down")  # it may be too slow to reply
    FLAG.unlink()
    until(lambda: f"Masq    {weight}" in services(), "the server is back")
    assert (is_active(), main_pid(), shown("Result")) == (True, daemon, "success")
    assert connection.works()


def hang() -> None:
    """Stop the unit while the daemon hangs. No other step waits for the end of the timeout."""
    drop_in = UNITS / "pylvs.service.d/hang.conf"
    drop_in.write_text("[Service]\nTimeoutStopSec=20\n")
    sh("systemctl daemon-reload")
    os.kill(running_pid(), signal.SIGSTOP)
    subprocess.run(["systemctl", "stop", "pylvs.service"], check=False)
    assert not is_active()
    assert (holds(), f"{VIP}:80" in services(), processes()) == (False, False, [])
    drop_in.unlink()
    sh("systemctl daemon-reload; systemctl reset-failed pylvs.service || :")


def stop_after_crash() -> None:
    """Stop the unit while it waits for its restart, and when its restart has failed."""
    start()
    drop_in = UNITS / "pylvs.service.d/wait.conf"
    drop_in.write_text(f"[Service]\nRestartSec={3 * PATIENCE_S}\n")
    sh("systemctl daemon-reload")
    os.kill(running_pid(), signal.SIGKILL)
    until(lambda: shown("SubState") == "auto-restart", "the unit waits for its restart")
    assert (holds(), f"{VIP}:80" in services()) == (True, True)
    sh("systemctl stop pylvs.service")
    until(lambda: (holds(), f"{VIP}:80" in services(), processes()) == (False, False, []), "nothing is left")
    drop_in.unlink()
    sh("systemctl daemon-reload")
    start()
    FILE.write_text(REFUSED)
    os.kill(running_pid(), signal.SIGKILL)
    until(lambda: shown("ActiveState") == "failed", "the file is refused")
    assert (holds(), f"{VIP}:80" in services()) == (True, True)
    sh("systemctl stop pylvs.service")
    until(lambda: (holds(), f"{VIP}:80" in services(), processes()) == (False, False, []), "nothing is left")
    sh("systemctl reset-failed pylvs.service")
    _configure(3)


def instance() -> None:
    """Start, reload, restart and stop a daemon whose state directory is not the default one."""
    blue = "--instance blue"
    _configure(1, "instance blue\n")
    start()
    before, routers = main_pid(), router(blue)
    _configure(3, "instance blue\n")
    sh("systemctl reload pylvs.service")
    assert "Masq    3" in services(), services()
    sh("systemctl restart pylvs.service")
    assert main_pid() != before
    assert (router(blue), holds()) == (routers, True)
    stop()
    _configure(3)


def refuse() -> None:
    """Start the unit with a file that is refused: systemd does not start it again."""
    FILE.write_text(REFUSED)
    assert subprocess.run(["systemctl", "start", "pylvs.service"], capture_output=True, check=False).returncode
    assert [shown(each) for each in ("ActiveState", "ExecMainStatus", "NRestarts")] == ["failed", "78", "0"]
    assert (holds(), processes()) == (False, [])
    sh("systemctl reset-failed pylvs.service")


def stop() -> None:
    sh("systemctl stop pylvs.service")
    assert shown("ActiveState") == "inactive"
    assert shown("Result") == "success"
    assert (holds(), f"{VIP}:80" in services(), processes()) == (False, False, [])


def journal() -> None:
    """The journal has the levels of the lines."""
    sh("journalctl --flush --sync 2>/dev/null || :")
    lines = sh("journalctl -q -o json --output-fields=MESSAGE,PRIORITY -u pylvs.service").splitlines()
    found = {(each["PRIORITY"], each["MESSAGE"].split()[0]) for each in map(json.loads, lines)}
    assert {("6", "info:"), ("4", "warning:")} <= found, found


def scenario() -> None:
    network()
    steps: list[tuple[str, Callable[[], None]]] = [("start", start)]
    for name, step in steps:
        _played(name, step)
    connection = Connection()
    assert connection.works()
    limited = [out_of_memory] if "memory" in Path("/sys/fs/cgroup/cgroup.controllers").read_text() else []
    for each in (reload, restart, crash, watchdog, *limited):
        _played(each.__name__, lambda each=each: each(connection))  # type: ignore[misc]
    for name, step in (
        ("stop", stop),
        ("start again", start),
        ("hang", hang),
        ("stop after crash", stop_after_crash),
        ("instance", instance),
        ("refuse", refuse),
        ("journal", journal),
    ):
        _played(name, step)


def memory() -> None:
    """Play what needs a limit of memory, which a container may lack."""
    network()
    _played("start", start)
    connection = Connection()
    _played("out_of_memory", lambda: out_of_memory(connection, weight=1))


def _played(name: str, step: Callable[[], None]) -> None:
    begin = time.monotonic()
    step()
    print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] in (["scenario"], ["memory"]):
        try:
            (scenario if sys.argv[1] == "scenario" else memory)()
            RESULT.write_text("0")
        except BaseException:
            traceback.print_exc()
            print(sh("systemctl status pylvs.service pylvs-cleanup.service --no-pager -n 60 2>&1 || :"), flush=True)
            RESULT.write_text("1")
    else:
        sys.exit({"container": container, "inside": inside}.get(" ".join(sys.argv[1:]), boot)())

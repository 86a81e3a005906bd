"""Fresh roots of Debian and Ubuntu made by debootstrap, and systems that run in them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

CACHE = Path(os.environ.get("PYLVS_ROOTS_CACHE", Path.home() / ".cache" / "pylvs-roots"))
CGROUPS = Path("/sys/fs/cgroup/unified" if Path("/sys/fs/cgroup/unified").exists() else "/sys/fs/cgroup")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_S = 300
NO_START = ("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n")  # of a service, while there is no system
# What an archive's suites are signed with, and the script of debootstrap for them.
SUITES = {
    "bookworm": ("http://deb.debian.org/debian", "debian-archive-keyring.gpg", "sid", "main"),
    "trixie": ("http://deb.debian.org/debian", "debian-archive-keyring.gpg", "sid", "main"),
    "noble": ("http://archive.ubuntu.com/ubuntu", "ubuntu-archive-keyring.gpg", "gutsy", "main,universe"),
}
FETCH_S = 60
KEYRINGS = Path("/usr/share/keyrings")
# Debian has no package of Ubuntu's keys. This one has 790B C727 ... 1F32 of 2012 and F6EC B376 ... C93C of 2018.
UBUNTU_KEYS = (
    "http://archive.ubuntu.com/ubuntu/pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb",
    "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8",
)


class Failed(Exception):
    """A command in a root failed; the text has its output."""


def _run(command: list[str], stdin: str | None = None) -> str:
    done = subprocess.run(
        command, input=stdin or "", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if done.returncode:
        raise Failed(f"{shlex.join(command[-3:])}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


Result = TypeVar("Result")
TRIALS, TRIAL_PAUSE_S = 3, 10
PACKAGES = "iproute2 procps curl wrk nginx kmod logrotate man-db"  # of a test's machine, besides systemd


def keyring_of(name: str) -> Path:
    """Return the file with an archive's keys. Raises Failed."""
    if (KEYRINGS / name).exists() or not name.startswith("ubuntu"):
        return KEYRINGS / name
    address, wanted = UBUNTU_KEYS
    try:
        with urllib.request.urlopen(address, timeout=FETCH_S) as reply:
            content = reply.read()
    except OSError as error:
        raise Failed(f"{address}: {error}") from None
    if (found := hashlib.sha256(content).hexdigest()) != wanted:
        raise Failed(f"{address}: SHA-256 is {found} instead of {wanted}")
    with tempfile.TemporaryDirectory(prefix="pylvs-package-") as folder:
        package = Path(folder, "keyring.deb")
        package.write_bytes(content)
        _run(["dpkg-deb", "--extract", str(package), folder])
        CACHE.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(Path(folder, str(KEYRINGS).lstrip("/"), name), CACHE / name))


def _bootstrapped(command: list[str], folder: Path) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    return _run(command)


def _retried(fetch: Callable[[], Result]) -> Result:
    """Fetch something, again if the network failed. Raises Failed."""
    for _ in range(TRIALS - 1):
        try:
            return fetch()
        except Failed:
            time.sleep(TRIAL_PAUSE_S)
    return fetch()


def base(suite: str) -> Path:
    """Return the directory with a minimal system of this suite, which systemd can boot; fetch it once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may be making it
        return _base(suite)


def _base(suite: str) -> Path:
    archive, keyring, script, components = SUITES[suite]
    folder = CACHE / suite
    if not folder.exists():
        fresh = CACHE / f"{suite}.new"
        words = ["--variant=minbase", "--include=systemd-sysv,dbus", f"--components={components}"]
        words += [f"--keyring={_retried(lambda: keyring_of(keyring))}"]
        command = ["debootstrap", *words, suite, str(fresh), archive, f"/usr/share/debootstrap/scripts/{script}"]
        _retried(lambda: _bootstrapped(command, fresh))
        root = Root(fresh)
        root.write("/etc/resolv.conf", Path("/etc/resolv.conf").read_text())
        root.write("/etc/apt/apt.conf.d/90test", 'APT::Install-Recommends "false";\nAcquire::Retries "3";\n')
        root.write("/etc/dpkg/dpkg.cfg.d/test", "force-unsafe-io\n")
        root.write(*NO_START, 0o755)
        root.run(f"apt-get -qq update && apt-get -qq install -y {PACKAGES} && apt-get clean")
        root.run(f"systemctl disable nginx.service 2>/dev/null; rm {NO_START[0]}")
        fresh.rename(folder)
    return folder


_ENTER = """
set -e
mount --make-rprivate /
mount --bind ROOT ROOT
cd ROOT
mount -t proc proc proc
mount -t sysfs sys sys
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount --rbind /dev dev
mkdir -p run/former
pivot_root . run/former
umount -l run/former
"""
_BOOT = (
    _ENTER
    + """
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs shm dev/shm
ip link set lo up
exec /lib/systemd/systemd --system --log-target=journal --show-status=no
"""
)


class Root:
    """A root on top of a base, which stays as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, command: str) -> str:
        """Run a shell command without a system around it, with this machine's network. Raises Failed."""
        mounts = f"mount -t proc proc {self.path}/proc; mount --rbind /dev {self.path}/dev"
        inside = f"exec chroot {self.path} env -i PATH={PATH} LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive sh -c"
        words = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return _run([*words, "sh", "-c", f"{mounts}; {inside} {shlex.quote(command)}"])

    def run_as_machine(self, command: str) -> str:
        """Run a shell command as `run` does, but with / as a mount, /sys and a new /run. Raises Failed."""
        inside = f"exec env -i PATH={PATH} LC_ALL=C.UTF-8 HOME=/root sh -c {shlex.quote(command)}"
        script = _ENTER.replace("ROOT", shlex.quote(str(self.path))) + inside
        return _run(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script])

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the root."""
        path = self.path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    def files(self, with_home: bool = False) -> dict[str, str]:
        """Return the files that a package could leave, with their kinds: not logs, caches and lists of dpkg and apt.

        `with_home` adds those of root's home.
        """
        skipped = {
            "proc",
            "sys",
            "dev",
            "run",
            "tmp",
            "root",
            "srv",
            "var/cache",
            "var/log",
            "var/tmp",
            "etc/machine-id",
            "etc/.updated",
            "var/.updated",
        }
        skipped |= {f"var/lib/{each}" for each in ("apt", "dpkg", "systemd", "dbus", "private", "nginx", "logrotate")}
        if with_home:
            skipped.remove("root")
        found = {}
        for folder, folders, names in os.walk(self.path):
            here = Path(folder).relative_to(self.path)
            folders[:] = [each for each in folders if str(here / each) not in skipped and each != "__pycache__"]
            for name in (*folders, *names):
                if str(here / name) not in skipped and not name.endswith("-"):  # /etc/passwd- is passwd's backup
                    path = self.path / here / name
                    found[str(here / name)] = os.readlink(path) if path.is_symlink() else oct(path.stat().st_mode)
        return found


@contextmanager
def root_of(suite: str, folder: Path) -> Iterator[Root]:
    """Yield a fresh root of this suite below a folder; unmount it afterwards."""
    for name in ("upper", "work", "root"):
        (folder / name).mkdir(parents=True)
    lower = base(suite)
    options = f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"
    _run(["mount", "-t", "overlay", "-o", options, "overlay", str(folder / "root")])
    try:
        root = Root(folder / "root")
        root.write("/etc/resolv.conf", Path("/etc/resolv.conf").read_text())
        yield root
    finally:
        _run(["umount", "-R", "-l", str(folder / "root")])


class System:
    """A systemd that runs as PID 1 in namespaces and a control group of its own, with this machine's kernel."""

    def __init__(self, root: Root) -> None:
        # Workers have PID namespaces of their own, so their PIDs can be equal.
        self._group = CGROUPS / f"pylvs-package-{os.getpid()}-{time.monotonic_ns()}"
        self._group.mkdir()
        script = _BOOT.replace("ROOT", shlex.quote(str(root.path)))
        words = ["unshare", "--fork", "--kill-child", "--pid", "--mount", "--net", "--uts", "--ipc", "--cgroup"]
        join = f'echo $$ >{shlex.quote(str(self._group))}/cgroup.procs; exec "$@"'
        self._outer = subprocess.Popen(
            ["sh", "-c", join, "sh", *words, "sh", "-c", script],
            env={"PATH": PATH, "container": "pylvs"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def _process(self) -> str:
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text() != "systemd\n":
            raise Failed("systemd does not run yet")
        return children[0]

    def command(self, command: str) -> list[str]:
        """Return the words that run a shell command in the system."""
        words = ["nsenter", "--target", self._process(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
        words += ["env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        return [*words, f"SYSTEMD_BUS_TIMEOUT={BOOT_S}", "sh", "-c", command]

    def run(self, command: str) -> str:
        """Run a shell command in the system. Raises Failed."""
        return _run(self.command(command))

    def wait(self) -> None:
        """Wait until the system has booted. Raises Failed."""
        self.until("systemctl is-system-running --wait | grep -E 'running|degraded'")

    def until(self, command: str) -> None:
        """Repeat a command until it succeeds. Raises Failed with its last output."""
        end = time.monotonic() + BOOT_S
        while True:
            try:
                self.run(command)
                return
            except Failed:
                if time.monotonic() > end or self._outer.poll() is not None:
                    raise
                time.sleep(0.2)

    def end(self) -> None:
        """Kill the system, and remove its control group."""
        self._outer.kill()
        self._outer.wait()
        for path in sorted(self._group.rglob("*/"), reverse=True):
            if path.is_dir():
                _remove(path)
        _remove(self._group)


def _remove(group: Path) -> None:
    end = time.monotonic() + BOOT_S
    while True:
        try:
            group.rmdir()
            return
        except OSError:  # its processes are still ending
            if time.monotonic() > end:
                raise
            time.sleep(0.1)

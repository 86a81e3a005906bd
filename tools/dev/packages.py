"""Debian packages that commands need, installed by apt without starting or enabling a service."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tools.dev import dpkg, record
from tools.dev.record import CACHE
from tools.dev.report import Stopped, run_logged, say

Needed = tuple[tuple[str, str], ...]  # a command, a library, or the path of a file; and the package that has it


def _browser() -> Needed:
    """Return Chromium with its driver. Ubuntu has them as a snap alone, and the tests that need them are skipped."""
    with contextlib.suppress(OSError):
        if platform.freedesktop_os_release()["ID"] == "ubuntu":
            return ()
    return ("/usr/bin/chromium", "chromium"), ("/usr/bin/chromedriver", "chromium-driver")


DEMO: Needed = (
    ("ip", "iproute2"),
    ("nginx", "nginx"),
    ("curl", "curl"),
    ("nft", "nftables"),
    ("sysctl", "procps"),
    ("ping", "iputils-ping"),
    ("libbpf.so.1", "libbpf1"),
    ("libpcre2-8.so.0", "libpcre2-8-0"),
)
LAB: Needed = (  # what the documents use in labs, and the measurements
    *DEMO,
    ("make", "make"),
    ("tcpdump", "tcpdump"),
    ("iptables", "iptables"),
    ("ifconfig", "net-tools"),
    ("ethtool", "ethtool"),
)
BROWSER = _browser()
TEST: Needed = (
    *LAB,
    ("git", "git"),
    ("unshare", "util-linux"),
    ("linux.uml", "user-mode-linux"),
    ("/usr/sbin/ipvsadm", "ipvsadm"),
    ("/usr/sbin/keepalived", "keepalived"),
    ("/usr/sbin/ldirectord", "ldirectord"),
    ("/usr/sbin/bird", "bird2"),
    ("/usr/lib/frr/bfdd", "frr"),
    ("/usr/bin/gobgpd", "gobgpd"),
    ("openssl", "openssl"),
    ("wrk", "wrk"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("systemd-analyze", "systemd"),
    ("/usr/sbin/snmpd", "snmpd"),
    ("snmpwalk", "snmp"),
    ("dbus-daemon", "dbus-daemon"),
    ("tshark", "tshark"),
    ("tmux", "tmux"),
    *BROWSER,
)
DEB: Needed = (
    ("dh", "debhelper"),
    ("dh_python3", "dh-python"),
    ("dpkg-buildpackage", "dpkg-dev"),
    ("/usr/lib/python3/dist-packages/installer/__main__.py", "python3-installer"),
    ("lintian", "lintian"),
    ("git", "git"),
)
ROOTS: Needed = (("debootstrap", "debootstrap"),)

APT = ("apt-get", "-o", f"DPkg::Lock::Timeout={dpkg.LOCK_S}", "-o", "Acquire::Retries=3")
QUIET = ("-o", "APT::Keep-Downloaded-Packages=false", "-o", "Dpkg::Use-Pty=0")
LOG = CACHE / "apt.log"
SHOWN = ("Get:", "Unpacking", "Setting up")
WITHOUT_ARCHIVE = "^E: (Failed to fetch|Unable to (fetch|locate)|Package .* has no installation)"
UNREACHABLE = "Temporary failure resolving|Could not (connect|resolve)|Unable to connect|unreachable"


def missing(needed: Iterable[tuple[str, str]]) -> list[str]:
    """Return the packages whose command, library or file is not found."""
    return sorted({package for name, package in needed if not _is_there(name)})


def _is_there(name: str) -> bool:
    """Return whether a name is found. A directory does not count: a removed package may leave it."""
    if name.startswith("/"):
        return os.path.isfile(name)
    return _has_library(name) if ".so." in name else shutil.which(name) is not None


def _has_library(name: str) -> bool:
    listed = _output(["ldconfig", "-p"])
    return name in listed or any(name in files for top in ("/usr/lib", "/lib") for _, _, files in os.walk(top))


def _output(command: Sequence[str]) -> str:
    """Return what a command prints; "" if it is missing."""
    try:
        environment = os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            env=environment,
            check=False,
        ).stdout
    except OSError:
        return ""


def need(needed: Iterable[tuple[str, str]], lists_are_new: bool = False) -> None:
    """Install what is missing. Raises Stopped."""
    names = missing(needed)
    if not names:
        return
    if os.geteuid() != 0:
        raise Stopped(f"missing: {' '.join(names)}; install these packages, or run sudo ./dev once")
    if shutil.which("apt-get") is None:
        raise Stopped(f"missing: {' '.join(names)}, and no apt-get here; install the like from your distribution")
    say(f"installing by apt: {' '.join(names)}")
    CACHE.mkdir(parents=True, exist_ok=True)
    with dpkg.locked(record.LOCK), _without_services():  # one clone at a time: all use the same policy-rc.d
        if not record.has_lists():
            record.note("lists", "yes")
        if not lists_are_new:
            _update_lists()
        dpkg.wait()
        _finish_interrupted()
        _install(names)


def _install(names: Sequence[str]) -> None:
    install = ["install", "-y", "--no-install-recommends"]
    planned = re.findall(r"^Inst (\S+) \(", _output([*APT, "-s", *install, *names]), re.MULTILINE)
    uris = _output([*APT, "-qq", "--print-uris", *install, *names]).splitlines()
    megabytes = (sum(int(line.split()[2]) for line in uris) + 500_000) // 1_000_000
    if planned:
        record.note("packages", *planned)
    for name in planned:
        if dpkg.status(name) == dpkg.CONFIGURATION:
            record.note("configured", name)
    say(f"apt: {len(planned)} packages, {megabytes} MB to download")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C"}
    if run_logged([*APT, "-q", *QUIET, *install, *names], LOG, SHOWN, environment):
        raise Stopped(_cause(names, LOG.read_text(errors="replace")))
    _disable_services(planned)


def _cause(names: Sequence[str], log: str) -> str:
    if re.search(WITHOUT_ARCHIVE, log, re.MULTILINE) and re.search(UNREACHABLE, log):
        cause = "apt-get cannot reach its archive: check network and proxy"
    else:
        errors = re.findall("^E: (.*)", log, re.MULTILINE)
        cause = f"apt-get could not install: {' '.join(names)}: {errors[-1] if errors else ''}"
    return f"{cause} (whole log: .cache/dev/apt.log)"


def _update_lists() -> None:
    """Update apt's lists: apt-get waits for dpkg's lock by itself, but not for that of its lists."""
    for waited in range(0, dpkg.LOCK_S + dpkg.PAUSE_S, dpkg.PAUSE_S):
        with LOG.open("w") as file:
            environment = os.environ | {"LC_ALL": "C"}
            done = subprocess.run([*APT, "-qq", "update"], stdout=file, stderr=file, env=environment, check=False)
        # A broken third-party source must not stop what the other sources have: only the installation decides.
        if done.returncode == 0 or "Could not get lock" not in LOG.read_text(errors="replace"):
            return
        if waited == 0:
            say("waiting for another apt-get")
        dpkg.pause()


def _finish_interrupted() -> None:
    """Configure what an interrupted dpkg has unpacked, so that apt-get installs at all."""
    updates = Path("/var/lib/dpkg/updates")
    if (updates.is_dir() and any(updates.iterdir())) or _output(["dpkg", "--audit"]):
        say("finishing what an interrupted dpkg began")
        with LOG.open("a") as log:
            dpkg.run("--configure", "-a", log=log)


# --- services ------------------------------------------------------------------------------------------------------

POLICY = Path("/usr/sbin/policy-rc.d")  # Debian asks it before it starts a service
INIT_SCRIPT = r"^/etc/init\.d/(.+)$"
UNIT = r"/systemd/system/([^/\n]*\.(?:service|socket|timer|path))$"
KEPT_POLICY = Path(f"{POLICY}.before-pylvs")
OWN = "# made by dev of pylvs"  # so that one that a killed run left behind is not taken for the machine's own


@contextlib.contextmanager
def _without_services() -> Iterator[None]:
    """Let nothing start that is installed in the block. A policy of the machine is restored afterwards.

    A signal ends dev only behind the block, where apt-get has ended.
    """
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        if POLICY.exists() and not _is_own_policy():
            POLICY.rename(KEPT_POLICY)
        fresh = Path(f"{POLICY}.new")
        fresh.write_text(f"#!/bin/sh\n{OWN} while it installs packages; removed afterwards\nexit 101\n")
        fresh.chmod(0o755)
        fresh.replace(POLICY)
        yield
    finally:
        if _is_own_policy():
            POLICY.unlink()
        if KEPT_POLICY.exists():
            KEPT_POLICY.rename(POLICY)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if received:
            raise SystemExit(130 if received[0] == signal.SIGINT else 143)


def _is_own_policy() -> bool:
    return POLICY.exists() and f"\n{OWN}" in POLICY.read_text(errors="replace")


def _disable_services(names: Iterable[str]) -> None:
    """Disable services of packages: these came for their programs alone, and must not start with the machine either."""
    files = "".join(_output(["dpkg", "-L", name]) for name in names if name != "systemd")
    services = {*re.findall(INIT_SCRIPT, files, re.MULTILINE), *re.findall(UNIT, files, re.MULTILINE)}
    with LOG.open("a") as log:
        for service in sorted(services):
            command = ["systemctl", "disable", service] if "." in service else ["update-rc.d", service, "disable"]
            with contextlib.suppress(OSError):
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)

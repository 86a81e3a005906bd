"""Play the life of the package in a fresh root of Debian or Ubuntu: `./dev package-test [SUITE...] [--boot | --demo]`.

The steps: two builds with equal bytes, installation, the first page, an upgrade under load, the kernel's ipvsadm beside
ours, mistakes, removal and purge. With --boot a guest in qemu boots the root instead, twice. With --demo, README's
first commands run in a bare root instead.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.package import boot, demonstration, faults
from tests.package.roots import NO_START, SUITES, Failed, Root, System, root_of
from tests.package.site import CLIENT, PAGE, VERIFY, VIP, configuration, furnish
from tools import deb
from tools.source import BuildFailed

_LOAD_S = 1800  # of wrk, which is ended after the upgrade
_DEPENDS = "dpkg-deb --field /srv/first.deb Depends"


def check(holds: object, text: str) -> None:
    """Print a fact. Raises Failed if it does not hold."""
    if not holds:
        raise Failed(f"not so: {text}")
    print(f"  ok: {text}", flush=True)


def shown(run: Callable[[str], str], command: str) -> str:
    """Run a command, print it with its output, and return the output."""
    output = run(command)
    print(f"  # {command}", *(f"    {line}" for line in output.rstrip().splitlines()), sep="\n", flush=True)
    return output


def step(title: str) -> None:
    """Print the title of a step, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {title}", flush=True)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def later(package: Path, folder: Path) -> Path:
    """Pack the same files again as a later version."""
    folder.mkdir(parents=True, exist_ok=True)
    tree, name = folder / "tree", f"later-{package.name}"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(re.sub(r"^(Version: .*)$", r"\1+later", control.read_text(), flags=re.MULTILINE))
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, folder / name], check=True, capture_output=True)
    return folder / name


def packages(folder: Path) -> tuple[Path, Path]:
    """Build the package twice, and once more as a later version. Return two versions."""
    step("two builds")
    first, again = (deb.build(folder / name) for name in ("first", "again"))
    print(f"  {digest(first)}  {first.name}\n  {digest(again)}  {again.name}")
    check(digest(first) == digest(again), "two builds have equal bytes")
    second = later(first, folder / "second")
    errors = [line for line in deb.lint(first).splitlines() if line.startswith("E:")]
    check(not errors, "lintian finds no error")
    return first, second


def _prepare(root: Root) -> None:
    step("what the package depends on")
    root.write(*NO_START, 0o755)
    root.run(f'apt-get -qq update && apt-get -qq satisfy -y "$({_DEPENDS})"')
    # The libraries of the kernel's ipvsadm stay: the system has no network later.
    root.run(
        "apt-get -qq install -y ipvsadm && apt-get -qq purge -y ipvsadm && cd /srv && apt-get -qq download ipvsadm"
    )
    root.run(f"mv /srv/ipvsadm_*.deb /srv/real.deb; rm {NO_START[0]}")


def _first_page(system: System) -> None:
    step("install")
    shown(system.run, "apt-get -qq install -y /srv/first.deb 2>&1 | tail -n 4")
    shown(system.run, "ls -l /usr/sbin/pylvs /usr/sbin/ipvsadm /etc/alternatives/ipvsadm; id pylvs")
    output = system.run(f"{VERIFY} 2>&1")
    check(output == "", "systemd-analyze verify is silent")
    check("inactive" in system.run("systemctl is-active pylvs.service || :"), "the installation starts no daemon")
    for page in ("pylvs", "pylvs-run", "pylvs-vrrp-status", "ipvsadm", "ipvsadm-save"):
        check("NAME" in system.run(f"man {page} 2>&1 | head -n 5"), f"man {page}")
    step("first page")
    shown(system.run, "systemctl enable --now pylvs.service 2>&1")
    system.until(f"ip -o addr show dev c0 | grep -q {VIP}/ && {PAGE}")
    shown(system.run, PAGE)
    shown(system.run, "ipvsadm -Ln")


def _upgrade(system: System) -> None:
    step("upgrade under load")
    before = system.run("systemctl show -P MainPID pylvs.service")
    load = f"{CLIENT} wrk -t 1 -c 20 -d {_LOAD_S} --timeout 60 http://{VIP}/"
    with subprocess.Popen(system.command(load), stdout=subprocess.PIPE, text=True) as wrk:
        time.sleep(3)  # wrk's connections are established
        shown(system.run, "dpkg -i /srv/second.deb 2>&1 | tail -n 5")
        check(system.run("systemctl show -P MainPID pylvs.service") != before, "the upgrade restarted the daemon")
        system.run(PAGE)
        check(wrk.poll() is None, "wrk still runs after the upgrade")
        system.run("pkill -INT -x wrk")  # it prints its report
        report = wrk.communicate()[0]
    print(*(f"    {line}" for line in report.splitlines()), sep="\n")
    found = re.search(r"(\d+) requests in", report)
    check(found and int(found[1]) > 0, f"{found[1] if found else 0} requests were answered")
    check("Socket errors" not in report and "Non-2xx" not in report, "0 requests and 0 connections were lost")
    shown(system.run, "dpkg-query -W pylvs; pylvs show")


def _reload(system: System, root: Root) -> None:
    step("reload, stop, start")
    root.write("/etc/keepalived/keepalived.conf", configuration(3))
    system.run("systemctl reload pylvs.service")
    check("Masq    3" in system.run("ipvsadm -Ln"), "systemctl reload: the weight is 3")
    system.run("systemctl stop pylvs.service")
    check(f"{VIP}/" not in system.run("ip -o addr"), "systemctl stop leaves no virtual address")
    check(f"{VIP}:80" not in system.run("ipvsadm -Ln"), "and no service")
    root.write("/etc/keepalived/keepalived.conf", configuration())
    system.run("systemctl start pylvs.service")
    system.until(f"ip -o addr show dev c0 | grep -q {VIP}/ && {PAGE}")
    check(True, "systemctl start: the page is served again")


def _beside(system: System) -> None:
    step("the kernel's ipvsadm beside ours")
    link = "readlink -f /usr/sbin/ipvsadm"
    shown(system.run, "apt-get -qq install -y /srv/real.deb 2>&1 | tail -n 2")
    shown(system.run, "update-alternatives --list ipvsadm")
    check(system.run(link) == "/usr/lib/pylvs/ipvsadm\n", "ours is /usr/sbin/ipvsadm")
    check(
        "kernel" in system.run(f"update-alternatives --set ipvsadm /usr/sbin/ipvsadm.kernel 2>&1; {link}"), "a choice"
    )
    system.run("apt-get -qq purge -y ipvsadm")
    check(system.run(link) == "/usr/lib/pylvs/ipvsadm\n", "ours again, when the kernel's is gone")
    check(system.run("update-alternatives --list ipvsadm").split() == ["/usr/lib/pylvs/ipvsadm"], "it alone")
    system.run("apt-get -qq install -y /srv/real.deb")


def _purge(system: System) -> None:
    step("remove, purge")
    shown(system.run, "apt-get -qq remove -y pylvs 2>&1 | tail -n 2")
    check(f"{VIP}/" not in system.run("ip -o addr"), "no virtual address is left")
    check("clsact" not in system.run("tc qdisc show"), "no device runs the program")
    check(
        system.run("readlink -f /usr/sbin/ipvsadm") == "/usr/sbin/ipvsadm\n", "the kernel's ipvsadm has its name back"
    )
    check("pvs" in system.run("/sbin/ipvsadm --version 2>&1 || :"), "and runs")
    shown(system.run, "apt-get -qq purge -y pylvs 2>&1 | tail -n 2")
    system.run("apt-get -qq purge -y ipvsadm")
    check(system.run("ls -d /run/pylvs /var/log/pylvs /etc/pylvs 2>/dev/null || :") == "", "no directory is left")
    check(system.run("getent passwd pylvs || :") == "", "no user is left")
    check(system.run("dpkg-divert --list | grep pylvs || :") == "", "no diversion is left")


def play(suite: str, folder: Path, first: Path, second: Path) -> None:
    """Play all steps in one suite. Raises Failed."""
    step(f"a fresh root: {suite}")
    with root_of(suite, folder) as root:
        furnish(root)
        for name, package in (("first", first), ("second", second)):
            (root.path / f"srv/{name}.deb").write_bytes(package.read_bytes())
        _prepare(root)
        before = root.files()
        print(f"  {len(before)} files before")
        faults.play(root, check)
        check(root.files() == before, "the mistakes left nothing behind")
        system = System(root)
        try:
            system.wait()
            _first_page(system)
            _upgrade(system)
            _reload(system, root)
            _beside(system)
            faults.play_interrupted(system, check)
            _purge(system)
        finally:
            system.end()
        after = root.files()
        print(f"  {len(after)} files after")
        for pair in sorted(set(before.items()) ^ set(after.items())):
            print(f"    differs: {pair}")
        check(before == after, "purge leaves nothing: the list of files is the same")


def main() -> int:
    """Play the suites that are named. Return 0, or 1 after a line on stderr."""
    parser = argparse.ArgumentParser(prog="./dev package-test", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(SUITES)}; default: all")
    parser.add_argument("--package", type=Path, metavar="FILE", help="play with this package instead of two new builds")
    parser.add_argument("--demo", action="store_true", help="play ./dev demo and ./dev undo in bare roots instead")
    parser.add_argument("--boot", action="store_true", help="boot each root in qemu instead, twice")
    given = parser.parse_args()
    suites = given.suites or list(SUITES)
    if unknown := set(suites) - set(SUITES):
        parser.error(f"no suite {unknown.pop()}: {', '.join(SUITES)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("package-test: terminated"))  # roots are unmounted
    with tempfile.TemporaryDirectory(prefix="pylvs-package-", dir="/var/tmp") as name:
        try:
            if given.demo:
                for suite in suites:
                    step(f"a bare root: {suite}")
                    demonstration.play(suite, Path(name, suite), check)
            elif given.boot:
                package = given.package or deb.build(Path(name, "first"))
                for suite in suites:
                    boot.play(suite, Path(name, suite), package)
            else:
                if given.package:
                    first, second = given.package, later(given.package, Path(name, "second"))
                else:
                    first, second = packages(Path(name))
                for suite in suites:
                    play(suite, Path(name, suite), first, second)
        except (Failed, BuildFailed) as error:
            print(f"package-test: {error}", file=sys.stderr)
            return 1
    print("package-test: all steps passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())

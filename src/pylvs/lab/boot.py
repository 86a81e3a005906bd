"""Boot the hosts of a lab: their namespaces, disks, files and sysctls, then their own commands.

A program, which gets the lab's name and the descriptor of a lock as arguments, and the network as JSON on stdin. It
keeps the descriptor open until the hosts are made. Only a process with one thread can enter a mount namespace, and any
process may call `build`. One process makes all hosts, because a fork costs far less than a new shell and a new Python
for each host.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import json
import multiprocessing
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pylvs.lab.files import BIG_FILE_BYTES, COMMANDS, WEB_STATE, files_of
from pylvs.lab.hosts import BPFFS, PINS, RUN_PYLVS, LabHost, address_commands, unmount_all, until
from pylvs.lab.network import SERVER, Host, Network
from pylvs.model.errors import os_text
from pylvs.system.namespaces import NAMED, Kind, bind_new, join
from pylvs.system.syscalls import MS_BIND, mount

OWN_FOLDERS = ("/etc", "/usr/sbin", "/usr/local", "/var")  # each host has its own copy
RUN = Path("/run")
MS_MOVE = 8192  # linux/mount.h
IPV4_ZERO = ("rp_filter", "arp_ignore", "arp_announce")
IPV6_ZERO = ("disable_ipv6", "accept_dad", "dad_transmits", "accept_ra")
IPVSADM = "ipvsadm"
FORK = multiprocessing.get_context("fork")


def main() -> None:
    """Boot all hosts; print why that failed."""
    lab, lock = sys.argv[1], int(sys.argv[2])
    network = Network.from_dict(json.load(sys.stdin))
    hosts = [(host, LabHost(lab, host.name)) for host in network.hosts]
    for _, lab_host in hosts:
        lab_host.disk.mkdir()
        for kind, pin in ((Kind.MOUNT, lab_host.mounts), (Kind.NAME, lab_host.name)):
            pin.touch()
            bind_new(kind, pin)
    _in_each(hosts, lock, lambda host, lab_host: _configure(lab, network, host, lab_host))
    with_commands = [(host, lab_host) for host, lab_host in hosts if host.commands]
    _import({line.split()[0] for host, _ in with_commands for line in host.commands})
    _in_each(with_commands, lock, lambda host, _: _run_commands(host))


def _in_each(hosts: Sequence[tuple[Host, LabHost]], lock: int, function: Callable[[Host, LabHost], None]) -> None:
    """Call a function in each host, in parallel. Exit with the output of the first that failed."""
    # Files, not pipes, because daemons keep their outputs open.
    outputs = [os.memfd_create(host.name) for host, _ in hosts]

    def inside(host: Host, lab_host: LabHost, output: int) -> None:
        try:
            join(lab_host.network, Kind.NETWORK)
            # Before this line the process holds the lock and the outputs that `build` reads to their end. After it,
            # removing the lab ends the process.
            os.close(lock)
            os.dup2(output, 1)
            os.dup2(output, 2)
            join(lab_host.name, Kind.NAME)
            join(lab_host.mounts, Kind.MOUNT)
            function(host, lab_host)
        except OSError as error:
            sys.exit(str(error))

    started = [FORK.Process(target=inside, args=(*each, output)) for each, output in zip(hosts, outputs, strict=True)]
    for process in started:
        process.start()
    failed = ""
    for process, (host, _), output in zip(started, hosts, outputs, strict=True):
        process.join()
        if process.exitcode and not failed:
            text = os.pread(output, 1 << 16, 0).decode(errors="replace").strip()
            failed = f"{host.name}: {text or f'exit status {process.exitcode}'}"
        os.close(output)
    if failed:
        sys.exit(failed)


def _configure(lab: str, network: Network, host: Host, lab_host: LabHost) -> None:
    socket.sethostname(host.name)
    _mount(lab_host)
    for path, content, mode in files_of(lab, network, host):
        _write(Path(path), content, mode)
    _set_sysctls(host)
    _run(["ip", "-batch", "-"], "".join(f"{line}\n" for line in address_commands(network, host)))
    if host.role == SERVER:
        _start_web_server()


def _mount(lab_host: LabHost) -> None:
    # A copy of these mounts would keep the namespaces of other hosts alive.
    for folder in (NAMED, PINS):
        unmount_all(folder)
    _mount_run()
    mount("sysfs", "/sys", "sysfs")
    mount("pylvs-lab", lab_host.disk, "tmpfs", options="mode=755")
    for path in OWN_FOLDERS:
        own = lab_host.disk / path.strip("/").replace("/", "-")
        upper, work = own / "new", own / "work"
        for folder in (own, upper, work):
            folder.mkdir()
        mount("pylvs-lab", path, "overlay", options=f"lowerdir={path},upperdir={upper},workdir={work}")


def _mount_run() -> None:
    """Mount an empty /run, as after a boot: PID files have the same paths in all hosts and on the machine.

    Only /run/pylvs is the machine's. Its files are named by network namespace, and commands outside read them.
    """
    machine = os.open(RUN_PYLVS, os.O_PATH | os.O_DIRECTORY)
    bpffs = -1
    with contextlib.suppress(FileNotFoundError):
        bpffs = os.open(BPFFS, os.O_PATH | os.O_DIRECTORY)
    mount("pylvs-lab", RUN, "tmpfs", options="mode=755")
    # `ip addr` reports each file of /run/netns that is no namespace. /var/lock is a link to /run/lock.
    for folder in (RUN_PYLVS, NAMED, RUN / "lock"):
        os.mkdir(folder)
    mount(f"/proc/self/fd/{machine}", RUN_PYLVS, flags=MS_BIND)
    os.close(machine)
    if bpffs >= 0:
        # Moved, because no process could unmount a hidden bpffs. If it is not mounted any more, mount(2) fails.
        with contextlib.suppress(OSError):
            mount(f"/proc/self/fd/{bpffs}", BPFFS, flags=MS_MOVE)
        os.close(bpffs)


def _write(path: Path, content: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link to a file that all hosts share
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)


def _set_sysctls(host: Host) -> None:
    """Set sysctls as on a new machine, because namespaces inherit this machine's."""
    for version, names in ((4, IPV4_ZERO), (6, IPV6_ZERO)):  # without IPv6, the directory is missing
        for device in glob.glob(f"/proc/sys/net/ipv{version}/conf/*"):
            for name in names:
                Path(device, name).write_text("0")
    Path("/proc/sys/net/ipv4/ip_forward").write_text(f"{int(host.forwarding)}")
    if os.path.isdir("/proc/sys/net/ipv6"):
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text(f"{int(host.forwarding)}")


def _start_web_server() -> None:
    state = Path(WEB_STATE)
    state.mkdir(parents=True, exist_ok=True)
    Path("/var/www/html/big").touch()
    os.truncate("/var/www/html/big", BIG_FILE_BYTES)
    _run(["service", "nginx", "start"])


def _import(programs: set[str]) -> None:
    """Import our own programs once, for all hosts that run them."""
    if IPVSADM in programs:
        importlib.import_module("pylvs.dataplane.director")
    if "pylvs" in programs:
        importlib.import_module("pylvs.cli.realserver")
    for program in programs & COMMANDS.keys():
        importlib.import_module(COMMANDS[program][0])


def _run_commands(host: Host) -> None:
    """Run a host's commands. Those of ipvsadm come last, as one `ipvsadm -R`."""
    if host.follows:
        _run(["sh", "-c", until(host.follows)])
    table = []
    for line in host.commands:
        words = line.split()
        if words[0] == IPVSADM:
            table.append(line.removeprefix(f"{IPVSADM} "))
        elif words[0] in COMMANDS:
            _run_own(shlex.split(line))
        else:
            _run(["sh", "-ec", line])
    if table:
        _run_own([IPVSADM, "-R"], "".join(f"{line}\n" for line in table))


def _run(words: Sequence[str], text: str = "") -> None:
    """Run a command; exit if it fails."""
    done = subprocess.run(words, input=text, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def _run_own(words: Sequence[str], text: str = "") -> None:
    """Run one of our own commands as `files_of` installs it, without another start of Python."""
    module, function = COMMANDS[words[0]]

    def program() -> None:
        given = os.memfd_create("input")
        os.pwrite(given, text.encode(), 0)
        os.dup2(given, 0)
        sys.stdin = os.fdopen(0, encoding="utf-8")
        sys.argv = [shutil.which(words[0]) or words[0], *words[1:]]
        sys.exit(getattr(importlib.import_module(module), function)())

    process = FORK.Process(target=program)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        sys.exit(os_text(error))

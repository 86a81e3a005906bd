"""Downloads go on while the VIP moves between pylvs and the real IPVS: the guest's half of `test_failover.py`.

The argument is the first master, "pylvs" or "ipvs". keepalived runs IPVS; both have virtual routers and sync daemons.
The first master loses its link, so the other one takes over. The first one returns as its backup, and takes over again
once the other one is killed. The last line is JSON: what became of each download.

    client, direct, pylvs, ipvs --- lan          pylvs, ipvs, natted --- inside
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

DIRECTORS = "pylvs", "ipvs"
VIP, GATEWAY = "10.9.0.100", "10.9.1.254"
PORTS = {"DR": 80, "NAT": 81, "TUN": 82}
SERVERS = {"DR": "10.9.0.21", "NAT": "10.9.1.21", "TUN": "10.9.0.21"}
DOWNLOADS = 3  # of each method, at each master
# namespace -> devices with their addresses; the link of a device is its name
HOSTS = {
    "client": {"lan": "10.9.0.5"},
    "direct": {"lan": "10.9.0.21"},
    "natted": {"inside": "10.9.1.21"},
    "pylvs": {"lan": "10.9.0.11", "inside": "10.9.1.11"},
    "ipvs": {"lan": "10.9.0.12", "inside": "10.9.1.12"},
}
LINKS = "lan", "inside"
PIECE, PAUSE_S = 1024, 0.1  # what a server sends at a time: files stay small, however slow the guest is
MORE = 20 * PIECE  # that each download gets after a move before the next step
OUR_IPVSADM = Path("/tmp/ipvsadm.py")
FINISH = Path("/tmp/finish")  # servers send on until it is there
PATIENCE_S = 600.0  # the start of pylvs takes minutes in a guest of a busy machine
CHECKSUM = 64  # characters at the end of a download


def sh(text: str, where: str = "") -> str:
    words = [*(("ip", "netns", "exec", where) if where else ()), *text.split()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{where}: {text}: {done.stdout}{done.stderr}"
    return done.stdout


def build() -> None:
    """Make hosts and links."""
    for module in "ip_vs", "ip_vs_rr", "ipip", "bridge":
        sh(f"modprobe {module}")
    sh("ip netns add wire")
    for link in LINKS:
        sh(f"ip -n wire link add {link} type bridge mcast_snooping 0")
        sh(f"ip -n wire link set {link} up")
    for host, devices in HOSTS.items():
        sh(f"ip netns add {host}")
        sh(f"ip -n {host} link set lo up")
        for name in "all", "default":
            sh(f"sysctl -qw net.ipv4.conf.{name}.rp_filter=0", host)
        for device, address in devices.items():
            sh(f"ip -n wire link add {host}-{device} type veth peer name {device} netns {host}")
            sh(f"ip -n wire link set {host}-{device} master {device} up")
            sh(f"ip -n {host} address add {address}/24 dev {device}")
            sh(f"ip -n {host} link set {device} up")
    for director in DIRECTORS:
        sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0", director)
    sh(f"ip -n natted route add default via {GATEWAY}")
    sh("sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2", "direct")
    sh(f"ip -n direct address add {VIP}/32 dev lo")
    sh("ip -n direct link set tunl0 up")
    sh("sysctl -qw net.ipv4.conf.tunl0.rp_filter=0", "direct")


def configuration(name: str) -> str:
    """Return the keepalived.conf of a director. Who is master stays master."""
    services = "".join(
        f"virtual_server {VIP} {port} {{\n    lb_algo rr\n    lb_kind {method}\n    protocol TCP\n"
        f"    real_server {SERVERS[method]} {port} {{\n    }}\n}}\n"
        for method, port in PORTS.items()
    )
    return f"""\
global_defs {{
    router_id {name}
    lvs_sync_daemon lan VI_1 id 7
}}
vrrp_instance VI_1 {{
    state BACKUP
    nopreempt
    interface lan
    virtual_router_id 51
    priority {100 + DIRECTORS.index(name)}
    advert_int 1
    virtual_ipaddress {{
        {VIP}/32 dev lan
        {GATEWAY}/24 dev inside
    }}
}}
{services}"""


def start(director: str) -> None:
    """Start the program of a director."""
    file = Path(f"/tmp/{director}.conf")
    file.write_text(configuration(director))
    words = [sys.executable, "-m", "pylvs", "run", "-f", str(file)]
    if director == "ipvs":
        words = ["keepalived", "--dont-fork", "--log-console", "--no-syslog", f"--use-file={file}"]
    # Both programs would write the same files.
    for option in "-p", "-c", "-r":
        words += [option, f"/run/{director}{option}"]
    with Path(f"/tmp/{director}.log").open("wb") as log:
        subprocess.Popen(
            ["ip", "netns", "exec", director, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def holds(director: str) -> bool:
    return bool(sh(f"ip -n {director} -o address show to {VIP}"))


def runs(director: str, role: str) -> bool:
    """Return whether a director has its services, and a sync daemon of this role."""
    servers = ipvsadm(director, "-Ln").count("-> 10.9.")
    return servers == len(SERVERS) and f"{role} sync daemon" in ipvsadm(director, "-L --daemon")


def ipvsadm(director: str, words: str) -> str:
    return sh(
        f"{sys.executable} {OUR_IPVSADM} {words}" if director == "pylvs" else f"/usr/sbin/ipvsadm {words}", director
    )


def established(director: str) -> int:
    return ipvsadm(director, "-Lnc").count(" ESTABLISHED ")


def until(holds: Callable[[], bool], what: str) -> None:
    began = time.monotonic()
    while not holds():
        if time.monotonic() > began + PATIENCE_S:
            logs = [file.read_text(errors="replace")[-3000:] for file in Path("/tmp").glob("*.log")]
            tables = [ipvsadm(director, "-Lnc") for director in DIRECTORS]
            raise AssertionError("\n".join([f"not in time: {what}", *logs, *tables]))
        time.sleep(0.3)
    print(f"{time.monotonic() - began:6.1f} s: {what}", flush=True)


def set_links(director: str, state: str) -> None:
    for link in LINKS:
        sh(f"ip -n wire link set {director}-{link} {state}")


# --- downloads ---


def send(connection: socket.socket) -> None:
    """Send without an end until FINISH is there, and then the checksum of all."""
    digest, number = hashlib.sha256(), 0
    with connection:
        while b"\r\n\r\n" not in connection.recv(4096):
            pass
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        while not FINISH.exists():
            piece = hashlib.sha256(b"%d" % number).digest() * (PIECE // 32)
            digest.update(piece)
            connection.sendall(piece)
            number += 1
            time.sleep(PAUSE_S)
        connection.sendall(digest.hexdigest().encode())


def serve(host: str, ports: list[int]) -> None:
    """Run a server of downloads in a process of its own."""
    if os.fork():
        return
    with open(f"/run/netns/{host}") as where:
        assert not ctypes.CDLL(None, use_errno=True).setns(where.fileno(), 0x40000000)  # CLONE_NEWNET

    def accept(listener: socket.socket) -> None:
        while True:
            threading.Thread(target=send, args=(listener.accept()[0],)).start()

    for port in ports:
        threading.Thread(target=accept, args=(socket.create_server(("", port)),)).start()
    signal.pause()


class Downloads:
    """Downloads by curl, of all methods."""

    def __init__(self) -> None:
        self._running: dict[str, subprocess.Popen[str]] = {}

    def begin(self, master: str) -> None:
        """Begin some of each method."""
        for method, port in PORTS.items():
            for number in range(DOWNLOADS):
                name = f"{method}, begun at {master}, {number}"
                words = ["curl", "-sS", "--no-buffer", "-o", self._file(name), f"http://{VIP}:{port}/"]
                self._running[name] = subprocess.Popen(
                    ["ip", "netns", "exec", "client", *words], stderr=subprocess.PIPE, text=True
                )
        self.expect_more(master)

    def _file(self, name: str) -> str:
        return f"/tmp/{name}"

    def _size(self, name: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self._file(name)).st_size
        return 0

    def __len__(self) -> int:
        return len(self._running)

    def expect_more(self, master: str) -> None:
        """Wait until each has got more."""
        before = {name: self._size(name) for name in self._running}

        def grown() -> bool:
            assert self.running() == len(self), f"downloads that have ended: {self.finish()}"
            return all(self._size(name) >= size + MORE for name, size in before.items())

        until(grown, f"all downloads go on by {master}")

    def running(self) -> int:
        """Return how many are in flight."""
        return sum(process.poll() is None for process in self._running.values())

    def finish(self) -> dict[str, str]:
        """Let the servers come to an end; return what became of each download."""
        FINISH.touch()
        return {name: self._fate(name, process) for name, process in self._running.items()}

    def _fate(self, name: str, process: subprocess.Popen[str]) -> str:
        _, errors = process.communicate(timeout=PATIENCE_S)
        if process.returncode:
            return errors.strip()
        body = Path(self._file(name)).read_bytes()
        data, checksum = body[:-CHECKSUM], body[-CHECKSUM:].decode()
        return "whole" if data and hashlib.sha256(data).hexdigest() == checksum else "another checksum"


def play(first: str) -> dict[str, object]:
    OUR_IPVSADM.write_text("from pylvs.ipvsadm.main import ipvsadm_script; ipvsadm_script()\n")
    second = next(each for each in DIRECTORS if each != first)
    build()
    serve("direct", [PORTS["DR"], PORTS["TUN"]])
    serve("natted", [PORTS["NAT"]])
    start(first)
    until(lambda: holds(first) and runs(first, "master"), f"{first} is the master, and sends")
    start(second)
    until(lambda: runs(second, "backup"), f"{second} receives")
    downloads = Downloads()
    downloads.begin(first)
    until(lambda: established(second) == len(downloads), f"{second} has all connections")

    in_flight = [downloads.running()]
    set_links(first, "down")
    until(lambda: holds(second), f"{second} has taken over")
    downloads.expect_more(second)

    set_links(first, "up")
    until(lambda: not holds(first) and runs(first, "backup"), f"{first} is the backup")
    until(lambda: runs(second, "master"), f"{second} sends")
    downloads.begin(second)
    until(lambda: established(first) == len(downloads), f"{first} has all connections")

    in_flight.append(downloads.running())
    set_links(second, "down")
    for pid in sh(f"ip netns pids {second}").split():
        os.kill(int(pid), signal.SIGKILL)
    until(lambda: holds(first), f"{first} has taken over")
    downloads.expect_more(first)
    return {"in_flight": in_flight, "downloads": downloads.finish()}


if __name__ == "__main__":
    print(json.dumps(play(sys.argv[1])))

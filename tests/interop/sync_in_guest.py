"""A master and a backup, of which one is the real IPVS: the guest's half of `test_sync.py`.

The arguments are the master, "pylvs" or "ipvs", and the number of connections of each kind. It prints what both list,
and how many packets the backup forwards after it has taken over, as JSON.

    wire --- w0 / d0 --- master --- s0 / s0 --- backup --- d0 / w1 --- wire
"""

from __future__ import annotations

import ctypes
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "oracle"))

from frames import ethernet, ip, tcp, udp

WIRE, MASTER, BACKUP = "wire", "master", "backup"
DEVICES = {MASTER: "w0", BACKUP: "w1"}  # of the wire
GATEWAY_MAC, DIRECTOR_MAC = "02:00:00:00:00:fe", "02:00:00:00:00:01"
VIP4, VIP6 = "10.9.1.1", "fd09:1::1"
SERVERS4, SERVERS6 = ("10.9.0.11", "10.9.0.12"), ("fd09::11", "fd09::12")
# Kinds of connections: protocol, virtual address and port, method, options of the service.
KINDS = {
    "DR": ("tcp", VIP4, 80, "-g", ""),
    "NAT": ("tcp", VIP4, 81, "-m", ""),
    "TUN": ("tcp", VIP4, 82, "-i", ""),
    "UDP": ("udp", VIP4, 53, "-g", ""),
    "persistent": ("tcp", VIP4, 84, "-g", "-p 300"),
    "IPv6": ("tcp", VIP6, 80, "-g", ""),
}
PROGRAMS = {
    "ipvs": ["/usr/sbin/ipvsadm"],
    "pylvs": [sys.executable, "-c", "from pylvs.ipvsadm.main import ipvsadm_script; ipvsadm_script()"],
}
PACKETS = ("S", "A", "A")  # the third one is sent, by the default of sync_threshold
PATIENCE_S = 120.0  # the machine may be busy; a message waits for 2 s at most
PAUSE_S = 1.0  # a listing costs more than what it waits for
AT_ONCE = 100  # frames without a pause: the queue of a device holds 1,000
UDP_PROTOCOL, TCP_PROTOCOL = 17, 6


def sh(text: str) -> str:
    done = subprocess.run(text.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}: {done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Enter a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as before, open(f"/run/netns/{name}") as there:
        assert not libc.setns(there.fileno(), 0x40000000)  # CLONE_NEWNET
        try:
            yield
        finally:
            assert not libc.setns(before.fileno(), 0x40000000)


def build() -> None:
    """Make the namespaces and their links."""
    for module in "ip_vs", "ip_vs_rr":
        sh(f"modprobe {module}")
    for name in WIRE, MASTER, BACKUP:
        sh(f"ip netns add {name}")
    sh(f"ip link add s0 netns {MASTER} type veth peer name s0 netns {BACKUP}")
    for number, (name, device) in enumerate(DEVICES.items(), 1):
        peer = f"peer name {device} address {GATEWAY_MAC} netns {WIRE}"
        sh(f"ip link add d0 address {DIRECTOR_MAC} netns {name} type veth {peer}")
        for line in (
            "link set lo up",
            f"address add 10.8.0.{number}/24 dev s0",
            "link set s0 up",
            "address add 10.9.0.1/24 dev d0",
            "address add fd09::1/64 dev d0 nodad",
            "link set d0 up",
            f"address add {VIP4}/32 dev lo",
            f"address add {VIP6}/128 dev lo nodad preferred_lft 0",
            "route add default via 10.9.0.254",
            *(f"neighbour add {server} lladdr {GATEWAY_MAC} dev d0" for server in (*SERVERS4, *SERVERS6, "10.9.0.254")),
        ):
            sh(f"ip -n {name} {line}")
        sh(f"ip -n {WIRE} link set {device} up")
        with inside(name):
            for setting in "ipv4/ip_forward", "ipv6/conf/all/forwarding":
                Path(f"/proc/sys/net/{setting}").write_text("1")
            for where in "all", "d0", "default":
                Path(f"/proc/sys/net/ipv4/conf/{where}/rp_filter").write_text("0")


def ipvsadm(name: str, kind: str, words: str, lines: str = "") -> str:
    """Run the ipvsadm of a director."""
    with inside(name):
        done = subprocess.run(
            [*PROGRAMS[kind], *words.split()], input=lines, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, f"{name}: {kind}: ipvsadm {words}: {done.stdout}{done.stderr}"
    return done.stdout


def rules() -> Iterator[str]:
    """Yield the services of both directors."""
    for protocol, vip, port, method, options in KINDS.values():
        key = f"{'-u' if protocol == 'udp' else '-t'} {f'[{vip}]' if ':' in vip else vip}:{port}"
        yield f"-A {key} -s rr {options}"
        for server in SERVERS6 if ":" in vip else SERVERS4:
            yield f"-a {key} -r {f'[{server}]' if ':' in server else server}:{port} {method}"


def client_of(number: int, vip: str) -> tuple[str, int]:
    """Return the address and port of a client."""
    host = number % 250 + 1
    return (f"fd77::{host:x}" if ":" in vip else f"172.20.0.{host}"), 10000 + number // 250


def frame(number: int, kind: str, flags: str) -> bytes:
    protocol, vip, port, _, _ = KINDS[kind]
    client, source = client_of(number, vip)
    if protocol == "udp":
        packet = ip(client, vip, UDP_PROTOCOL, udp(client, vip, source, port, b"x"))
    else:
        packet = ip(client, vip, TCP_PROTOCOL, tcp(client, vip, source, port, flags))
    return ethernet(DIRECTOR_MAC, GATEWAY_MAC, packet)


def send(name: str, count: int, flags: tuple[str, ...]) -> int:
    """Send packets of all connections to a director; return how many it sent back, which is where servers are."""
    with inside(WIRE):
        end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        end.bind((DEVICES[name], 0))
        end.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
    end.setblocking(False)
    forwarded = sent = 0

    def receive() -> None:
        nonlocal forwarded
        while True:
            try:
                data, address = end.recvfrom(2048)
            except BlockingIOError:
                return
            # from the director, to a server
            forwarded += (
                address[2] != 4 and data[:6].hex(":") == GATEWAY_MAC and data[12:14] in (b"\x08\0", b"\x86\xdd")
            )

    for flag in flags:
        for kind in KINDS:
            for number in range(count):
                end.send(frame(number, kind, flag))
                sent += 1
                if not sent % AT_ONCE:
                    time.sleep(0.02)
                    receive()
    patience = time.monotonic() + PATIENCE_S
    while forwarded < sent and time.monotonic() < patience:
        time.sleep(0.02)
        receive()
    end.close()
    return forwarded


def listed(name: str, kind: str) -> list[str]:
    """Return the connections, without the time that they have left."""
    lines = ipvsadm(name, kind, "-Lnc").splitlines()[2:]
    rows = (line.split() for line in lines)
    return sorted(" ".join((row[0], *row[2:])) for row in rows)


def settled(name: str, kind: str, wanted: list[str]) -> list[str]:
    """Return the connections when they are those that are wanted, or when the patience ends."""
    patience = time.monotonic() + PATIENCE_S
    while (found := listed(name, kind)) != wanted and time.monotonic() < patience:
        time.sleep(PAUSE_S)
    return found


def play(master: str, count: int) -> dict[str, object]:
    kinds = {MASTER: master, BACKUP: "ipvs" if master == "pylvs" else "pylvs"}
    build()
    for name, kind in kinds.items():
        ipvsadm(name, kind, "-R", "".join(f"{rule}\n" for rule in rules()))
        ipvsadm(name, kind, f"--start-daemon {name} --mcast-interface s0 --syncid 7")
    print(ipvsadm(MASTER, kinds[MASTER], "-L --daemon"), ipvsadm(BACKUP, kinds[BACKUP], "-L --daemon"), flush=True)
    forwarded = send(MASTER, count, PACKETS)
    here = listed(MASTER, kinds[MASTER])
    there = settled(BACKUP, kinds[BACKUP], here)
    for name, kind in kinds.items():
        print(name, kind, dict(Counter(" ".join(row.split()[:2]) for row in listed(name, kind))), flush=True)
    missing, surplus = set(here) - set(there), set(there) - set(here)
    result: dict[str, object] = {
        "connections": len(here),
        "equal": len(set(here) & set(there)),
        "missing": sorted(missing)[:5],
        "surplus": sorted(surplus)[:5],
        "forwarded_by_master": forwarded,
    }
    ipvsadm(BACKUP, kinds[BACKUP], "--stop-daemon backup")
    sh(f"ip -n {MASTER} link set d0 down")  # the master is lost
    result["forwarded_by_backup"] = send(BACKUP, count, ("A",))
    print(ipvsadm(BACKUP, kinds[BACKUP], "-Ln"))
    if kinds[MASTER] == "pylvs":
        ipvsadm(MASTER, "pylvs", "--stop-daemon master")
    return result


if __name__ == "__main__":
    print(json.dumps(play(sys.argv[1], int(sys.argv[2]))))

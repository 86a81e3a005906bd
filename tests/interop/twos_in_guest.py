"""Let the real IPVS choose servers by twos: the guest's half of `test_twos`.

The argument is JSON: for each site, weight and connections of each server. It prints how often each was chosen. It uses
only the standard library, because imports take long here.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from itertools import count

VIP, FIRST_PORT = "10.9.1.1", 5300
CLIENT_PORTS = count(20000)
PACKETS = 2000
PATIENCE_S = 60.0
IPVSADM = "/usr/sbin/ipvsadm"  # the original one


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def ipvsadm(words: str) -> str:
    return subprocess.run([IPVSADM, *words.split()], check=True, capture_output=True, text=True).stdout


def address(number: int) -> str:
    return f"10.9.2.{number}"


def send(port: int, packets: int = 1) -> None:
    """Send so many packets from a port of its own, whose connection the table keeps."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        end.bind((VIP, next(CLIENT_PORTS)))
        for _ in range(packets):
            end.sendto(b"?", (VIP, port))


def chosen(port: int, site: list[list[int]]) -> dict[str, int]:
    """Return how often each server was chosen, after each got its connections."""
    service = f"-u {VIP}:{port}"
    ipvsadm(f"-A {service} -s rr")
    servers = [address(number) for number in range(1, len(site) + 1)]
    for server in servers:
        ipvsadm(f"-a {service} -r {server} -g -w 0")
    for server, (_, connections) in zip(servers, site, strict=True):
        ipvsadm(f"-e {service} -r {server} -g -w 1")
        for _ in range(connections):
            send(port)
        ipvsadm(f"-e {service} -r {server} -g -w 0")
    for server, (weight, _) in zip(servers, site, strict=True):
        ipvsadm(f"-e {service} -r {server} -g -w {weight}")
    rows = [line.split() for line in ipvsadm(f"-Ln {service}").splitlines() if line.startswith("  -> 10.")]
    listed = {row[1].partition(":")[0]: [int(row[3]), int(row[4]), int(row[5])] for row in rows}
    wanted = {server: [weight, 0, there] for server, (weight, there) in zip(servers, site, strict=True)}
    assert listed == wanted, listed
    before = counted(service, sum(connections for _, connections in site))
    ipvsadm(f"-E {service} -s twos -o")
    send(port, PACKETS)
    after = counted(service, sum(before.values()) + PACKETS)
    return {server: after[server] - before[server] for server in servers}


def counted(service: str, total: int) -> dict[str, int]:
    """Return how many connections each server ever had; the kernel shows counts two seconds late."""
    end = time.monotonic() + PATIENCE_S
    while True:
        rows = [line.split() for line in ipvsadm(f"-Ln {service} --stats --exact").splitlines() if "-> 10." in line]
        found = {row[1].partition(":")[0]: int(row[2]) for row in rows}
        if sum(found.values()) == total or time.monotonic() > end:
            return found
        time.sleep(0.2)


def main() -> None:
    subprocess.run(["modprobe", "ip_vs_twos"], check=True)
    ip("link", "set", "lo", "up")
    ip("link", "add", "servers", "type", "dummy")
    ip("link", "set", "servers", "up")
    ip("addr", "add", "10.9.2.254/24", "dev", "servers")
    ip("addr", "add", f"{VIP}/32", "dev", "lo")
    for number in range(1, 9):
        ip("neigh", "add", address(number), "lladdr", f"02:00:00:00:00:0{number}", "dev", "servers")
    print(json.dumps([chosen(port, site) for port, site in enumerate(json.loads(sys.argv[1]), FIRST_PORT)]))


if __name__ == "__main__":
    main()

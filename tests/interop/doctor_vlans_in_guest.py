"""The doctor's exam with VLAN devices: the guest's half of `test_doctor_vlans`, for kernels that have them.

The doctor runs in a fork of this process, because a start of the interpreter takes long on an emulated processor. It
prints a line for each lab or fault that is judged right, and stops with an AssertionError at the first that is not.
Arguments are words of the faults to play.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pylvs.cli.main import run as cli
from pylvs.lab.lab import Lab, build, take_down
from pylvs.lab.topologies import design
from pylvs.system.namespaces import Kind, join

DIRECTOR, HOSTS = "director", ("client", "director", "rs1", "rs2")
LIMIT_S = "300"  # of an examination: the processor is emulated, and the machine may be busy
# Moves the addresses of a device, and the default route, to a VLAN device on it.
MOVE = (
    "gateway=$(ip route show default dev {dev} | cut -d' ' -f3);"
    " ip link add link {dev} name {dev}.{vid} type vlan id {vid}; ip link set {dev}.{vid} up;"
    " ip -o -4 address show dev {dev} | while read -r n d f address rest; do"
    ' ip address del "$address" dev {dev}; ip address add "$address" dev {dev}.{vid}; done;'
    ' [ -z "$gateway" ] || ip route replace default via "$gateway" dev {dev}.{vid}'
)
RS1_IN = "ip link del {old} 2>/dev/null; ip address flush dev eth0; {make} ip address add 10.0.0.21/24 dev {new}"
MAKE = "ip link add link eth0 name eth0.{vid} type vlan id {vid}; ip link set eth0.{vid} up;"
IN_10 = RS1_IN.format(old="eth0.11", make=MAKE.format(vid=10), new="eth0.10")
IN_11 = RS1_IN.format(old="eth0.10", make=MAKE.format(vid=11), new="eth0.11")
REQUESTS = (
    "setsid sh -c 'while :; do curl -s -o /dev/null --max-time 2 http://VIP/; done' >/dev/null 2>&1 & echo $! >/run/r"
)
MOVED = "; ".join(
    f"ip address {verb} {{{address}}} dev {{{device}}}"
    for verb, device in (("del", "old"), ("add", "new"))
    for address in ("dip", "vip")
)
ADDRESSES = {"dip": "10.0.0.10/24", "vip": "10.0.0.100/32"}


@dataclass(frozen=True)
class Fault:
    """A fault to plant: scripts by host, the id of the only finding, words of it, and scripts that mend it.

    Without `cure` the finding's own command mends it. `wire` runs where the switches are.
    """

    name: str
    plant: Sequence[tuple[str, str]]
    cause: str
    words: Sequence[str]
    cure: Sequence[tuple[str, str]] = ()


FAULTS = [
    Fault("attached to the parent alone", [(DIRECTOR, "pylvs detach eth0.10")], "device_detached", ["eth0.10"]),
    Fault("the parent is down", [(DIRECTOR, "ip link set eth0 down")], "link_down", ["eth0 is down", "eth0.10"]),
    Fault(
        "the port of a switch does not take the tag as well",
        [("wire", "ip link set rs1-0 mtu 1492")],  # without a tag, it takes 4 octets more
        "path_mtu",
        ["1496", "VLAN 10", "10.0.0.21"],
        [("wire", "ip link set rs1-0 mtu 1500")],
    ),
    Fault(
        "a real server is in a VLAN that is unknown here",
        [("rs1", IN_11)],
        "neighbour_silent",
        ["10.0.0.21", "VLAN 10"],
        [("rs1", IN_10)],
    ),
    Fault(
        "a real server is in another VLAN of the director",
        [("rs1", IN_11), (DIRECTOR, f"{MAKE.format(vid=11)} ip address add 10.0.11.10/24 dev eth0.11")],
        "neighbour_elsewhere",
        ["10.0.0.21", "eth0.11 (VLAN 11)", "eth0.10 (VLAN 10)"],
        [("rs1", IN_10), (DIRECTOR, "ip link del eth0.11")],
    ),
    Fault(
        "a real server is not in a VLAN",
        [("rs1", RS1_IN.format(old="eth0.10", make="", new="eth0"))],
        "neighbour_elsewhere",
        ["10.0.0.21 answers on eth0,"],
        [("rs1", IN_10)],
    ),
    Fault(
        "the addresses of the director are in another VLAN",
        [
            (DIRECTOR, MAKE.format(vid=20) + MOVED.format(**ADDRESSES, old="eth0.10", new="eth0.20")),
            (DIRECTOR, "ipvsadm --set 0 0 0"),  # an edit, which attaches the device
        ],
        "neighbour_elsewhere",
        ["the real servers answer on eth0.10", "eth0.20"],
        [(DIRECTOR, MOVED.format(**ADDRESSES, old="eth0.20", new="eth0.10") + "; ip link del eth0.20")],
    ),
    Fault(
        "the reverse path filter, across VLANs",
        [
            (DIRECTOR, f"{MAKE.format(vid=20)} ip route add 10.0.0.5/32 dev eth0.20"),
            (DIRECTOR, "sysctl -qw net.ipv4.conf.eth0/10.rp_filter=1; ipvsadm --set 0 0 0"),
        ],
        "director_rp_filter",
        ["eth0.10", "10.0.0.5"],
        [(DIRECTOR, "sysctl -qw net.ipv4.conf.eth0/10.rp_filter=0; ip link del eth0.20; ipvsadm --set 0 0 0")],
    ),
    Fault(
        "the director is in the wrong VLAN",
        [
            (DIRECTOR, MAKE.format(vid=11) + MOVED.format(**ADDRESSES, old="eth0.10", new="eth0.11")),
            (DIRECTOR, "ip link del eth0.10; ipvsadm --set 0 0 0"),
            ("client", f"ip neigh flush all; {REQUESTS}"),
        ],
        "vlan_without_device",
        ["10.0.0.100", "VLAN 10 of eth0", "eth0.11 (VLAN 11)"],
        [
            ("client", "kill -- -$(cat /run/r)"),
            (DIRECTOR, MAKE.format(vid=10) + MOVED.format(**ADDRESSES, old="eth0.11", new="eth0.10")),
            (DIRECTOR, "ip link del eth0.11; ipvsadm --set 0 0 0"),
        ],
    ),
]


@contextlib.contextmanager
def built(topology: str) -> Iterator[Lab]:
    """Yield a healthy lab with two real servers, and remove it."""
    try:
        yield build("vlans", design(topology, 2))
    finally:
        take_down("vlans")


def inside(lab: Lab, host: str, *words: str) -> str:
    """Return what a command of pylvs prints in a host of the lab, run by a fork of this process."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        out = io.StringIO()
        try:
            there = lab.host(host)
            join(there.network, Kind.NETWORK)
            join(there.name, Kind.NAME)
            join(there.mounts, Kind.MOUNT)
            with contextlib.redirect_stdout(out):
                cli(words)
        except BaseException:
            traceback.print_exc()
        finally:
            with os.fdopen(writing, "w") as pipe:
                pipe.write(out.getvalue())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text


def diagnosed(lab: Lab, host: str = DIRECTOR) -> list[dict[str, Any]]:
    """Return the findings of the doctor on a host."""
    found = json.loads(inside(lab, host, "doctor", "--json", "--limit", LIMIT_S))["findings"]
    assert isinstance(found, list)
    return found


def play(lab: Lab, scripts: Sequence[tuple[str, str]]) -> None:
    """Run scripts in hosts of a lab, or where its switches are."""
    for host, script in scripts:
        if host == "wire":
            subprocess.run(["nsenter", f"--net={lab.wire}", "sh", "-c", script], check=True)
        else:
            lab.sh(host, script)


def healthy(lab: Lab, *hosts: str) -> None:
    """Assert that both real servers answer, and that the doctor finds nothing."""
    seen = lab.sh("client", "for n in 1 2; do curl -s --max-time 60 http://VIP/; done").splitlines()
    assert sorted(seen) == ["This is rs1 server!", "This is rs2 server!"], seen
    for host in hosts:
        found = diagnosed(lab, host)
        assert found == [], (host, [(each["title"], each["evidence"]) for each in found])


def judge(lab: Lab, fault: Fault) -> None:
    """Plant a fault, assert that its cause comes first, and mend it."""
    play(lab, fault.plant)
    found = diagnosed(lab)
    seen = [(each["id"], each["title"], each["evidence"]) for each in found]
    assert found, f"{fault.name}: the doctor found nothing"
    assert found[0]["id"] == fault.cause, (fault.name, seen)
    for word in fault.words:
        assert word in " ".join(map(str, found[0].values())), (fault.name, word, seen)
    assert len(found) == 1, (fault.name, seen)
    play(lab, fault.cure or [(DIRECTOR, found[0]["fix_command"])])
    healthy(lab)
    print(fault.name, flush=True)


def main() -> None:
    """Judge healthy labs and faults of direct routing in one VLAN, then NAT with real servers in a VLAN."""
    with built("dr") as lab:
        for host in HOSTS:
            lab.sh(host, MOVE.format(dev="eth0", vid=10))
        lab.sh(DIRECTOR, "ipvsadm --set 0 0 0")  # an edit, which attaches the device
        healthy(lab, DIRECTOR, "rs1")
        print("direct routing in a VLAN", flush=True)
        for fault in FAULTS:
            if all(word in fault.name for word in sys.argv[1:]):
                judge(lab, fault)
        lab.sh(DIRECTOR, "pylvs attach eth0 --mode generic")
        healthy(lab, DIRECTOR)
        print("with XDP on the parent", flush=True)
    with built("nat") as lab:
        for host, device in ("rs1", "eth0"), ("rs2", "eth0"), (DIRECTOR, "eth1"):
            lab.sh(host, MOVE.format(dev=device, vid=20))
        lab.sh(DIRECTOR, "ipvsadm --set 0 0 0")
        healthy(lab, DIRECTOR)
        print("NAT to servers in a VLAN", flush=True)


if __name__ == "__main__":
    main()

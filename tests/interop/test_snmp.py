"""snmpwalk of pylvs beside snmpwalk of the real keepalived, through the real snmpd, with the same configuration."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop import keepalived
from tests.interop.namespaces import on_four_devices
from tests.waiting import PATIENCE_S, until

REASON = keepalived.why_not() or ("" if shutil.which("snmpd", path="/usr/sbin:/usr/bin") else "snmpd is not installed")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

KEEPALIVED = ".1.3.6.1.4.1.9586.100.5"
RFC_V2, RFC_V3 = ".1.3.6.1.2.1.68", ".1.3.6.1.2.1.207"
AGENT = "127.0.0.1:16161"
OTHER = {
    f"{KEEPALIVED}.1.1.0": "the version",
    f"{RFC_V2}.1.3.1.7.3.51": "the master's address, which keepalived knows in BACKUP alone",
    f"{KEEPALIVED}.2.6.1.11.2.1": "keepalived shows the addresses of all but the first instance as not advertised",
}
CONFIGURATION = """
global_defs {
    router_id R1
    script_user root
    snmp_socket unix:FOLDER/agentx
    enable_snmp_vrrp
    enable_snmp_rfc
    enable_traps
    notification_email { a@example.com b@example.com }
    notification_email_from k@example.com
    smtp_server 127.0.0.1 2525
    smtp_connect_timeout 7
    smtp_alert_vrrp no
    vrrp_garp_master_delay 2
}
vrrp_script good {
    script "/usr/bin/true"
    interval 1
    timeout 60
    weight 10
    rise 2
}
vrrp_script bad {
    script "/usr/bin/sh -c 'exit 1'"
    interval 3
    weight -20 reverse
    fall 3
    init_fail
}
track_file load {
    file FOLDER/load
    weight 2
}
vrrp_track_process shell {
    process sleep 100000
    weight 5
    quorum 2
    quorum_max 9
    fork_delay 0.5
    terminate_delay 0.25
}
static_ipaddress {
    192.0.2.77/24 brd 192.0.2.255 dev eth2 scope link label eth2:x
}
static_routes {
    198.51.100.0/24 dev eth2 metric 7 table 100
    blackhole 198.51.101.0/24 no_track
}
vrrp_sync_group G1 {
    group { VI_1 VI_2 }
    track_script { good }
    sync_group_tracking_weight
    notify_master "/usr/bin/true a b"
    smtp_alert
}
vrrp_instance VI_1 {
    interface eth0
    virtual_router_id 51
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass secret
    }
    notify "/usr/bin/true every"
    notify_deleted
    preempt_delay 3
    virtual_ipaddress {
        192.0.2.1/24
        192.0.2.2 dev eth1
    }
    virtual_ipaddress_excluded {
        2001:db8::5/64
    }
    virtual_routes {
        203.0.113.0/24 via 192.0.2.9 dev eth0 src 192.0.2.1
    }
    track_interface {
        eth3 weight 3
    }
    track_script { bad }
    track_file { load weight 1 }
    track_process { shell }
}
vrrp_instance VI_2 {
    interface eth1
    virtual_router_id 52
    priority 120
    version 3
    advert_int 0.5
    nopreempt
    no_accept
    mcast_dst_ip 224.0.0.99
    virtual_ipaddress {
        192.0.2.3/32 peer 192.0.2.9
    }
}
"""
SNMPD = """
rocommunity public
agentAddress udp:AGENT
master agentx
agentXTimeout 120
agentXSocket unix:FOLDER/agentx
"""


@contextlib.contextmanager
def started(*command: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program within the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | environment, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE_S)


def walk(root: str = KEEPALIVED) -> dict[str, str]:
    """Return the objects below `root`, by identifier, with type and value."""
    done = subprocess.run(
        ["snmpwalk", "-v2c", "-c", "public", "-On", "-t", "10", AGENT, root],
        capture_output=True,
        text=True,
        env=os.environ | {"MIBS": ""},
    )
    lines = (line.partition(" = ") for line in done.stdout.splitlines() if " = " in line)
    return {name: value for name, _, value in lines if not value.startswith("No ")}


def walk_all() -> dict[str, str]:
    """Return the objects of all MIBs; of times only that they are there."""
    found = walk() | walk(RFC_V2) | walk(RFC_V3)
    return {name: "Timeticks" if value.startswith("Timeticks") else value for name, value in found.items()}


def masters(objects: dict[str, str]) -> int:
    """Return the number of virtual routers that are master."""
    return sum(name.startswith(f"{KEEPALIVED}.2.3.1.4.") and value == "INTEGER: 2" for name, value in objects.items())


def settled() -> dict[str, str]:
    """Return the objects of a walk after both virtual routers are master, with first results of tracked objects.

    In the walk that finds them, objects in front of them may be older.
    """

    def ready() -> bool:
        found = walk_all()
        wanted = {f"{KEEPALIVED}.2.1.1.3.1": "INTEGER: 2", f"{KEEPALIVED}.2.9.1.6.1": "INTEGER: 3"}
        return masters(found) == 2 and all(found.get(name) == value for name, value in wanted.items())

    until(ready)
    return walk_all()


@contextlib.contextmanager
def snmpd(folder: Path, *more: str) -> Iterator[None]:
    """Run snmpd in this network namespace, with more lines in its configuration."""
    configuration = folder / "snmpd.conf"
    text = SNMPD.replace("FOLDER", str(folder)).replace("AGENT", AGENT)
    configuration.write_text("\n".join((text, *more, "")))
    command = ["/usr/sbin/snmpd", "-f", "-Lo", "-C", "-c", str(configuration), "-p", str(folder / "snmpd.pid")]
    with started(*command, log=folder / "snmpd.log", SNMP_PERSISTENT_DIR=str(folder), MIBS=""):
        until((folder / "agentx").exists)
        yield


@contextlib.contextmanager
def pylvs(folder: Path, file: Path) -> Iterator[None]:
    """Run a daemon with virtual routers and the sub-agent."""
    state = folder / "state"
    state.mkdir()
    command = (sys.executable, "-m", "pylvs", "run", "-f", str(file), "--state-dir", str(state))
    with started(*command, log=folder / "pylvs.log"):
        until(walk)
        yield


def test_the_mib_has_the_same_objects_types_and_values_as_keepalived_s(tmp_path: Path) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text(CONFIGURATION.replace("FOLDER", str(tmp_path)))
    (tmp_path / "load").write_text("3\n")
    with on_four_devices():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        with snmpd(tmp_path):
            with keepalived.running(file, "-D", lambda _: True, PATIENCE_S):
                theirs = settled()
            until(lambda: not walk())
            with pylvs(tmp_path, file):
                ours = settled()
    assert len(theirs) > 150
    different = {
        name: (theirs.get(name), ours.get(name))
        for name in theirs.keys() | ours.keys()
        if theirs.get(name) != ours.get(name) and name not in OTHER
    }
    assert different == {}, "\n".join(f"{name}: {values}" for name, values in sorted(different.items()))


def test_a_transition_of_an_instance_and_of_its_group_sends_a_trap_as_keepalived_does(tmp_path: Path) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text(CONFIGURATION.replace("FOLDER", str(tmp_path)))
    (tmp_path / "load").write_text("3\n")
    with on_four_devices(), snmpd(tmp_path, "trap2sink 127.0.0.1:16162 public"), trap_receiver() as receiver:
        set_links("down")
        with keepalived.running(file, "-D", lambda _: True, PATIENCE_S) as log:
            until(walk)  # a trap before it has a session would be lost
            set_links("up")
            theirs = received(receiver, log)
        until(lambda: not walk())
        drain(receiver)
        set_links("down")
        with pylvs(tmp_path, file):
            set_links("up")
            ours = received(receiver, tmp_path / "pylvs.log")
    assert theirs == ours


def set_links(state: str) -> None:
    """Set the devices of both virtual routers up or down."""
    for device in "eth0", "eth1":
        subprocess.run(["ip", "link", "set", device, state], check=True)


def trap_receiver() -> socket.socket:
    """Return the socket to which snmpd sends traps."""
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.bind(("127.0.0.1", 16162))
    end.settimeout(PATIENCE_S)
    return end


def drain(receiver: socket.socket) -> None:
    """Discard the traps of the end of the former program."""
    receiver.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while receiver.recv(1 << 16):
            pass
    receiver.settimeout(PATIENCE_S)


def received(receiver: socket.socket, log: Path) -> list[bytes]:
    """Return the traps of the take-over, sorted, without the request's number and the time.

    Two instances and their group are master; VRRP-MIB has one of the instances, VRRPV3-MIB both.
    """
    found: list[bytes] = []
    while len(found) < 6:
        try:
            trap = receiver.recv(1 << 16)
        except TimeoutError:
            pytest.fail(f"{len(found)} of 6 traps came; the log:\n{log.read_text()}")
        body = trap[trap.index(TRAP_OID) :] if TRAP_OID in trap else b""
        if MASTER in body or any(name in body for name in NEW_MASTER):
            found.append(body)
    return sorted(found)


# In BER: snmpTrapOID.0, and the integer 2 (master) behind the state of an instance or a group.
TRAP_OID = bytes.fromhex("060a2b060106030101040100")
MASTER = bytes.fromhex("020102")
# The names of the traps of VRRP-MIB and VRRPV3-MIB about a new master.
NEW_MASTER = bytes.fromhex("06082b06010201440001"), bytes.fromhex("06092b06010201814f0001")

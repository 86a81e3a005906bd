"""Two directors with `peer_director`: connections survive a take-over and the return, and both are compared."""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from typing import Any

from pylvs.lab.demo import LongConnections
from pylvs.lab.lab import Lab, power_off, power_on
from tests.lab.conftest import MakeLab
from tests.lab.test_ha import holds
from tests.waiting import until

KEY = "/etc/keepalived/peer.key"
FILE = "/etc/keepalived/keepalived.conf"
DIRECTORS = ("director1", "director2")


def write(lab: Lab, host: str, path: str, text: str, mode: str = ">") -> None:
    """Write a file of a host, readable for root alone."""
    assert lab.run(host, ["sh", "-c", f"umask 077; cat {mode}{path}"], text=text).returncode == 0


def address(lab: Lab, host: str) -> str:
    """Return the address of a director's own."""
    found = json.loads(lab.sh(host, "ip -j -4 addr show dev eth0"))[0]["addr_info"]
    return str(next(each["local"] for each in found if each["local"] != str(lab.network.vip)))


def pair(make_lab: MakeLab, more: str = "") -> Lab:
    """Make two directors that copy connections from each other."""
    lab = make_lab("ha")
    until(lambda: not holds(lab, "director2"), "director2 gave way")
    lab.sh("director1", f"pylvs peer key {KEY}")
    write(lab, "director2", KEY, lab.sh("director1", f"cat {KEY}"))
    for host, other in (DIRECTORS, DIRECTORS[::-1]):
        words = f"global_defs {{\n peer_director {address(lab, other)}\n peer_key_file {KEY}\n {more}\n}}\n"
        write(lab, host, FILE, words, ">>")
        lab.sh(host, "pylvs reload")
    for host in DIRECTORS:
        until(partial(is_current, lab, host), f"{host} has the connections of the other one")
    return lab


def peer(lab: Lab, host: str) -> dict[str, Any]:
    """Return what a director knows of the other one."""
    found: dict[str, Any] = json.loads(lab.sh(host, "pylvs peer status --json"))
    return found


def is_current(lab: Lab, host: str) -> bool:
    """Return whether a director holds all connections of the other one, and knows its configuration."""
    found = peer(lab, host)
    return bool(found["complete"] and found["age_s"] is not None and found["compared"]) and (
        found["held"] == found["records"]
    )


PRIVILEGES = """\
for process in /proc/[0-9]*; do
    [ "$(cat $process/comm 2>/dev/null)" = pylvs-peer ] || continue
    [ "$(readlink $process/ns/net)" = "$(readlink /proc/self/ns/net)" ] || continue
    ls $process/root/
    grep -E '^(Uid|CapEff|NoNewPrivs|Seccomp):' $process/status
done
"""


def test_the_process_that_reads_the_network_has_no_privileges(make_lab: MakeLab) -> None:
    lab = pair(make_lab)
    found = dict(line.split(":\t", 1) for line in lab.sh("director1", PRIVILEGES).splitlines())
    assert found.keys() == {"Uid", "CapEff", "NoNewPrivs", "Seccomp"}, "its root is empty"
    assert "0" not in found["Uid"].split()
    assert (int(found["CapEff"], 16), found["NoNewPrivs"], found["Seccomp"]) == (0, "1", "2")


def test_a_take_over_and_the_return_of_the_master_keep_connections(make_lab: MakeLab) -> None:
    lab = pair(make_lab)
    with closing(LongConnections(lab)) as connections:
        assert connections.ask() == ["kept"] * 3
        until(lambda: peer(lab, "director2")["records"] >= 3, "director2 has them")
        power_off(lab, "director1")
        until(lambda: holds(lab, "director2"), "director2 has taken over")
        assert connections.ask() == ["kept"] * 3
        power_on(lab, "director1")
        lab.sh("director1", "service pylvs start")
        until(lambda: holds(lab, "director1") and not holds(lab, "director2"), "director1 is back")
        assert connections.ask() == ["kept"] * 3
    log = lab.sh("director1", "cat /var/log/pylvs.log")
    assert "waits until connections of the other director are here" in log
    assert "peer_wait is over" not in log


def test_the_master_returns_without_a_peer_when_the_wait_is_over(make_lab: MakeLab) -> None:
    lab = pair(make_lab, "peer_wait 2")
    power_off(lab, "director1")
    until(lambda: holds(lab, "director2"), "director2 has taken over")
    power_on(lab, "director1")
    write(lab, "director1", KEY, "no key\n")
    lab.sh("director1", "service pylvs start")
    until(lambda: holds(lab, "director1") and not holds(lab, "director2"), "director1 is back")
    assert "peer_wait is over: it takes over without all" in lab.sh("director1", "cat /var/log/pylvs.log")
    until(lambda: f"connections are not copied: peer_key_file {KEY}: " in lab.sh("director1", "pylvs status"), "status")


def test_what_differs_is_named_on_both(make_lab: MakeLab) -> None:
    lab = pair(make_lab)
    for host in DIRECTORS:
        assert "services, servers and checks are the same" in lab.sh(host, "pylvs status")
    lab.sh("director2", rf"sed -i '0,/real_server .*\.21 80 {{/s//real_server 10.0.0.29 80 {{/' {FILE}; pylvs reload")

    def texts(host: str) -> set[str]:
        problems = json.loads(lab.sh(host, "pylvs status --json"))["problems"]
        return {f"{each['object']}: {each['text']}" for each in problems if each["kind"] == "peer_differs"}

    def names(host: str, wanted: set[str]) -> bool:
        return texts(host) >= wanted

    only = {True: "only this director has it", False: "only the other director has it"}
    for host, here in (("director1", True), ("director2", False)):
        wanted = {
            f"10.0.0.{number}:80 of 10.0.0.100:80 tcp: {only[here is first]}"
            for number, first in ((21, True), (29, False))
        }
        until(partial(names, host, wanted), f"{host} names the servers")
    assert "pylvs_peer_differences 2" in lab.sh("director1", "pylvs metrics")
    assert "copied" in lab.sh("director2", "pylvs peer copy")

"""`pylvs doctor` beside a daemon: servers that its checks took out, its file, and a daemon that does not run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pylvs.lab.files import CONFIGURATION, DIRECTOR_STATE
from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import Fault, built, diagnosed, examine

TEXT = """virtual_server 10.0.0.100 80 {
    delay_loop 1
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 10.0.0.21 80 {
        TCP_CHECK {
        }
    }
    real_server 10.0.0.22 80 {
        TCP_CHECK {
        }
    }
}
"""
HEALTHY = "/run/healthy.conf"
IS_DOWN = "until pylvs status | grep -q '10.0.0.22:80  *down'; do sleep 0.1; done"
ARE_UP = "until [ $(pylvs status | grep -c ':80  *up') = 2 ]; do sleep 0.1; done"
RESTORED = f"cp {HEALTHY} {CONFIGURATION}; pylvs reload; {ARE_UP}"
PROCESS = f"$(cat {DIRECTOR_STATE}/pylvs.pid)"
KILLED = f"kill -KILL {PROCESS}; while service pylvs status; do sleep 0.1; done"


def written(edit: str, line: str = "") -> str:
    """Return a script that edits the file, in the block of the second server if there is a line for its check."""
    edit = edit or f"/10.0.0.22/,/^}}/ s/TCP_CHECK {{/&\\n            {line}/"
    return f"sed -i '{edit}' {CONFIGURATION}"


FAULTS = [
    Fault(
        name="a server has stopped",
        host="rs2",
        script="service nginx stop",
        noticed=IS_DOWN,
        cause="not_listening",
        words=("10.0.0.22:80", "Connection refused"),
        cure="service nginx start",
        settled=ARE_UP,
    ),
    Fault(
        name="a check of another port",
        host="director",
        script=f"{written('', 'connect_port 81')}; pylvs reload; {IS_DOWN}",
        cause="check_disagrees",
        words=("10.0.0.22:80", "accepted"),
        cure=RESTORED,
    ),
    Fault(
        name="a check of another server",
        host="director",
        script=f"{written('', 'connect_ip 10.0.0.21')}; pylvs reload",
        cause="check_elsewhere",
        words=("10.0.0.22:80", "connects to 10.0.0.21"),
        cure=RESTORED,
    ),
    Fault(
        name="an edit that was not reloaded",
        host="director",
        script=written("s/lb_algo rr/lb_algo wlc/"),
        cause="file_not_loaded",
        words=("wlc",),
        rest=RESTORED,
    ),
    Fault(
        name="an edit with an error",
        host="director",
        script=written("s/lb_algo rr/lb_algo roundrobin/"),
        cause="file_refused",
        words=("roundrobin", CONFIGURATION),
        cure=RESTORED,
    ),
    Fault(
        name="checks from the virtual address",
        host="director",
        script="ip route replace 10.0.0.0/24 dev eth0 src 10.0.0.100; "
        "until pylvs status | grep -q '10.0.0.21:80  *down'; do sleep 0.1; done",
        cause="source_is_virtual",
        words=("10.0.0.21", "src 10.0.0.10"),
        cure="ip route replace 10.0.0.0/24 dev eth0 src 10.0.0.10",
        settled=ARE_UP,
    ),
    Fault(
        name="all servers are disabled",
        host="director",
        script="pylvs disable 10.0.0.21; pylvs disable 10.0.0.22",
        cause="servers_taken_out",
        words=("all servers",),
    ),
    Fault(
        name="a server is disabled",
        host="director",
        script="pylvs disable 10.0.0.21",
        cause="servers_taken_out",
        words=("10.0.0.21:80",),
    ),
    Fault(
        name="a stopped daemon",
        host="director",
        script=f"kill -STOP {PROCESS}",
        cause="daemon_hangs",
        words=("stopped by a signal",),
    ),
    Fault(
        name="a killed daemon",
        host="director",
        script=KILLED,
        cause="daemon_ended",
        words=("TCP 10.0.0.100:80",),
    ),
    Fault(
        name="a daemon that was not started",
        host="director",
        script="service pylvs stop",
        cause="services_missing",
        words=(CONFIGURATION, "TCP 10.0.0.100:80"),
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a healthy lab whose director runs a daemon."""
    with built() as made:
        made.sh("director", f"mkdir -p /etc/keepalived; cat >{CONFIGURATION} <<end\n{TEXT}end")
        made.sh("director", f"cp {CONFIGURATION} {HEALTHY}; service pylvs start; {ARE_UP}")
        yield made


def test_a_healthy_daemon_has_no_finding(lab: Lab) -> None:
    """All of its servers are up."""
    assert diagnosed(lab) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)


ALL_DOWN = "until [ $(pylvs status | grep -c ':80  *down') = 2 ]; do sleep 0.1; done"


def found_without_servers(lab: Lab, script: str = ":", undo: str = ":") -> list[tuple[str, str]]:
    """Return severity and id of what the doctor finds after both servers have stopped; scripts run on the director."""
    for host in "rs1", "rs2":
        lab.sh(host, "service nginx stop")
    lab.sh("director", f"{ALL_DOWN}; {script}")
    found = diagnosed(lab)
    lab.sh("director", undo)
    for host in "rs1", "rs2":
        lab.sh(host, "service nginx start")
    lab.sh("director", ARE_UP)
    return [(each["severity"], each["id"]) for each in found]


@pytest.mark.parametrize("line", ["", "inhibit_on_failure"])
def test_servers_that_failed_are_the_cause_of_a_service_without_one(lab: Lab, line: str) -> None:
    """Neither the lost quorum nor the empty service is a finding beside them, nor their weight of 0."""
    edit = f"s/TCP_CHECK {{/{line}\\n        &/" if line else ""
    lab.sh("director", f"{written(edit)}; pylvs reload" if line else ":")
    listed = "ipvsadm -Ln | grep -q '10.0.0.21:80 *Route *0 '" if line else ":"
    assert found_without_servers(lab, listed) == [("error", "not_listening")] * 2
    lab.sh("director", RESTORED)


@pytest.mark.parametrize(
    ("script", "undo", "cause"),
    [
        (f"kill -STOP {PROCESS}", f"kill -CONT {PROCESS}", "daemon_hangs"),
        (
            f"kill -KILL {PROCESS}; while service pylvs status; do sleep 0.1; done",
            "service pylvs start",
            "daemon_ended",
        ),
    ],
)
def test_a_daemon_that_does_not_return_servers_is_the_cause(lab: Lab, script: str, undo: str, cause: str) -> None:
    """It has removed them, and does not see that they work again."""
    assert found_without_servers(lab, script, undo) == [("error", cause)]


def test_a_sorry_server_that_serves_leaves_a_warning(lab: Lab) -> None:
    """Clients get answers, from another server."""
    lab.sh("director", f"{written('/real_server 10.0.0.22/,/^    }/d; s/lb_kind DR/&; sorry_server 10.0.0.22 80/')}")
    lab.sh("director", f"sed -i 's/; sorry/\\n    sorry/' {CONFIGURATION}; pylvs reload")
    lab.sh("rs1", "service nginx stop")
    lab.sh("director", "until ipvsadm -Ln | grep -q 10.0.0.22; do sleep 0.1; done")
    (found,) = diagnosed(lab)
    lab.sh("rs1", "service nginx start")
    lab.sh("director", RESTORED)
    assert (found["severity"], found["id"]) == ("warning", "not_listening")
    assert found["why"] == "The sorry server serves all clients."

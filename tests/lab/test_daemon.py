"""`pylvs run` under traffic: failed servers leave and return, and reloads and kills break no connection.

seeds/keepalived is a tutorial's keepalived.conf, as printed.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.daemons import daemon, traffic
from tests.lab.support import answers
from tests.lab.tutorial import KEEPALIVED, machines
from tests.waiting import PATIENCE_S, until

EVERYTHING = bool(os.environ.get("PYLVS_TESTS_EVERYTHING"))
RELOADS, SERVERS = (500, 1000) if EVERYTHING else (40, 200)
PER_SERVICE = 20  # of those that have no traffic

CHECKED = """
virtual_server VIP 80 {
    delay_loop 1
    lb_algo rr
    lb_kind DR
    protocol TCP
    connect_timeout 30
    delay_before_retry 1
    real_server RS1 80 {
        TCP_CHECK {
        }
    }
    real_server RS2 80 {
        TCP_CHECK {
        }
    }
    real_server RS3 80 {
        TCP_CHECK {
        }
    }
}
"""


def web_lab(make_lab: MakeLab) -> tuple[Lab, str]:
    """Make a lab without a table, and return CHECKED for its addresses."""
    lab = make_lab("dr", 3)
    lab.sh("director", "ipvsadm -C")
    text = CHECKED.replace("VIP", lab.network.vip)
    for number, host in enumerate(lab.network.role("realserver"), 1):
        text = text.replace(f"RS{number}", host.interfaces[0].addresses[0].partition("/")[0])
    return lab, text


def test_the_tutorials_configuration(make_lab: MakeLab, tmp_path: Path) -> None:
    """A web server that stops leaves the table, no request fails afterwards, and it returns when it runs again."""
    lab = machines(make_lab)
    both = {"192.168.67.129:80", "192.168.67.130:80"}
    with daemon(lab, tmp_path, KEEPALIVED.read_text()) as running:
        listing = running.listing()
        assert "TCP  192.168.67.100:80 wlc persistent 60" in listing
        for server in both:
            assert f"  -> {server:<28} Route   100    0          0         " in listing
        until(lambda: lab.sh("director", "ip -o addr show to 192.168.67.100"), "its virtual router holds the VIP")
        (mine,) = set(answers(lab, 3, url="http://192.168.67.100/"))
        host, other = ("rs1", "rs2") if mine == "This is rs1 server!" else ("rs2", "rs1")
        address = {"rs1": "192.168.67.129:80", "rs2": "192.168.67.130:80"}
        lab.sh(host, "service nginx stop")
        until(lambda: running.servers() == {address[other]}, f"{host} has left the table")
        assert set(answers(lab, 20, url="http://192.168.67.100/")) == {f"This is {other} server!"}
        lab.sh(host, "service nginx start </dev/null >/dev/null 2>&1")
        until(lambda: running.servers() == both, f"{host} is back in the table")
        assert running.stop() == 0
        assert running.servers() == set()
        assert lab.sh("director", "ip -o addr show to 192.168.67.100") == ""
        assert len(re.findall("warning: server down", running.log())) == 1
        assert len(re.findall("info: server up", running.log())) == 1


@pytest.mark.timeout(7200 if EVERYTHING else 300)
def test_reloads_under_traffic_touch_only_what_changed(make_lab: MakeLab, tmp_path: Path) -> None:
    """Each reload changes one server of many. Every connection survives, and each reload is one edit."""
    lab, text = web_lab(make_lab)
    weights = [1] * (SERVERS - 3)

    def configuration() -> str:
        services = []
        for first in range(0, len(weights), PER_SERVICE):
            servers = [
                f"    real_server 10.0.{200 + n // 250}.{n % 250 + 1} 80 {{ weight {weight} }}"
                for n, weight in enumerate(weights[first : first + PER_SERVICE], first)
            ]
            head = f"virtual_server {lab.network.vip} {1000 + first} {{"
            services.append("\n".join([head, "lb_algo wlc", "lb_kind NAT", "protocol TCP", *servers, "}"]))
        return "\n".join([text, *services])

    with daemon(lab, tmp_path, configuration()) as running:
        assert len(running.servers()) == SERVERS
        with traffic(lab, lab.network.vip) as seen:
            before = running.edition()
            edits = 0
            for number in range(RELOADS):
                weights[number * 7 % len(weights)] += 1
                running.configuration.write_text(configuration())
                status, body = running.client.ask("POST", "/v1/reload")
                assert (status, body["findings"]) == (200, [])
                assert body["differences"]
                edits += body["table"]["edits"]
            written = running.edition() - before
        print(
            f"{RELOADS} reloads, each of one server of {SERVERS}: {edits} edits, {written} generations of the tables;"
        )
        print(f"{seen.asked} requests while it restarted, {len(seen.wrong)} went wrong")
        assert seen.wrong == ()
        assert seen.servers == 3
        assert seen.asked > 0
        assert edits == written == RELOADS


def test_a_killed_daemon_breaks_no_connection_and_the_next_one_knows_which_servers_are_down(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    lab, text = web_lab(make_lab)
    lab.sh("rs3", "service nginx stop")
    with daemon(lab, tmp_path, text) as running:
        until(lambda: len(running.servers()) == 2, "rs3 has left the table")
        up, edition = running.servers(), running.edition()
        with traffic(lab, lab.network.vip) as seen:
            for _ in range(3):
                assert running.stop(signal.SIGKILL) == -signal.SIGKILL
                assert running.servers() == up
                running.start()
                assert running.servers() == up
            assert running.edition() == edition, "nothing was written, so no server was in or out for a moment"
            lab.sh("rs3", "service nginx start </dev/null >/dev/null 2>&1")
            until(lambda: len(running.servers()) == 3, "rs3 is in the table")
        assert seen.wrong == ()
        assert seen.asked > 0


def test_a_daemon_that_hangs_makes_no_edit_later(make_lab: MakeLab, tmp_path: Path) -> None:
    lab, text = web_lab(make_lab)
    with daemon(lab, tmp_path, text) as running:
        until(lambda: len(running.servers()) == 3, "all servers are in the table")
        listing, process = running.listing(), running.client.state.daemon_pid()
        assert running.process is not None
        running.process.send_signal(signal.SIGSTOP)
        try:
            command = f"pylvs drain {min(running.servers())} --state-dir {tmp_path}/state"
            failure = lab.sh("director", f"{command} 2>&1 || echo status $?")
            text = f"pylvs run, process {process}, did not reply within 5 s: it hangs, or is very busy"
            assert failure == f"pylvs: {text}; nothing is changed\nstatus 1\n"
        finally:
            running.process.send_signal(signal.SIGCONT)
        until(lambda: running.client.ask("GET", "/v1/drains") == (200, {"drains": []}), "it replies again")
        assert running.listing() == listing


def test_a_restart_by_the_unit_file_breaks_no_connection(make_lab: MakeLab, tmp_path: Path, repository: Path) -> None:
    unit = (repository / "packaging/pylvs.service").read_text()
    start, stop = (re.findall(rf"^{name}=\S+ (.*)", unit, re.MULTILINE)[0] for name in ("ExecStart", "ExecStop"))
    words = start.removeprefix("run").replace("-f /etc/keepalived/keepalived.conf", "").split()
    stop = stop.replace("%n", "pylvs.service")
    systemctl = tmp_path / "systemctl"
    systemctl.write_text("#!/bin/sh\necho 7 pylvs.service restart running\n")
    systemctl.chmod(0o755)
    lab, text = web_lab(make_lab)
    with daemon(lab, tmp_path, text, *words) as running:
        with traffic(lab, lab.network.vip) as seen:
            for _ in range(3):
                lab.sh("director", f"PATH={tmp_path}:$PATH pylvs {stop} --state-dir {tmp_path}/state")
                assert running.process is not None
                assert running.process.wait(PATIENCE_S) == 0
                running.start()
        assert seen.wrong == ()
        assert seen.asked > 0
        assert len(running.servers()) == 3


def test_foreign_edits_of_the_table_are_undone(make_lab: MakeLab, tmp_path: Path) -> None:
    lab, text = web_lab(make_lab)
    with daemon(lab, tmp_path, text) as running:
        there = running.servers()
        assert len(there) == 3
        lab.sh("director", f"ipvsadm -A -u {lab.network.vip}:53; ipvsadm -d -t {lab.network.vip}:80 -r {min(there)}")
        until(lambda: running.servers() == there, "the server is back")
        restored = f"restored: TCP {lab.network.vip}:80 -> {min(there)} was removed"
        until(lambda: restored in running.log(), "which the log has a moment later")
        assert f"UDP  {lab.network.vip}:53 wlc" in running.listing()
        lab.sh("director", "pylvs down --force")
        until(lambda: running.servers() == there, "the table is made again")
        until(lambda: "the tables were removed (pylvs down?)" in running.log(), "which the log has, too")
        until(lambda: len(set(answers(lab, 6))) == 3, "the devices are attached a moment later")


def test_a_program_that_another_tool_removes_is_restored(make_lab: MakeLab, tmp_path: Path) -> None:
    """A shaping script removes clsact; then another tool's ingress qdisc occupies the hook until it is removed."""
    lab, text = web_lab(make_lab)
    url = f"http://{lab.network.vip}/"
    device = lab.sh("director", f"ip -o addr show to {lab.network.vip}").split()[1]
    with daemon(lab, tmp_path, text) as running:
        until(lambda: len(running.servers()) == 3, "all servers are in the table")
        assert answers(lab, 3, url=url)
        lab.sh("director", f"tc qdisc del dev {device} clsact")
        until(lambda: f"{device}: tc" in lab.sh("director", "pylvs show"), "the program is back")
        assert answers(lab, 3, url=url)
        attached = f"warning: {device}: its program was removed, and is attached again"
        until(lambda: attached in running.log(), "which the log has, too")
        lab.sh(
            "director",
            f"tc qdisc del dev {device} clsact; while ! tc qdisc add dev {device} ingress; do"
            f" tc qdisc del dev {device} clsact; done",
        )
        refused = f"{device} is not attached: an ingress qdisc of another program"
        until(lambda: refused in running.log(), "the log says what is in the way")
        assert refused in lab.sh("director", f"pylvs status --state-dir {running.folder / 'state'}")
        lab.sh("director", f"tc qdisc del dev {device} ingress")
        until(lambda: f"{device}: tc" in lab.sh("director", "pylvs show"), "the program is back")
        assert answers(lab, 3, url=url)
        assert running.stop() == 0


def test_direct_routing_continues_after_the_director_stops_being_a_router(make_lab: MakeLab, tmp_path: Path) -> None:
    """The kernel copies ip_forward=0 to lo, whose forwarding the packet path needs."""
    lab, text = web_lab(make_lab)
    lab.sh("director", "sysctl -qw net.ipv4.ip_forward=1")
    with daemon(lab, tmp_path, text) as running:
        until(lambda: len(running.servers()) == 3, "all servers are in the table")
        lab.sh("director", "sysctl -qw net.ipv4.ip_forward=0")
        until(lambda: "net.ipv4.conf.lo.forwarding was 0" in running.log(), "the daemon has restored it")
        assert lab.sh("director", "sysctl -n net.ipv4.ip_forward net.ipv4.conf.lo.forwarding") == "0\n1\n"
        assert answers(lab, 3, url=f"http://{lab.network.vip}/")


def test_an_address_that_comes_later_is_served_at_once(make_lab: MakeLab, tmp_path: Path) -> None:
    lab, text = web_lab(make_lab)
    vip = lab.network.vip
    address, device = (
        lab.sh("director", f"ip -o addr show to {vip}").split()[3],
        lab.network.hosts[1].interfaces[0].device,
    )
    lab.sh("director", f"ip addr del {address} dev {device}")
    with daemon(lab, tmp_path, text):
        assert lab.run("client", ["curl", "-s", "--max-time", "1", f"http://{vip}/"]).returncode != 0
        lab.sh("director", f"ip addr add {address} dev {device}")
        until(lambda: lab.run("client", ["curl", "-s", "--max-time", "2", f"http://{vip}/"]).returncode == 0, "served")
        assert len(set(answers(lab, 6))) == 3


def test_a_second_daemon_of_the_same_namespace_is_refused_in_one_line(make_lab: MakeLab, tmp_path: Path) -> None:
    lab, text = web_lab(make_lab)
    with daemon(lab, tmp_path, text) as running:
        assert running.process is not None
        again = ["pylvs", "run", "-f", str(running.configuration), "--state-dir", str(tmp_path / "state")]
        done = lab.run("director", again)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("pylvs: pylvs run is there already, process ")
        assert len(done.stderr.splitlines()) == 1
        assert len(running.servers()) == 3

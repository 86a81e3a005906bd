"""Scripts and mail about servers and quorums: keepalived's arguments, its order, and an unprivileged user."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pylvs.lab.hosts import environment
from tests.lab.conftest import MakeLab
from tests.lab.daemons import daemon
from tests.waiting import until

# A mail server that writes messages to a file.
SINK = """
import socket, sys
server = socket.create_server(("127.0.0.1", 2525))
print("ready", flush=True)
while True:
    peer = server.accept()[0]
    with peer, peer.makefile("rw", newline="\\r\\n") as session, open(sys.argv[1], "a") as received:
        print("220 sink", file=session, flush=True)
        data = False
        for line in session:
            received.write(line.rstrip() + "\\n")
            received.flush()
            if data and line.rstrip() != ".":
                continue
            data = line.startswith("DATA")
            print("354 go on" if data else "250 ok", file=session, flush=True)
            if line.startswith("QUIT"):
                break
"""
TELLER = """#!/bin/sh
echo "$(id -un)" "$@" >>RECEIVED
"""
CONFIGURATION = """
global_defs {
    router_id LVS_LAB
    script_user daemon
    enable_script_security
    smtp_server 127.0.0.1 2525
    notification_email {
        admin@example.com
    }
    notification_email_from lvs@example.com
}
virtual_server VIP 80 {
    delay_loop 1
    lb_algo rr
    lb_kind DR
    protocol TCP
    omega
    smtp_alert on
    quorum_up "TELLER 'quorum up' $HOME"
    quorum_down "TELLER quorum down" nobody
    real_server RIP 80 {
        notify_up "TELLER server up"
        notify_down "TELLER server down"
        smtp_alert on
        TCP_CHECK {
            connect_timeout 30
            retry 1
            delay_before_retry 1
            warmup 0
        }
    }
}
"""


def test_events_run_scripts_and_send_mail(make_lab: MakeLab, tmp_path: Path, public_path: Path) -> None:
    lab = make_lab("dr", 1)
    lab.sh("director", "ipvsadm -C")
    calls, mail, teller = public_path / "received", tmp_path / "mail", public_path / "teller"
    calls.touch()
    calls.chmod(0o666)
    mail.touch()
    teller.write_text(TELLER.replace("RECEIVED", str(calls)))
    teller.chmod(0o755)
    text = CONFIGURATION.replace("TELLER", str(teller)).replace("VIP", lab.network.vip)
    sink = subprocess.Popen(
        [*lab.host("director").inside(), sys.executable, "-c", SINK, str(mail)],
        stdout=subprocess.PIPE,
        env=environment() | {"PATH": os.environ["PATH"]},
    )
    try:
        assert sink.stdout is not None
        assert sink.stdout.readline() == b"ready\n"
        with daemon(lab, tmp_path, text.replace("RIP", lab.network.names()["rs1"])) as running:

            def state() -> str:
                return f"{calls.read_text()}{mail.read_text()}{running.log()}"

            until(lambda: calls.read_text() == "daemon quorum up $HOME\n", lambda: f"the quorum is up: {state()}")
            lab.sh("rs1", "service nginx stop")
            until(lambda: len(calls.read_text().splitlines()) == 3, lambda: f"the server is down: {state()}")
            lab.sh("rs1", "service nginx start")
            until(lambda: len(calls.read_text().splitlines()) == 5, lambda: f"the server is up: {state()}")
            until(lambda: mail.read_text().count("QUIT") == 5, lambda: f"all mails: {state()}")
            assert running.stop() == 0
        server, virtual = f"[{lab.network.names()['rs1']}]:tcp:80", f"[{lab.network.vip}]:tcp:80"
    finally:
        sink.kill()
        sink.communicate()
    lines = calls.read_text().splitlines()
    assert lines[0] == "daemon quorum up $HOME"
    assert set(lines[1:3]) == {"daemon server down", "nobody quorum down"}
    assert set(lines[3:5]) == {"daemon server up", "daemon quorum up $HOME"}
    assert set(lines[5:]) == {"daemon server down", "nobody quorum down"}, "omega"
    subjects = [line.partition("] ")[2] for line in mail.read_text().splitlines() if line.startswith("Subject: ")]
    about_server, about_quorum = f"Realserver {server} of virtual server {virtual}", f"Virtualserver {virtual}"
    assert subjects == [
        f"{about_quorum} - UP",
        f"{about_server} - DOWN",
        f"{about_quorum} - DOWN",
        f"{about_server} - UP",
        f"{about_quorum} - UP",
    ]
    assert "RCPT TO:<admin@example.com>" in mail.read_text()

"""A real server that is up for its check, but does not reply to clients: `pylvs status` names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.lab.conftest import MakeLab
from tests.lab.daemons import Daemon, daemon
from tests.lab.support import pylvs
from tests.lab.test_daemon import web_lab
from tests.waiting import until

ONE_REQUEST = "curl -s --connect-timeout 1 http://VIP/ || true"


def servers(running: Daemon) -> dict[str, dict[str, Any]]:
    """Return the servers of the daemon's only service, by their addresses."""
    _, reply = running.client.ask("GET", "/v1/status")
    (service,) = reply["services"]
    return {each["server"].partition(":")[0]: each for each in service["servers"]}


def named(running: Daemon) -> list[str]:
    """Return the objects of problems with handshakes."""
    _, reply = running.client.ask("GET", "/v1/status")
    return [each["object"] for each in reply["problems"] if each["kind"] == "handshakes"]


def test_a_server_without_the_vip_is_named_and_a_healthy_one_is_not(make_lab: MakeLab, tmp_path: Path) -> None:
    """Its check connects to its own address, so it counts as up."""
    lab, text = web_lab(make_lab)
    first = lab.network.role("realserver")[0].interfaces[0].addresses[0].partition("/")[0]
    with daemon(lab, tmp_path, text) as running:

        def is_known() -> bool:
            lab.sh("client", "curl -s --max-time 60 http://VIP/")
            return all(each["handshakes"]["begun"] >= 8 for each in servers(running).values())

        until(is_known, lambda: str(servers(running)))
        found = [each["handshakes"] for each in servers(running).values()]
        assert all(each["completed"] == each["begun"] for each in found)
        assert named(running) == []

        lab.sh("rs1", f"ip address del {lab.network.vip}/32 dev lo")

        def is_named() -> bool:
            lab.sh("client", ONE_REQUEST)
            return bool(named(running))

        until(is_named, lambda: str(servers(running)))
        assert [each.partition(" ")[0] for each in named(running)] == [f"{first}:80"]
        server = servers(running)[first]
        assert server["up"]
        assert server["handshakes"]["low"].startswith("completes ")
        status = pylvs("status", "--state-dir", str(tmp_path / "state")).stdout
        (line,) = (each for each in status.splitlines() if each.startswith(f"  {first}:80  up"))
        assert " handshakes, others " in line  # on a busy machine a client may give up at another server, too
        metrics = pylvs("metrics", "--state-dir", str(tmp_path / "state")).stdout.splitlines()
        (service,) = running.client.ask("GET", "/v1/services")[1]["services"]
        labels = f'server="{first}:80",service="{service["name"]}"'
        assert f"pylvs_server_handshakes_low{{{labels}}} 1.0" in metrics
        assert 'pylvs_problems{kind="handshakes",severity="warning"} 1.0' in metrics
        assert "warning: handshakes low" in running.log()

        lab.sh("rs1", f"ip address add {lab.network.vip}/32 dev lo")

        def is_over() -> bool:
            lab.sh("client", ONE_REQUEST)
            return not named(running)

        until(is_over, lambda: str(servers(running)))
        _, reply = running.client.ask("GET", f"/v1/history?server={first}")
        events = [each["event"] for each in reply["events"]]
        assert [each for each in events if "handshakes" in each] == ["handshakes_low", "handshakes_low_ended"]

"""LOAD_CHECK reads the load of real servers: a busy one gets a lower weight, and its weight back when it is idle."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.daemons import Daemon, daemon
from tests.lab.support import answers
from tests.waiting import until

SERVER = """
    real_server RIP 80 {
        weight 40
        TCP_CHECK {
            connect_timeout 30
        }
        LOAD_CHECK {
            connect_port 80
            delay_loop 1
            smoothing 0
        }
    }
"""
SERVICE = """
virtual_server VIP 80 {
    lb_algo wrr
    lb_kind DR
    protocol TCP
    delay_loop 2
    warmup 0
    SERVERS
}
"""


def be_busy(lab: Lab, host: str, share: float, cores: int = 4) -> None:
    """Write the host's page of metrics like node_exporter."""
    lines = [f"node_load1 {share * cores}"]
    lines += [f'node_cpu_seconds_total{{cpu="{cpu}",mode="idle"}} 100' for cpu in range(cores)]
    page = "\\n".join(lines)
    lab.sh(host, f"printf '{page}\\n' >/var/www/html/metrics.new; mv /var/www/html/metrics.new /var/www/html/metrics")


def weights(running: Daemon) -> list[int]:
    """Return the weights in the table, in order."""
    rows = [line.split() for line in running.listing() if line.startswith("  -> ") and "Remote" not in line]
    return [int(row[3]) for row in sorted(rows, key=lambda row: row[1])]


def test_load_on_one_server_lowers_its_share_and_it_returns(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab("dr", 2)
    lab.sh("director", "ipvsadm -C")
    names = lab.network.names()
    for host in ("rs1", "rs2"):
        be_busy(lab, host, 0.0)
    servers = "".join(SERVER.replace("RIP", names[host]) for host in ("rs1", "rs2"))
    with daemon(lab, tmp_path, SERVICE.replace("SERVERS", servers).replace("VIP", lab.network.vip)) as running:
        until(lambda: weights(running) == [40, 40], "both have their configured weight")
        assert Counter(answers(lab, 8)) == {"This is rs1 server!": 4, "This is rs2 server!": 4}
        be_busy(lab, "rs1", 0.75)
        until(lambda: weights(running) == [10, 40], "the busy one has a quarter")
        assert Counter(answers(lab, 10)) == {"This is rs1 server!": 2, "This is rs2 server!": 8}
        be_busy(lab, "rs1", 3.0)
        until(lambda: weights(running) == [4, 40], "the floor is left")
        lab.sh("rs2", "rm /var/www/html/metrics")
        be_busy(lab, "rs1", 0.0)
        until(lambda: weights(running) == [40, 40], "the load has gone")
        assert "load 0.75: weight 10" in running.log()
        assert "server down" not in running.log()

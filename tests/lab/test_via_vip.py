"""Checks through the virtual address find a real server that does not accept it, which direct checks cannot.

As on a VRRP backup, the director also runs these checks while it does not have the address.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pylvs.lab.lab import Lab
from pylvs.model.service import FIRST_PROBE_MARK, PROBE_MARK_MASK
from tests.lab.conftest import MakeLab
from tests.lab.daemons import Daemon, daemon
from tests.lab.support import answers, shared_evenly
from tests.waiting import until

KINDS = {"-g": "DR", "-i": "TUN"}
RULE = f"fwmark {FIRST_PROBE_MARK:#x}/{PROBE_MARK_MASK:#x}"

# The checks of port 80 go through the virtual address, those of port 81 to the same servers directly.
SERVICES = """
virtual_server VIP 80 {
    delay_loop 1
    lb_algo rr
    lb_kind KIND
    protocol TCP
    SERVERS
}
virtual_server VIP 81 {
    delay_loop 1
    lb_algo rr
    lb_kind KIND
    protocol TCP
    DIRECT
}
"""
THROUGH = """
    real_server RIP 80 {
        HTTP_GET {
            url {
                path /
                status_code 200
            }
            connect_timeout 3
            retry 0
            warmup 0
            via_vip
        }
    }
"""
DIRECT = """
    real_server RIP 81 {
        TCP_CHECK {
            connect_port 80
            connect_timeout 3
            retry 0
            warmup 0
        }
    }
"""


def configuration(lab: Lab) -> str:
    """Return the configuration for the lab's addresses."""
    names, servers = lab.network.names(), [host.name for host in lab.network.role("realserver")]
    return (
        SERVICES.replace("SERVERS", "".join(THROUGH.replace("RIP", names[server]) for server in servers))
        .replace("DIRECT", "".join(DIRECT.replace("RIP", names[server]) for server in servers))
        .replace("VIP", lab.network.vip)
        .replace("KIND", KINDS[lab.network.method])
    )


def by_port(running: Daemon) -> dict[str, set[str]]:
    """Return the servers of each service by its port, as names."""
    names = {address: name for name, address in running.lab.network.names().items()}
    found: dict[str, set[str]] = {}
    for line in running.listing():
        words = line.split()
        if words and words[0] == "TCP":
            servers = found[words[1].rpartition(":")[2]] = set()
        elif words[:1] == ["->"] and words[1] != "RemoteAddress:Port":
            servers.add(names[words[1].rpartition(":")[0].strip("[]")])
    return found


def vip_of(lab: Lab, host: str) -> tuple[str, str]:
    """Return the virtual address with its prefix, and the device of a host that has it."""
    words = lab.sh(host, f"ip -o addr show to {lab.network.vip}").split()
    return words[3], words[1]


def put(lab: Lab, host: str, where: tuple[str, str]) -> None:
    """Add the virtual address again; that of IPv6 not as a source address of the host."""
    more = "nodad preferred_lft 0" if lab.network.version == 6 else ""
    lab.sh(host, f"ip addr add {where[0]} dev {where[1]} {more}")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("topology", ["dr", "tun"])
def test_a_server_that_does_not_accept_the_virtual_address_is_found(
    topology: str, version: int, make_lab: MakeLab, tmp_path: Path
) -> None:
    lab = make_lab(topology, 3, version)
    lab.sh("director", "ipvsadm -C")
    all_servers, others = {"rs1", "rs2", "rs3"}, {"rs1", "rs3"}
    at_rs2, at_director = vip_of(lab, "rs2"), vip_of(lab, "director")
    lab.sh("director", f"ip addr del {at_director[0]} dev {at_director[1]}")
    put(lab, "director", at_director)  # otherwise it would be the source of IPv6's direct checks
    with daemon(lab, tmp_path, configuration(lab)) as running:
        until(lambda: by_port(running) == {"80": all_servers, "81": all_servers}, "all servers are in")
        for here in (True, False):
            if not here:  # now like a backup
                lab.sh("director", f"ip addr del {at_director[0]} dev {at_director[1]}")
            lab.sh("rs2", f"ip addr del {at_rs2[0]} dev {at_rs2[1]}")
            until(lambda: by_port(running) == {"80": others, "81": all_servers}, "rs2 is out where it is checked so")
            put(lab, "rs2", at_rs2)
            until(lambda: by_port(running) == {"80": all_servers, "81": all_servers}, "rs2 is back")
        put(lab, "director", at_director)
        assert f"through {lab.network.vip}: " in running.log()

        def serves_evenly() -> bool:
            """Return whether all servers are in, and share the requests; a check that is late takes one out."""
            everywhere = {"80": all_servers, "81": all_servers}
            return by_port(running) == everywhere and shared_evenly(answers(lab, 6), 3)

        until(serves_evenly, "clients' connections are counted by themselves")
        assert not [line for line in running.listing() if line.startswith("FWM")]
        rules = "ip rule show" if version == 4 else "ip -6 rule show"
        assert RULE in lab.sh("director", rules)
        device = lab.network.role("director")[0].interfaces[0].device
        setting = f"/proc/sys/net/ipv4/conf/{device}/accept_local"
        assert lab.sh("director", f"cat {setting}").strip() == ("1" if version == 4 else "0")
        assert running.stop() == 0
        assert RULE not in lab.sh("director", rules)
        assert lab.sh("director", f"cat {setting}").strip() == "0"
        assert lab.sh("director", "pylvs show --json | grep -c FWM || true").strip() == "0"

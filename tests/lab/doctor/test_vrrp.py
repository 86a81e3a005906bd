"""`pylvs doctor` where two directors do not agree on who is master, or one cannot be."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator

import pytest

from pylvs.lab.files import CONFIGURATION
from pylvs.lab.lab import Lab
from tests.lab.doctor.exam import Fault, built, diagnosed, examine


def until(state: str) -> str:
    """Return a script that waits until the only virtual router of a host has a state."""
    return f"until pylvs vrrp status | grep -q '^VI_1  {state}'; do sleep 0.1; done"


def written(edit: str) -> str:
    """Return a script that edits the file and reloads it."""
    return f"cp {CONFIGURATION} /run/healthy.conf; sed -i '{edit}' {CONFIGURATION}; pylvs reload"


# A master reports another one until that one has not advertised for as long as makes a master dead.
ALONE = "while pylvs status --json | grep -q 'holds the addresses as well'; do sleep 0.1; done"
RESTORED = f"cp /run/healthy.conf {CONFIGURATION}; pylvs reload; {until('BACKUP')}"
QUICK = r"/authentication/,/}/d; s/advert_int 1/advert_int 0.1\n    version 3/"
# Advertises VRID 51 for another address, as a router of another group does.
CLASH = f"""setsid {shlex.quote(sys.executable)} -c '
import sys, time

from ipaddress import ip_address
import socket
from pylvs.vrrp.protocol.adverts import Advertisement, encode
end = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
end.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
own, group = ip_address("10.0.0.5"), ip_address("224.0.0.18")
end.bind((str(own), 0))
advert = Advertisement(3, 51, 20, 0.1, (ip_address("10.0.0.200"),))
while True:
    end.sendto(encode(advert, own, group), (str(group), 0))
    time.sleep(0.1)
' >/dev/null 2>&1 & echo $! >/run/clash"""
CHAIN = "add table ip filter; add chain ip filter in { type filter hook input priority 0; }"
INPUT = f"nft '{CHAIN}; add rule ip filter in ip protocol 112 drop'"
OUTPUT = INPUT.replace("input", "output")
TRACKED = r"s/advert_int/track_interface {\n        spare\n    }\n    advert_int/"
SPARE = "ip link add spare up type veth peer name other; ip link set other up"
SCRIPTED = r"""s/advert_int/track_script {\n        ready\n    }\n    advert_int/
1i vrrp_script ready {\n    script /run/ready\n    interval 1\n    weight -5\n}"""
LOWERED = "until pylvs vrrp status | grep -q 'priority 85'; do sleep 0.1; done"
UNICAST = r"s/advert_int/unicast_peer {\n        10.0.0.10\n    }\n    advert_int/"

FAULTS = [
    Fault(
        name="the backup receives nothing",
        host="director2",
        script=f"{INPUT}; {until('MASTER')}",
        on="director1",
        cause="vrrp_two_masters",
        words=("10.0.0.11", "does not receive"),
        cure=f"nft delete table ip filter; {until('BACKUP')}",
        settled=ALONE,
    ),
    Fault(
        name="a filter of what comes in",
        host="director2",
        script=f"{INPUT}; {until('MASTER')}",
        on="director2",
        cause="vrrp_filtered",
        words=("come in", "112"),
        settled=until("BACKUP"),
        rest="nft delete table ip filter",
    ),
    Fault(
        name="a filter that shows at the next take-over",
        host="director2",
        script=OUTPUT,
        on="director2",
        cause="vrrp_filtered",
        words=("leave",),
        rest="nft delete table ip filter",
    ),
    Fault(
        name="a filter of what leaves",
        host="director1",
        script=OUTPUT,
        on="director1",
        cause="vrrp_filtered",
        words=("leave",),
        rest="nft delete table ip filter",
        settled=ALONE,
    ),
    Fault(
        name="another version",
        host="director2",
        script=f"{written('s/version 3/version 2/')}; {until('MASTER')}",
        on="director2",
        cause="vrrp_version_mismatch",
        words=("10.0.0.10",),
        settled=until("BACKUP"),
    ),
    Fault(
        name="another list of addresses",
        host="director2",
        script=written(r"s,^ *10.0.0.100.*,&\n        10.0.0.101/32,"),
        on="director2",
        cause="vrrp_addresses_mismatch",
        words=("10.0.0.101", "10.0.0.10"),
        cure=RESTORED,
    ),
    Fault(
        name="one of them by unicast",
        host="director2",
        script=f"{written(UNICAST)}; {until('MASTER')}",
        on="director2",
        cause="vrrp_unicast_mismatch",
        words=("unicast", "multicast"),
        cure=RESTORED,
    ),
    Fault(
        name="a VRID of another group",
        host="client",
        script=CLASH,
        on="director1",
        cause="vrid_clash",
        words=("10.0.0.5", "10.0.0.200", "51"),
        cure="kill $(cat /run/clash)",
        settled=ALONE,
    ),
    Fault(
        name="a yield that was forgotten",
        host="director2",
        script="pylvs vrrp yield --for 2h",
        on="director2",
        cause="vrrp_held",
        words=("VI_1",),
    ),
    Fault(
        name="keepalived beside pylvs",
        host="director2",
        script="keepalived --vrrp --pid=/run/other.pid --vrrp_pid=/run/other_vrrp.pid",
        on="director2",
        cause="keepalived_beside",
        words=("keepalived.conf",),
        settled="while [ -e /run/other.pid ]; do sleep 0.1; done",
    ),
    Fault(
        name="a tracked device is down",
        host="director2",
        script=f"{SPARE}; {written(TRACKED)}; ip link set spare down; {until('FAULT')}",
        on="director2",
        cause="vrrp_fault",
        words=("spare",),
        settled=until("BACKUP"),
        rest=f"{RESTORED}; ip link del spare",
    ),
    Fault(
        name="a tracked script fails",
        host="director2",
        script=f"ln -s /bin/false /run/ready; {written(SCRIPTED)}; {LOWERED}",
        on="director2",
        cause="vrrp_track_down",
        words=("script ready", "85"),
        cure=RESTORED,
    ),
]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return two healthy directors that advertise ten times a second."""
    with built("ha") as made:
        for director in ("director1", "director2"):
            made.sh(director, f"sed -i '{QUICK}' {CONFIGURATION}; pylvs reload")
        made.sh("director2", until("BACKUP"))
        made.sh("director1", until("MASTER"))
        yield made


@pytest.mark.parametrize("director", ["director1", "director2"])
def test_two_healthy_directors_have_no_finding(lab: Lab, director: str) -> None:
    """The master and the backup at rest."""
    assert diagnosed(lab, director) == []


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_cause_comes_first_and_its_command_mends_it(lab: Lab, fault: Fault) -> None:
    """A planted fault is named, and the doctor's command mends it."""
    examine(lab, fault)

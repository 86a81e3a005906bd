"""The real ldirectord edits our table through our ipvsadm: servers fail and return, and its end clears the table.

The test also follows the page that puts our ipvsadm where ldirectord looks for it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from pylvs.model.service import Method, ServiceFlag
from tests.interop import ldirectord
from tests.interop.ldirectord import SERVERS

REASON = ldirectord.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

BY_ROUTE, BY_NAT, OF_IPV6 = "192.0.2.12", "192.0.2.14", "2001:db8::11"


def test_failed_servers_leave_and_return_and_the_end_clears_the_table(tmp_path: Path) -> None:
    with ldirectord.site(tmp_path) as site:
        with ldirectord.started(site) as start:
            print(start)
            weights = dict.fromkeys(SERVERS, 1) | {BY_ROUTE: 2}
            site.await_that(lambda: site.weights() == weights, "every real server has its weight")
            rows = {str(row.service.key): row for row in site.services()}
            persistent = rows["TCP 192.0.2.100:8080"].service
            assert (persistent.scheduler, persistent.timeout_s) == ("wlc", 60)
            assert persistent.netmask == int(IPv4Address("255.255.255.0"))
            assert rows["UDP 192.0.2.100:53"].service.flags & ServiceFlag.ONE_PACKET
            methods = {each.destination.method for row in rows.values() for each in row.destinations}
            assert methods == {Method.ROUTE, Method.MASQ, Method.TUNNEL}
            for address in BY_ROUTE, BY_NAT, OF_IPV6:
                site.die(address)
            left = SERVERS - {BY_ROUTE, OF_IPV6}
            after = dict.fromkeys(left, 1) | {BY_NAT: 0}  # its service is quiescent
            site.await_that(lambda: site.weights() == after, "dead real servers get no new connections")
            for address in BY_ROUTE, BY_NAT, OF_IPV6:
                site.begin(address)
            site.await_that(site.serves_all, "they come back")
        assert list(site.services()) == []
        assert {call.split()[0] for call in site.calls()} == {"0"}, "no ipvsadm call was refused"


# The package's programs and dpkg's database are on an overlay.
ASIDE = """
set -e
mount -t tmpfs aside "$ASIDE"
for folder in /usr/sbin /var/lib/dpkg; do
    mkdir -p "$ASIDE/upper$folder" "$ASIDE/work$folder"
    mount -t overlay aside -o "lowerdir=$folder,upperdir=$ASIDE/upper$folder,workdir=$ASIDE/work$folder" "$folder"
done
looks() { for each in ipvsadm ipvsadm-save ipvsadm-restore; do readlink "/sbin/$each" || echo "its own"; done; }
"""


def test_the_documented_commands_replace_ipvsadm_and_restore_it(tmp_path: Path, repository: Path) -> None:
    there, back = re.findall(r"```sh\n(.*?)```", (repository / "docs/how-to/replace-ipvsadm.md").read_text(), re.DOTALL)
    ours = Path(sys.executable).parent
    script = f"{ASIDE}\nlooks\n{there}\nlooks\nls /sbin/ipvsadm*.kernel | grep -c .\n{back}\nlooks\n"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        env=os.environ | {"ASIDE": str(tmp_path), "PATH": f"{ours}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "divers" not in line]
    linked = [f"{ours}/ipvsadm", f"{ours}/ipvsadm-save", f"{ours}/ipvsadm-restore"]
    assert lines == ["its own"] * 3 + linked + ["3"] + ["its own"] * 3

"""The modules that an ordinary listing and ordinary edits import. Scripts call ipvsadm for each change."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import starts
from tests.packet.host import Host

EXPENSIVE = {"asyncio", "dataclasses", "hashlib", "inspect", "json", "random", "re", "secrets", "socket", "typing"}
OF_EDITS = {
    "pylvs.dataplane.editor",
    "pylvs.dataplane.devices.attachments",
    "pylvs.dataplane.devices.selection",
    "pylvs.netlink.links",
}
OF_OTHERS = {
    "pylvs.dataplane.scheduler_tables",
    "pylvs.dataplane.connections",
    "pylvs.dataplane.rules.marks",
    "pylvs.dataplane.bulk_add",
    "pylvs.dataplane.load",
    "pylvs.dataplane.vip_roles",
    "pylvs.ipvsadm.helptext",
    "pylvs.model.director",
    "pylvs.model.marks",
    "pylvs.model.settings",
}
SERVICE, SERVER = "-t 10.0.0.99:80", "-r 10.0.0.21:80"
RUN = """
import sys
before = set(sys.modules)
from pylvs.ipvsadm.main import main
status = main()
print(*set(sys.modules) - before, file=sys.stderr)
sys.exit(status)
"""


def imported_by(words: str) -> set[str]:
    """Return the modules that `ipvsadm WORDS` imports."""
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path += {sys.path!r}\n{RUN}", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.fixture
def service(director_host: Host) -> None:
    """Add a service with a server besides the one that the commands edit."""
    director_host.director.flush()
    imported_by(f"-A {SERVICE} -s wlc")
    imported_by(f"-a {SERVICE} -r 10.0.0.22:80 -g")


@pytest.mark.usefixtures("service")
def test_a_listing_imports_the_readers_alone() -> None:
    loaded = imported_by("-Ln")
    assert loaded & (EXPENSIVE | OF_EDITS | OF_OTHERS) == set()
    starts.check("ipvsadm -Ln", loaded)


@pytest.mark.usefixtures("service")
def test_an_edit_of_a_server_imports_the_editors_of_servers() -> None:
    for words in (f"-a {SERVICE} {SERVER} -g", f"-e {SERVICE} {SERVER} -g -w 2", f"-d {SERVICE} {SERVER}"):
        loaded = imported_by(words)
        assert loaded & (EXPENSIVE | OF_OTHERS) == set(), words
        starts.check("ipvsadm -a", loaded)


def test_a_new_service_imports_no_more(director_host: Host) -> None:
    director_host.director.flush()
    starts.check("ipvsadm -A", imported_by(f"-A {SERVICE}"))

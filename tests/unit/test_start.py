"""Modules that a process may not import at its start: each costs milliseconds or megabytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import starts
from tests.unit.cli.test_status_lines import status

FOR_TYPES = "annotationlib dataclasses inspect typing typing_extensions"
UNUSED = "aiohttp dns h11 http.client prometheus_client rich structlog unittest"


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        # an edit and a listing: what they import while they run is in tests/packet/test_start.py
        ("pylvs.ipvsadm.main pylvs.ipvsadm.commands pylvs.ipvsadm.listing", f"asyncio click json socket {FOR_TYPES}"),
        ("pylvs.dataplane.director pylvs.dataplane.editor", f"asyncio hashlib random secrets socket {FOR_TYPES}"),
        # the daemon, with two checks of HTTP
        ("pylvs.cli.main pylvs.cli.daemon", f"asyncio {UNUSED}"),
        # `pylvs run` until pylvs-vrrp is started
        (
            "pylvs.cli.main pylvs.daemon.start",
            f"asyncio click json.tool hmac pickle shutil subprocess dataclasses inspect pylvs.dataplane {UNUSED}",
        ),
        (
            "pylvs.daemon.host.services pylvs.daemon.supervisor pylvs.health.checkers.http",
            f"datetime shutil _hashlib {UNUSED}",
        ),
        # the helper process of virtual routers, and the daemon: few send a mail
        ("pylvs.vrrp.helper.__main__ pylvs.daemon.supervisor", "email"),
        # the doctor on a host without a daemon, virtual routers, marks and iptables
        (
            "pylvs.doctor.examination",
            "asyncio click concurrent.futures email http.client pylvs.config pylvs.ipvsadm.listing pylvs.netfilter",
        ),
        ("pylvs.system.processes.runner", f"asyncio pathlib dataclasses inspect {UNUSED}"),
        # the API, which the daemon imports when it is ready
        ("pylvs.daemon.api.application", "aiohttp asyncio.tools unittest"),
    ],
)
def test_a_process_starts_without(modules: str, unwanted: str) -> None:
    imports = ", ".join(modules.split())
    code = f"import sys, {imports}; print(*[name for name in {unwanted.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "modules",
    ["pylvs.daemon.host.services pylvs.daemon.supervisor", "pylvs.vrrp.helper.__main__", "pylvs.edge.services"],
)
def test_a_process_that_loads_asyncio_first_has_no_openssl(modules: str) -> None:
    code = "import sys; from pylvs.system.processes import import_asyncio; import_asyncio(); import "
    code += ", ".join(modules.split())
    code += "; print('_ssl' in sys.modules); import ssl; print('_ssl' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_library_is_loaded_at_its_first_use() -> None:
    """Commands import the package, too: the public names must cost them nothing."""
    code = """
import sys
before = set(sys.modules)
import pylvs
print(*sorted(set(sys.modules) - before))
pylvs.Service
print(*[name for name in ("asyncio", "aiohttp", "pylvs.dataplane", "pylvs.bpf.maps") if name in sys.modules])
pylvs.Director
print(*[name for name in ("asyncio", "aiohttp", "json", "pylvs.daemon", "pylvs.dataplane.load") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["pylvs", "", ""]


def loaded_by(code: str, cwd: Path) -> set[str]:
    """Return the modules that a process has loaded when it prints them, on the last line of standard error."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, check=True)
    return set(done.stderr.splitlines()[-1].split())


RUN = """
import sys
sys.path[:0] = {path!r}
from pylvs.cli import main
{before}
main.run({words!r})
print(*sys.modules, file=sys.stderr)
"""
REPLY = """
from pylvs.daemon.api.client import Client
Client.ask = lambda *_: (200, {reply!r})
"""


def test_pylvs_help_loads_no_command(tmp_path: Path) -> None:
    starts.check("pylvs --help", loaded_by(RUN.format(path=sys.path, before="", words=["--help"]), tmp_path))


def test_pylvs_status_loads_what_prints_it(tmp_path: Path) -> None:
    code = RUN.format(path=sys.path, before=REPLY.format(reply=status()), words=["status"])
    starts.check("pylvs status", loaded_by(code, tmp_path))


AT_THE_FIRST_ADVERTISEMENT = """
import os
from pylvs.daemon.virtual_routers import first, process
def begin(*arguments):
    print(*sys.modules, file=sys.stderr, flush=True)
    return 0
def until_then(*arguments):
    started.append(start(*arguments))
    started[0].process.wait(600)
    os._exit(0)
start, first.start, process.router_service.run, started = first.start, until_then, begin, []
"""
ROUTER = """
vrrp_instance VI_1 {
    interface eth7
    virtual_router_id 51
    virtual_ipaddress { 192.0.2.1 }
}
"""


def test_pylvs_run_loads_only_virtual_routers_before_the_first_advertisement(tmp_path: Path) -> None:
    (tmp_path / "keepalived.conf").write_text(ROUTER)
    options = "-f keepalived.conf --state-dir state -p pid -c checkers.pid -r vrrp.pid"
    code = RUN.format(path=sys.path, before=AT_THE_FIRST_ADVERTISEMENT, words=["run", *options.split()])
    starts.check("pylvs run", loaded_by(code, tmp_path))

"""Modules that a process may not import at its start: each costs milliseconds or megabytes."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
        ("pylvs.daemon.host.services pylvs.daemon.supervisor pylvs.health.checkers.http", UNUSED),
        # the API, which the daemon imports when it is ready
        ("pylvs.daemon.api.application", "aiohttp asyncio.tools unittest"),
    ],
)
def test_a_process_starts_without(modules: str, unwanted: str) -> None:
    imports = ", ".join(modules.split())
    code = f"import sys, {imports}; print(*[name for name in {unwanted.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


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

"""What a BFD session with the real keepalived decides here: a virtual router and a real server.

The process of the sessions is stopped and killed, too: its silence must not count as "up".
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pylvs.daemon.api import client
from pylvs.model.errors import PylvsError
from pylvs.vrrp.client import Client
from tests.interop import keepalived
from tests.interop.bfd.cell import Cell, hosts
from tests.interop.bfd.peers import KEEPALIVED, KeepalivedPeer, bfd_instance
from tests.interop.vrrp.routers import Pylvs
from tests.waiting import PATIENCE_S, until

pytestmark = [
    pytest.mark.skipif(bool(keepalived.why_not()), reason=keepalived.why_not()),
    pytest.mark.timeout(900),
]

ROUTER = """\
vrrp_instance VI {
    interface eth1
    virtual_router_id 51
    priority 100
    advert_int 1
    virtual_ipaddress { 10.66.1.100 }
    track_bfd { peer }
}
"""
SERVICE = """\
virtual_server 10.66.1.100 80 {
    lvs_sched rr
    lvs_method NAT
    protocol TCP
    real_server 10.66.0.2 80 {
        BFD_CHECK { name peer }
    }
}
"""


class Director(Pylvs):
    """`pylvs run` with checks."""

    def command(self) -> list[str]:
        return [word for word in super().command() if word != "--no-checks"]

    def routers(self) -> dict[str, Any]:
        """Return the status of the virtual routers; {} while their process does not run."""
        try:
            with Client(self.state / "vrrp", PATIENCE_S) as routers:
                found: dict[str, Any] = routers.ask("status")
        except Exception:  # it does not run
            return {}
        return found

    def session(self) -> str:
        return next((str(each["state"]) for each in self.routers().get("sessions", [])), "")

    def router(self) -> str:
        return next((str(each["state"]) for each in self.routers().get("instances", [])), "")

    def server(self) -> dict[str, Any]:
        """Return the status of the real server; {} before there is one."""
        try:
            _, reply = client.Client(self.state).ask("GET", "/v1/status")
        except PylvsError:  # it does not run yet
            return {}
        return dict(reply["services"][0]["servers"][0]) if reply.get("services") else {}

    def is_up(self) -> bool:
        """Return whether a result of its check has the real server up."""
        found = self.server()
        return bool(found.get("up") and found["checked"])

    def check(self) -> dict[str, Any]:
        """Return the status of the real server's check; {} before there is one."""
        return dict(next(iter(self.server().get("checks", [])), {}))

    def sessions_pid(self) -> int:
        """Return the PID of the process of the sessions; 0 while it does not run."""
        return int(self.routers().get("process", {}).get("pid", 0))

    def events(self) -> list[dict[str, Any]]:
        with client.Client(self.state).stream("GET", "/v1/events") as response:
            return [json.loads(line) for line in response.read().splitlines()]


@contextmanager
def director(text: str) -> Iterator[tuple[Director, KeepalivedPeer]]:
    """Run pylvs with this configuration behind its bfd_instance, and keepalived as its neighbor."""
    with (
        mock.patch.object(client, "READ_TIMEOUT_S", PATIENCE_S),
        tempfile.TemporaryDirectory(prefix="pylvs-bfd-") as name,
        hosts(Cell(KEEPALIVED, 4, False)) as (
            where,
            ours,
            theirs,
        ),
    ):
        folders = [Path(name, host) for host in ("a", "b")]
        for folder in folders:
            folder.mkdir()
        here = Director(where, "a", folders[0])
        there = KeepalivedPeer(where, "b", folders[1], theirs)
        try:
            here.configuration.write_text(bfd_instance(ours, 100) + text)
            there.write()
            here.start()
            there.start()
            yield here, there
        finally:
            there.end()
            here.end()


def position(events: list[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]) -> int:
    """Return the place of the last event of a kind."""
    return max(number for number, event in enumerate(events) if wanted(event))


def test_a_dead_neighbor_is_a_fault_and_takes_its_server_down() -> None:
    with director(ROUTER + SERVICE) as (here, there):
        until(lambda: here.session() == "Up", here.log)
        until(lambda: here.router() == "MASTER", here.log)
        until(here.is_up, here.log)
        there.kill()
        until(lambda: here.session() == "Down", here.log)
        until(lambda: here.router() == "FAULT", here.log)
        until(lambda: here.server().get("up") is False, here.log)
        events = here.events()
        down = position(events, lambda each: each["event"] == "bfd" and each["state"] == "Down")
        fault = position(events, lambda each: each["event"] == "vrrp_transition" and each["state"] == "FAULT")
        server = position(events, lambda each: each["event"] == "server_down")
        assert down < fault
        assert down < server
        assert events[server]["reason"].startswith("BFD_CHECK: session peer is down: Control Detection Time Expired")
        there.start()
        until(lambda: here.router() == "MASTER", here.log)
        until(here.is_up, here.log)


def is_unknown(check: dict[str, Any]) -> bool:
    return bool(check.get("inconclusive")) and "session peer is unknown" in check["reason"]


def test_a_process_that_does_not_answer_makes_sessions_unknown() -> None:
    """A service without virtual routers: the process of the sessions is stopped, continued and killed."""
    with director(SERVICE) as (here, _):
        until(lambda: here.session() == "Up", here.log)
        until(here.is_up, here.log)
        first = here.sessions_pid()

        os.kill(first, signal.SIGSTOP)
        until(lambda: is_unknown(here.check()), here.log)
        assert here.server()["up"], "an inconclusive check keeps the state"
        with suppress(ProcessLookupError):  # pylvs run ends a process that does not answer
            os.kill(first, signal.SIGCONT)
        until(lambda: here.check().get("inconclusive") is False and here.session() == "Up", here.log)

        second = here.sessions_pid()
        os.kill(second, signal.SIGKILL)
        until(lambda: here.sessions_pid() not in (0, second), here.log)
        until(lambda: here.session() == "Up", here.log)
        until(lambda: here.check().get("inconclusive") is False, here.log)
        assert here.server()["up"]
        kinds = [each["event"] for each in here.events()]
        assert "bfd_unknown" in kinds
        assert kinds.index("bfd_unknown") < len(kinds) - kinds[::-1].index("bfd_known") - 1

"""The random pairs of `tests/unit/daemon/reloads`, reloaded by a real daemon under real connections."""

from __future__ import annotations

import http.client
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pylvs.lab.lab import Lab
from pylvs.system.namespaces import inside_network
from tests.lab.conftest import MakeLab
from tests.lab.daemons import Daemon, daemon
from tests.unit.daemon.reloads.pairs import VIPS, Configuration, Drawn, Service
from tests.waiting import PATIENCE_S

GATE = (1, 15, 72, 199, 377)  # all but the first change the ports of a group
NIGHTLY = range(200)
CONNECTIONS = 3  # to each address


def by_dr(configuration: Configuration, weights: tuple[int, ...] = ()) -> Configuration:
    """Return the configuration with what this lab has: five healthy servers by DR, and no virtual router."""
    services = tuple(
        replace(
            service,
            method="DR",
            servers=tuple(
                replace(
                    each,
                    method="",
                    check=each.check.replace("agent", "tcp"),
                    weight=each.weight or min(weights, default=0),
                )
                for each in service.servers
            ),
        )
        for service in configuration.services
    )
    return replace(configuration, services=tuple(map(Drawn.valid, services)), routers=())


def text(configuration: Configuration) -> str:
    return configuration.text().replace("10.0.0.", "10.0.0.2")


def serving(configuration: Configuration) -> dict[tuple[int, int, int], Service]:
    """Return the services by each address with port 80."""
    return {key: each for each in configuration.services for key in each.keys if key[1] == 80}


def keeps_connections(old: Service, new: Service | None) -> bool:
    """Return whether the difference leaves the servers of a service in the table; a sorry server may replace them."""
    if new is None or old.head_key != new.head_key or old.sorry or new.sorry:
        return False
    return {each.number for each in old.servers} <= {each.number for each in new.servers}


@contextmanager
def lab_of_pairs(make_lab: MakeLab, folder: Path) -> Iterator[tuple[Lab, Daemon]]:
    """Yield a lab whose hosts have the virtual addresses, and its daemon."""
    lab = make_lab("dr", 5)
    hosts = {"director": "eth0", **{f"rs{number}": "lo" for number in range(1, 6)}}
    for host, device in hosts.items():
        for number in VIPS:
            command = ["ip", "address", "add", f"192.0.2.{number}/32", "dev", device]
            subprocess.run([*lab.host(host).inside(), *command], check=True)
    subprocess.run([*lab.host("client").inside(), "ip", "route", "add", "192.0.2.0/24", "dev", "eth0"], check=True)
    with daemon(lab, folder, text(by_dr(Drawn(0).pair()[0], (1,)))) as running:
        yield lab, running


def reload(running: Daemon, configuration: Configuration) -> None:
    running.configuration.write_text(text(configuration))
    status, body = running.client.ask("POST", "/v1/reload")
    assert status == 200, body


def ask(connection: http.client.HTTPConnection) -> bytes:
    connection.request("GET", "/")
    return connection.getresponse().read()


def play(lab: Lab, running: Daemon, seed: int) -> int:
    """Reload one pair under connections; return how many had to survive."""
    first, second = Drawn(seed).pair()
    first, second = by_dr(first, (1,)), by_dr(second)
    reload(running, first)
    after = serving(second)
    staying = [key for key, each in serving(first).items() if keeps_connections(each, after.get(key))]
    with ExitStack() as opened:
        connections = []
        with inside_network(lab.host("client").network):
            for vip, port, _ in staying * CONNECTIONS:
                made = http.client.HTTPConnection(f"192.0.2.{vip}", port, timeout=PATIENCE_S)
                connections.append(opened.enter_context(closing(made)))
                made.connect()
                made.auto_open = 0  # what breaks stays broken
        answers = [ask(each) for each in connections]
        reload(running, second)
        assert [ask(each) for each in connections] == answers, f"seed {seed}"
    return len(staying)


def play_all(make_lab: MakeLab, folder: Path, seeds: Sequence[int]) -> None:
    with lab_of_pairs(make_lab, folder) as (lab, running):
        staying = [play(lab, running, seed) for seed in seeds]
    assert sum(staying) >= len(seeds) / 4, "too few pairs have connections"


def test_reloads_of_random_pairs_keep_the_connections_that_their_difference_does_not_name(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    play_all(make_lab, tmp_path, GATE)


@pytest.mark.nightly("200 pairs take some minutes; the gate plays five")
@pytest.mark.timeout(3600)
def test_two_hundred_pairs(make_lab: MakeLab, tmp_path: Path) -> None:
    play_all(make_lab, tmp_path, NIGHTLY)

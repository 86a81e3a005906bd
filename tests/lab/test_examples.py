"""The programs of examples/ do what they say, with real servers, clients and HTTP."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pylvs.lab.hosts import environment
from pylvs.lab.lab import Lab, build, take_down
from pylvs.lab.plan import read_overrides
from pylvs.lab.topologies import design
from pylvs.system.namespaces import inside_network
from tests.lab.support import PATIENCE_S, answers, unique, until

EXAMPLES = Path(__file__).parents[2] / "examples"
MOST_LINES = 60
_LINE = re.compile(r"  -> (\S+):80 +Route +(\d+)")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Return a lab with three web servers behind direct routing."""
    name = unique(900)
    try:
        yield build(name, design("dr", 3, 4, read_overrides({})))
    finally:
        take_down(name)


def service(lab: Lab) -> str:
    return f"TCP {lab.network.vip}:80"


def addresses(lab: Lab) -> list[str]:
    """Return the real servers' addresses, that of rs1 first."""
    return [host.interfaces[0].addresses[0].partition("/")[0] for host in lab.network.role("realserver")]


def weights(lab: Lab) -> list[int]:
    """Return the weights in the table, of rs1 first."""
    found = dict(_LINE.findall(lab.sh("director", "ipvsadm -Ln")))
    return [int(found[each]) for each in addresses(lab)]


def example(lab: Lab, name: str, *arguments: str) -> subprocess.Popen[str]:
    """Start an example on the director."""
    command = [*lab.host("director").inside(), sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())


@contextmanager
def inside(lab: Lab, host: str) -> Iterator[None]:
    with inside_network(f"/run/netns/pylvs-{lab.name}-{host}"):
        yield


def test_every_example_is_short_and_has_a_test() -> None:
    programs = sorted(EXAMPLES.glob("*.py"))
    tests = Path(__file__).read_text()
    for program in programs:
        assert len(program.read_text().splitlines()) < MOST_LINES, program.name
        assert f'"{program.stem}"' in tests, program.name
    assert len(programs) == 3


def test_a_health_checker_of_ones_own(lab: Lab) -> None:
    """A server whose web server stops gets no clients, until it answers again."""
    with example(lab, "health_checker", service(lab), "--interval", "0.1", "--timeout", "60", "--fall", "2") as checker:
        try:
            lab.sh("rs1", "service nginx stop")
            until(lambda: weights(lab) == [0, 1, 1], "rs1 is out of service")
            assert set(answers(lab, 6)) == {"This is rs2 server!", "This is rs3 server!"}
            lab.sh("rs1", "service nginx start </dev/null >/dev/null 2>&1")
            until(lambda: weights(lab) == [1, 1, 1], "rs1 is back")
        finally:
            checker.send_signal(signal.SIGINT)
            output, _ = checker.communicate(timeout=PATIENCE_S)
    rs1 = addresses(lab)[0]
    assert output.splitlines()[:2] == [f"{rs1}:80 is down", f"{rs1}:80 is up"]


def test_a_drain_before_a_deployment(lab: Lab, tmp_path: Path) -> None:
    """The command runs when the server's last connection has ended, and the server then has its weight again."""
    deployed = tmp_path / "deployed"
    with inside(lab, "client"):
        client = socket.create_connection((lab.network.vip, 80), timeout=PATIENCE_S)
    with client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
        # The header and the body may come in two reads.
        body = b""
        while not (name := re.search(rb"This is (rs[123]) server", body)):
            data = client.recv(65536)
            assert data, body
            body += data
        number = int(name[1][2:]) - 1
        server = addresses(lab)[number]
        command = ["--interval", "0.1", "--", "touch", str(deployed)]
        with example(lab, "drain", service(lab), f"{server}:80", *command) as drain:
            until(lambda: weights(lab)[number] == 0, "the server gets no new clients")
            assert f"This is rs{number + 1} server!" not in answers(lab, 6)
            assert drain.poll() is None
            assert not deployed.exists(), "a connection is left"
            client.shutdown(socket.SHUT_RDWR)
            output, _ = drain.communicate(timeout=PATIENCE_S)
    assert (drain.returncode, weights(lab)) == (0, [1, 1, 1]), output
    assert deployed.exists()
    with example(lab, "drain", service(lab), "192.0.2.250:80", "--", "true") as drain:
        output, _ = drain.communicate(timeout=PATIENCE_S)
    assert (drain.returncode, output) == (2, f"drain: {service(lab)}: 192.0.2.250:80 does not exist\n")


class Prometheus(BaseHTTPRequestHandler):
    """Serves instant queries with a fixed result."""

    result: object = None

    def do_GET(self) -> None:
        if "/api/v1/query?query=" not in self.path or self.result is None:
            self.send_error(503)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"status": "success", "data": {"result": self.result}}).encode())

    def log_message(self, format: str, *_: object) -> None:
        """Print nothing."""


def test_weights_from_a_prometheus_query(lab: Lab) -> None:
    """Every server gets its result as weight in one edit; if the query fails the weights stay."""
    one, two, _ = addresses(lab)
    with inside(lab, "director"):
        server = HTTPServer(("127.0.0.1", 0), Prometheus)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        values = {one: "41.7", two: "0.1"}
        Prometheus.result = [
            {"metric": {"instance": f"{address}:9100"}, "value": [0, value]} for address, value in values.items()
        ]
        with example(lab, "prometheus_weights", service(lab), url, "weight") as program:
            output, _ = program.communicate(timeout=PATIENCE_S)
        assert (program.returncode, weights(lab)) == (0, [42, 1, 1]), output
        assert output == f"~ {service(lab)}\n~   {one}:80 weight 1 -> 42\n"
        Prometheus.result = None
        with example(lab, "prometheus_weights", service(lab), url, "weight") as program:
            output, _ = program.communicate(timeout=PATIENCE_S)
        assert (program.returncode, weights(lab)) == (1, [42, 1, 1])
        assert output.startswith("prometheus_weights: HTTP Error 503")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

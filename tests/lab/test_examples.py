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
from tests.lab.support import answers, unique
from tests.waiting import PATIENCE_S, until

EXAMPLES = Path(__file__).parents[2] / "examples"
MOST_LINES = 60
_LINE = re.compile(r"  -> (\S+):80 +Route +(\d+)")


@pytest.fixture(scope="module")
def built() -> Iterator[Lab]:
    """Make a lab with three web servers behind direct routing."""
    name = unique(900)
    try:
        yield build(name, design("dr", 3, 4, read_overrides({})))
    finally:
        take_down(name)


@pytest.fixture
def lab(built: Lab) -> Iterator[Lab]:
    """Return the lab. Afterwards each server has weight 1 again: the tests run in any order."""
    yield built
    for server in addresses(built):
        built.sh("director", f"ipvsadm -e -t {built.network.vip}:80 -r {server}:80 -g -w 1")


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


def finished(lab: Lab, name: str, *arguments: str) -> tuple[int, str]:
    """Run an example on the director, and return its exit status and its output."""
    with example(lab, name, *arguments) as program:
        text, _ = program.communicate(timeout=PATIENCE_S)
    return program.returncode, text


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
    unknown = finished(lab, "drain", service(lab), "192.0.2.250:80", "--", "true")
    assert unknown == (2, f"drain: {service(lab)}: 192.0.2.250:80 does not exist\n")


def test_a_drain_after_a_deployment_that_failed(lab: Lab, tmp_path: Path) -> None:
    """The table has lost the former weight: the next run asks for it, and puts the server back with it."""
    server = f"{addresses(lab)[0]}:80"
    status, text = finished(lab, "drain", service(lab), server, "--weight", "3", "--", "false")
    assert (status, weights(lab)) == (1, [0, 1, 1]), text
    assert text.splitlines()[0] == f"{server}: weight 0; if this run fails, the next one needs --weight 3"
    deployed = tmp_path / "deployed"
    status, text = finished(lab, "drain", service(lab), server, "--", "touch", str(deployed))
    assert (status, weights(lab)) == (2, [0, 1, 1])
    assert text.splitlines()[-1].endswith(f"{server} would go back with weight 0: name its weight with --weight")
    assert not deployed.exists()
    status, text = finished(lab, "drain", service(lab), server, "--weight", "1", "--", "touch", str(deployed))
    assert (status, weights(lab)) == (0, [1, 1, 1]), text
    assert text.splitlines()[-1] == f"{server}: back with weight 1"


def test_a_drain_whose_command_cannot_run(lab: Lab, tmp_path: Path) -> None:
    """A command that does not exist is refused before the drain. One that cannot start is an error of one line."""
    server = f"{addresses(lab)[0]}:80"
    status, text = finished(lab, "drain", service(lab), server, "--", "no-such-command")
    assert (status, weights(lab)) == (2, [1, 1, 1])
    assert text.splitlines()[-1].endswith("no-such-command: no such command")
    broken = tmp_path / "broken"
    broken.write_text("#!/no/such/interpreter\n")
    broken.chmod(0o755)
    status, text = finished(lab, "drain", service(lab), server, "--", str(broken))
    assert (status, weights(lab)) == (2, [0, 1, 1])
    assert text.splitlines()[-1].startswith("drain: [Errno 2] ")
    assert finished(lab, "drain", service(lab), server, "--weight", "1", "--", "true")[0] == 0


def test_a_health_checker_that_starts_while_a_server_is_down(lab: Lab) -> None:
    """The weight that the server had is lost: the checker asks for it, and then puts the server back with it."""
    rs1 = f"{addresses(lab)[0]}:80"
    lab.sh("director", f"ipvsadm -e -t {lab.network.vip}:80 -r {rs1} -g -w 0")
    refused = f"health_checker: weight: 0: {rs1} would come back with it; give another by --weight\n"
    assert finished(lab, "health_checker", service(lab)) == (1, refused)
    arguments = ("--interval", "0.1", "--timeout", "60", "--weight", "1")
    with example(lab, "health_checker", service(lab), *arguments) as checker:
        try:
            until(lambda: weights(lab) == [1, 1, 1], "rs1 is back")
        finally:
            checker.send_signal(signal.SIGINT)
            text, _ = checker.communicate(timeout=PATIENCE_S)
    assert text.splitlines()[0] == f"{rs1} is up"


@pytest.mark.parametrize(
    ("name", "more", "status"),
    [("drain", ["10.0.0.1:80", "true"], 2), ("health_checker", [], 1), ("prometheus_weights", ["http://::", "up"], 1)],
)
def test_an_argument_that_is_no_service_is_explained(lab: Lab, name: str, more: list[str], status: int) -> None:
    found, text = finished(lab, name, "web", *more)
    assert found == status
    assert text.startswith(f"{name}: service: 'web': must be PROTOCOL ADDRESS:PORT, or FWM MARK")


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
    """Servers get their results as weights in one edit, drained ones excepted. If the query fails the weights stay."""
    one, two, drained = addresses(lab)
    lab.sh("director", f"ipvsadm -e -t {lab.network.vip}:80 -r {drained}:80 -g -w 0")
    with inside(lab, "director"):
        server = HTTPServer(("127.0.0.1", 0), Prometheus)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        values = {one: "41.7", two: "0.1", drained: "7"}
        Prometheus.result = [
            {"metric": {"instance": f"{address}:9100"}, "value": [0, value]} for address, value in values.items()
        ]
        status, text = finished(lab, "prometheus_weights", service(lab), url, "weight")
        assert (status, weights(lab)) == (0, [42, 1, 0]), text
        assert text == f"~ {service(lab)}\n~   {one}:80 weight 1 -> 42\n"
        Prometheus.result = None
        status, text = finished(lab, "prometheus_weights", service(lab), url, "weight")
        assert (status, weights(lab)) == (1, [42, 1, 0])
        assert text.startswith("prometheus_weights: HTTP Error 503")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

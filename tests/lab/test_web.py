"""The web page of a real daemon: by itself with TLS and tokens, and by `pylvs web` beside it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from pylvs.lab.hosts import environment
from pylvs.lab.lab import Lab
from pylvs.system.namespaces import inside_network
from tests.lab.conftest import MakeLab
from tests.lab.daemons import Daemon, daemon
from tests.waiting import PATIENCE_S, until
from tests.web_server import certificate, token_file

PORT = 8480
SERVICE = """
virtual_server 192.0.2.100 8081 {
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 192.0.2.21 8081 {
    }
}
"""


class Browser:
    """A client on the director itself."""

    def __init__(self, lab: Lab, token: str, tls: ssl.SSLContext | None = None) -> None:
        self._lab, self._token, self._tls = lab, token, tls

    def opened(self, method: str, target: str, content: Any = None) -> http.client.HTTPResponse:
        with inside_network(self._lab.host("director").network):
            made = http.client.HTTPConnection("127.0.0.1", PORT, timeout=PATIENCE_S)
            if self._tls is not None:
                made = http.client.HTTPSConnection("127.0.0.1", PORT, timeout=PATIENCE_S, context=self._tls)
            made.connect()
        fields = {"Authorization": f"Bearer {self._token}", "X-Pylvs": "1", "Content-Type": "application/json"}
        made.request(method, f"/api/v1/{target}", None if content is None else json.dumps(content), fields)
        return made.getresponse()

    def ask(self, target: str, method: str = "GET", content: Any = None) -> tuple[int, Any]:
        with closing(self.opened(method, target, content)) as response:
            return response.status, json.loads(response.read())

    def overview(self) -> Any:
        """Return it as soon as there is a sample."""
        return until(self._overview, "a sample of the daemon")

    def _overview(self) -> Any:
        try:
            status, found = self.ask("overview")
        except OSError:
            return None
        return found if status == 200 else None


def events(stream: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    """Yield the events of `live`."""
    name = ""
    for line in stream:
        if line.startswith(b"event: "):
            name = line[7:].decode().strip()
        elif line.startswith(b"data: "):
            yield name, json.loads(line[6:])


@contextmanager
def page(running: Daemon) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `pylvs web` in the foreground; return it with its link."""
    command = [*running.lab.host("director").inside(), "pylvs", "web", "--state-dir", str(running.folder / "state")]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def bare(make_lab: MakeLab) -> Lab:
    lab = make_lab("dr", 1)
    lab.sh("director", "ipvsadm -C")
    return lab


def test_the_daemon_serves_its_page_with_tls_and_tokens(make_lab: MakeLab, tmp_path: Path) -> None:
    """An operation is in the log with the token's name. A reader may not operate."""
    lab = bare(make_lab)
    pem = certificate(tmp_path)
    reader, alice = token_file(tmp_path / "tokens")
    settings = f"web_address 127.0.0.1 {PORT}\nweb_certificate {pem}\nweb_tokens {tmp_path / 'tokens'}\n"
    tls = ssl.create_default_context(cafile=f"{pem}.crt")
    with daemon(lab, tmp_path, f"global_defs {{\n{settings}}}\n{SERVICE}") as running:
        operator = Browser(lab, alice, tls)
        found = operator.overview()
        assert (found["services"]["total"], found["servers"]["total"]) == (1, 1)
        status, session = operator.ask("session")
        assert (status, session["who"], session["role"], session["secure"]) == (200, "alice", "operate", True)
        assert Browser(lab, "no-such-token", tls).ask("overview")[0] == 401
        drain = {"server": "192.0.2.21:8081"}
        assert Browser(lab, reader, tls).ask("drain", "POST", drain)[0] == 403
        assert running.client.ask("GET", "/v1/drains")[1]["drains"] == []
        status, reply = operator.ask("drain", "POST", drain)
        assert status == 200, reply
        assert (
            "alice"
            in until(
                lambda: [line for line in running.log().splitlines() if "drain" in line and "alice" in line],
                running.log,
            )[0]
        )


def test_tokens_read_and_override_client_rules(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = bare(make_lab)
    pem = certificate(tmp_path)
    reader, alice = token_file(tmp_path / "tokens")
    settings = f"web_address 127.0.0.1 {PORT}\nweb_certificate {pem}\nweb_tokens {tmp_path / 'tokens'}\n"
    tls = ssl.create_default_context(cafile=f"{pem}.crt")
    with daemon(lab, tmp_path, f"global_defs {{\n{settings}}}\n{SERVICE}"):
        operator, other = Browser(lab, alice, tls), Browser(lab, reader, tls)
        operator.overview()
        rules = {"service": "TCP 192.0.2.100:8081", "rules": ["deny 203.0.113.0/24"]}
        assert other.ask("client-rules-add", "POST", rules)[0] == 403
        assert other.ask("client-rules") == (200, {"total": 0, "start": 0, "rules": []})
        assert operator.ask("client-rules-add", "POST", rules)[0] == 200
        status, found = other.ask("client-rules?service=TCP%20192.0.2.100:8081&start=0")
        assert (status, found["total"]) == (200, 1)
        assert (found["rules"][0]["rule"], found["rules"][0]["origin"]) == ("deny 203.0.113.0/24", "operator")
        assert "deny 203.0.113.0/24" in lab.sh("director", "pylvs filter list")
        status, refusal = operator.ask("client-rules-add", "POST", {**rules, "rules": ["deny 203.0.113.1/24"]})
        assert (status, "has bits behind its prefix" in refusal["error"]) == (400, True)


def test_pylvs_web_beside_a_daemon_outlives_it(make_lab: MakeLab, tmp_path: Path) -> None:
    """The open page reports that the daemon has gone, and shows the next one without another sign-in."""
    lab = bare(make_lab)
    with daemon(lab, tmp_path, SERVICE) as running, page(running) as (process, link):
        url, _, token = link.partition("#token=")
        assert (url, bool(token)) == (f"http://127.0.0.1:{PORT}/", True)
        browser = Browser(lab, token)
        first = browser.overview()
        assert browser.ask("session")[1]["who"] == f"user-{os.getuid()}"
        with closing(browser.opened("GET", "live")) as stream:
            shown = events(stream)
            assert next(shown)[0] == "hello"
            next(data for name, data in shown if name == "overview")
            assert running.stop() == 0
            next(data for name, data in shown if name == "daemon" and not data["connected"])
            running.start()
            next(data for name, data in shown if name == "daemon" and data["connected"])
            assert next(data for name, data in shown if name == "overview")["at"] > first["at"]
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0

"""Checks of a real nginx: its files, listings, redirects, names and certificates, and its log."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.checks import Check, HttpCheck, Pace, Target, TcpCheck, Url
from tests.interop.namespaces import inside, server_tls

PAGE = b"<html>This is rs1 server!</html>\n"
DIGEST = hashlib.md5(PAGE, usedforsecurity=False).hexdigest()
PLAIN, SECURE, STRICT = 80, 443, 8443
PATIENCE_S = 60
HERE = IPv4Address("127.0.0.1")

CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log notice;
user root;
events {{ }}
http {{
    access_log {folder}/access.log;
    ssl_certificate {folder}/crt;
    ssl_certificate_key {folder}/key;
    server {{
        listen 80;
        listen [::]:80;
        listen 443 ssl;
        server_name www.example.com;
        root {folder}/files;
        location / {{ }}
        location /moved {{ return 301 /; }}
        location /gone {{ return 444; }}
        location /none {{ return 204; }}
        location /list/ {{ autoindex on; }}
        location /slow {{ limit_rate_after 1k; limit_rate 100; }}
    }}
    server {{
        listen 8443 ssl default_server;
        ssl_reject_handshake on;
    }}
    server {{
        listen 8443 ssl;
        server_name www.example.com;
        root {folder}/files;
    }}
}}
"""


@contextmanager
def nginx(folder: Path) -> Iterator[Path]:
    """Run nginx and the caller in their own namespace; return the directory with its logs."""
    files = folder / "files"
    (files / "list").mkdir(parents=True)
    (files / "index.html").write_bytes(PAGE)
    (files / "slow").write_bytes(PAGE * 100)
    (files / "large").write_bytes(b"x" * (20 << 20))
    (files / "list" / "needle.txt").touch()
    server_tls(folder)
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder))
    folder.chmod(0o755)
    with inside("nx"):
        process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
        try:
            until_up(process, folder)
            yield folder
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def until_up(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not asked(TcpCheck(target=Target(HERE, PLAIN))).ok:
        assert process.poll() is None, (folder / "error.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def asked(check: Check, timeout_s: float = PATIENCE_S) -> Outcome:
    async def main() -> Outcome:
        return await probe_of(replace(check, pace=Pace(timeout_s=timeout_s)), CheckContext())()

    return asyncio.run(main())


def page(path: str, port: int = PLAIN, timeout_s: float = PATIENCE_S, **options: str | bool) -> Outcome:
    """Return the result of a check of one page; options of check and url by their names."""
    of_url = {name: options.pop(name) for name in ("digest", "regex", "virtualhost") if name in options}
    url = Url(path, **of_url)  # type: ignore[arg-type]
    tls = port != PLAIN
    return asked(HttpCheck(target=Target(HERE, port), urls=(url,), tls=tls, **options), timeout_s)  # type: ignore[arg-type]


GOOD = Outcome(True, "status 200")


def test_results_of_a_real_web_server(tmp_path: Path) -> None:
    with nginx(tmp_path) as folder:
        for protocol in ("1.0", "1.0C", "1.0K", "1.1", "1.1C", "1.1K"):
            assert page("/", digest=DIGEST, protocol=protocol) == GOOD
            assert page("/list/", regex="needle.txt</a>", protocol=protocol) == GOOD
            assert page("/", SECURE, digest=DIGEST, protocol=protocol) == GOOD
        assert asked(HttpCheck(target=Target(IPv6Address("::1"), PLAIN), urls=(Url("/", digest=DIGEST),))) == GOOD
        assert page("/absent") == Outcome(False, "status 404, not 200-299")
        assert page("/moved") == Outcome(False, "status 301, not 200-299")
        assert page("/none") == Outcome(True, "status 204")
        assert page("/gone") == Outcome(False, "connection closed without an answer")
        assert page("/", virtualhost="a b") == Outcome(False, "status 400, not 200-299")
        assert page("/large") == Outcome(True, "status 200 (a body of more than 16 MiB, not read on)")
        assert page("/large", digest=DIGEST) == Outcome(False, "a body of more than 16 MiB")
        slow = page("/slow", timeout_s=3.5, digest=DIGEST)
        assert slow.reason.startswith("timed out after 3.5 s ")  # nginx may be too slow for the header, too
        plain_to_tls = asked(HttpCheck(target=Target(HERE, SECURE), urls=(Url("/"),)))
        assert plain_to_tls == Outcome(False, "status 400, not 200-299")
        tls_to_plain = asked(HttpCheck(target=Target(HERE, PLAIN), urls=(Url("/"),), tls=True))
        assert tls_to_plain == Outcome(False, "TLS failed: wrong version number")
        assert page("/", STRICT).reason == "TLS failed: tlsv1 unrecognized name"
        assert page("/", STRICT, sni=True, virtualhost="www.example.com", digest=DIGEST) == GOOD
        logged = (folder / "access.log").read_text()
        assert logged.count('"GET / HTTP/1.0" 200 33 "-" "KeepAliveClient"') >= 6


@pytest.mark.parametrize("check", [TcpCheck, HttpCheck])
def test_a_good_check_causes_no_error_in_the_servers_log(tmp_path: Path, check: type[Check]) -> None:
    target = Target(HERE, PLAIN)
    made: Check = TcpCheck(target=target) if check is TcpCheck else HttpCheck(target=target, urls=(Url("/"),))
    with nginx(tmp_path) as folder:
        for _ in range(20):
            assert asked(made).ok
        assert page("/absent").reason == "status 404, not 200-299"  # its log line follows all others
        log = (folder / "error.log").read_text()
        deadline = time.monotonic() + PATIENCE_S
        while "absent" not in log and time.monotonic() < deadline:
            log = (folder / "error.log").read_text()
    assert [line for line in log.splitlines() if "client" in line and "absent" not in line] == []

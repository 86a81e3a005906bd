"""The SSL block and verify_server, against a real nginx that demands client certificates."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from pylvs.config.compile.document import build
from pylvs.config.language.parser import read_text
from pylvs.health.prober.link import ProberLink
from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.checks import HttpCheck, Pace, Target, TcpCheck, TlsClient, Url
from tests.interop.namespaces import inside
from tests.waiting import PATIENCE_S, until

HERE, PORT = IPv4Address("127.0.0.1"), 443
SERVICE = "lvs_sched rr\n lvs_method NAT\n protocol TCP"
CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log notice;
user root;
events {{ }}
http {{
    access_log off;
    ssl_certificate {folder}/server.crt;
    ssl_certificate_key {folder}/server.key;
    server {{
        listen 443 ssl;
        ssl_client_certificate {folder}/ca.crt;
        ssl_verify_client on;
        location / {{ return 200 "$ssl_client_s_dn"; }}
    }}
}}
"""


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


def make_files(folder: Path) -> None:
    """Make a CA, another one, and certificates of the first for www.example.com, 127.0.0.1 and for a client."""
    for name in ("ca", "other-ca"):
        words = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}")
        openssl(folder, *words, "-keyout", f"{name}.key", "-out", f"{name}.crt")
    (folder / "names").write_text("subjectAltName=DNS:www.example.com,IP:127.0.0.1\n")
    for name in ("server", "client", "other"):
        ca = "other-ca" if name == "other" else "ca"
        request = ("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", f"{name}.key")
        openssl(folder, *request, "-out", f"{name}.csr")
        signed = ("x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial")
        openssl(folder, *signed, "-days", "2", "-extfile", "names", "-out", f"{name}.crt")
    openssl(folder, "rsa", "-aes128", "-passout", "pass:secret", "-in", "client.key", "-out", "locked.key")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run nginx; return the directory of the certificates."""
    folder = tmp_path_factory.mktemp("nginx")
    folder.chmod(0o755)
    make_files(folder)
    (folder / "nginx.conf").write_text(CONFIGURATION.format(folder=folder))
    with inside("nc"):
        process = subprocess.Popen(["nginx", "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
        try:
            until(lambda: outcome(TcpCheck(target=Target(HERE, PORT))).ok, "nginx listens")
            yield folder
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def outcome(check: HttpCheck | TcpCheck) -> Outcome:
    async def main() -> Outcome:
        return await probe_of(check, CheckContext())()

    return asyncio.run(main())


def check_of(ssl_block: str, more: str = "") -> HttpCheck:
    """Return the check of a configuration with this SSL block."""
    text = (
        f"SSL {{\n{ssl_block}\n}}\nvirtual_server 192.0.2.1 443 {{\n{SERVICE}\n real_server 127.0.0.1 {PORT} {{\n"
        f" SSL_GET {{\n url {{\n path /\n regex client\n virtualhost www.example.com\n }}\n{more}\n }}\n }}\n}}\n"
    )
    configuration, findings = build(read_text(text)[0])
    assert [str(each) for each in findings] == []
    (check,) = configuration.services[0].servers[0].checks
    assert isinstance(check, HttpCheck)
    return replace(check, pace=Pace(timeout_s=PATIENCE_S))


GOOD = Outcome(True, "status 200")


@pytest.mark.parametrize(
    "block",
    [
        "certificate {folder}/client.crt\nkey {folder}/client.key",
        "certificate {folder}/client.crt\nkey {folder}/locked.key\npassword secret",
        "certificate {folder}/client.crt\nkey {folder}/client.key\nca {folder}/ca.crt",
        # keepalived loads ca, and verifies no server
        "certificate {folder}/client.crt\nkey {folder}/client.key\nca {folder}/other-ca.crt",
        "certificate {folder}/both.pem",
    ],
)
def test_the_server_accepts_the_certificate(folder: Path, block: str) -> None:
    (folder / "both.pem").write_text((folder / "client.crt").read_text() + (folder / "client.key").read_text())
    assert outcome(check_of(block.format(folder=folder))) == GOOD


@pytest.mark.parametrize(
    ("block", "text"),
    [("", "status 400"), ("certificate {folder}/other.crt\nkey {folder}/other.key", "status 400")],
)
def test_without_its_certificate_the_server_refuses(folder: Path, block: str, text: str) -> None:
    found = outcome(check_of(block.format(folder=folder)))
    assert not found.ok
    assert found.reason.startswith(text)


@pytest.mark.parametrize(
    ("ca", "name", "reason"),
    [
        ("ca", "www.example.com", ""),
        ("ca", "", ""),
        ("ca", "www.example.net", "TLS failed: certificate verify failed"),
        ("other-ca", "www.example.com", "TLS failed: certificate verify failed"),
        ("", "www.example.com", "TLS failed: certificate verify failed"),
    ],
)
def test_verify_server_wants_a_trusted_certificate_of_the_name(folder: Path, ca: str, name: str, reason: str) -> None:
    client = TlsClient(
        certificate=f"{folder}/client.crt", key=f"{folder}/client.key", ca=f"{folder}/{ca}.crt" if ca else ""
    )
    check = HttpCheck(
        target=Target(HERE, PORT), urls=(Url("/", virtualhost=name),), tls=True, verify_server=True, client=client
    )
    found = outcome(replace(check, pace=Pace(timeout_s=PATIENCE_S)))
    assert (found.ok, found.reason.startswith(reason)) == (not reason, True)


def test_the_confined_process_shows_the_certificate_and_a_reload_reads_it_again(folder: Path, tmp_path: Path) -> None:
    """The key is readable for root alone, and the process has neither root's rights nor files."""

    def copy(name: str) -> None:
        for kind in ("crt", "key"):
            (tmp_path / kind).write_bytes((folder / f"{name}.{kind}").read_bytes())
            (tmp_path / kind).chmod(0o600)

    async def main() -> list[str]:
        link = ProberLink()
        try:
            copy("other")
            check = check_of(f"certificate {tmp_path}/crt\nkey {tmp_path}/key")
            wanted = [(check.client, check.verify_server)]
            link.set_tls(wanted)
            probe = link.probe_of(check, CheckContext())
            found = [(await probe()).reason.split(",")[0]]
            copy("client")
            found.append((await probe()).reason.split(",")[0])
            link.set_tls(wanted)
            found.append((await probe()).reason)
            return found
        finally:
            await link.close()

    assert asyncio.run(main()) == ["status 400", "status 400", "status 200"]


@pytest.mark.parametrize(
    ("block", "finding"),
    [
        ("certificate /none/crt", "SSL: certificate /none/crt: No such file or directory"),
        ("certificate {folder}/client.crt\nkey /none/key", "SSL: key /none/key: No such file or directory"),
        (
            "certificate {folder}/client.crt\nkey {folder}/other.key",
            "SSL: key {folder}/other.key: is not the key of the certificate {folder}/client.crt",
        ),
        (
            "certificate {folder}/client.crt\nkey {folder}/locked.key",
            "SSL: key {folder}/locked.key: cannot be decrypted; its password in the SSL block is wrong or missing",
        ),
        ("ca /none/ca", "SSL: ca /none/ca: No such file or directory"),
        ("certificate {folder}/names", "SSL: certificate {folder}/names: has no certificate in PEM format"),
    ],
)
def test_a_file_that_cannot_be_used_stops_the_start(folder: Path, block: str, finding: str) -> None:
    text = (
        f"SSL {{\n{block.format(folder=folder)}\n}}\n"
        f"virtual_server 192.0.2.1 443 {{\n{SERVICE}\n real_server 127.0.0.1 443 {{\n"
        " SSL_GET {\n url {\n path /\n }\n }\n }\n}\n"
    )
    (found,) = build(read_text(text)[0])[1]
    assert found.text == finding.format(folder=folder)
    assert found.fatal

"""SSL_GET: unknown certificates, old servers, server names, and all ways to end a connection."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylvs.health.checkers import sockets
from pylvs.health.probes import CheckContext, Outcome, probe_of
from pylvs.model.checks import HttpCheck, Pace, Target, Url
from tests.unit.health.fake_servers import PATIENT, TIMED_OUT, V4, Handler, asked, hangs, replies, undisturbed
from tests.unit.health.test_http import GOOD, HELLO, ROOT, md5

RECORDS = st.builds(  # of TLS, with a right length
    lambda kind, version, body: bytes([kind]) + version + len(body).to_bytes(2, "big") + body,
    st.integers(20, 24),
    st.sampled_from([b"\2\0", b"\3\1", b"\3\3", b"\3\4"]),
    st.binary(max_size=300),
)


def got_over_tls(handler: Handler, tls: ssl.SSLContext, url: Url = ROOT, **options: object) -> Outcome:
    return asked(
        lambda target: HttpCheck(target=target, urls=(url,), tls=True, pace=PATIENT, **options),  # type: ignore[arg-type]
        handler,
        tls=tls,
    )


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_an_unknown_certificate_is_accepted(tls: ssl.SSLContext, version: str) -> None:
    tls.minimum_version = tls.maximum_version = ssl.TLSVersion[version]
    assert got_over_tls(replies(HELLO), tls, Url("/", digest=md5(b"say hello"))) == Outcome(True, GOOD)
    large = b"x" * 1_000_000
    assert got_over_tls(replies(b"HTTP/1.0 200 OK\r\n\r\n", large), tls, Url("/", digest=md5(large))) == Outcome(
        True, GOOD
    )


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
def test_an_old_server_with_weak_ciphers_is_accepted(tls: ssl.SSLContext) -> None:
    tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1
    tls.set_ciphers("AES128-SHA:@SECLEVEL=0")
    assert got_over_tls(replies(HELLO), tls) == Outcome(True, GOOD)


@pytest.mark.parametrize(
    ("options", "url", "name"),
    [
        ({}, Url("/", virtualhost="www.example.com"), None),
        ({"sni": True}, Url("/", virtualhost="www.example.com"), "www.example.com"),
        ({"sni": True}, Url("/", virtualhost="www.example.com:8443"), "www.example.com"),
        ({"sni": True, "virtualhost": "check.example"}, Url("/"), "check.example"),
        ({"sni": True}, Url("/"), None),
        ({"sni_name": "other.example"}, Url("/", virtualhost="www.example.com"), "other.example"),
    ],
)
def test_the_name_is_sent_if_configured(
    tls: ssl.SSLContext, options: dict[str, object], url: Url, name: str | None
) -> None:
    names: list[str | None] = []
    tls.sni_callback = lambda connection, sent, context: names.append(sent)
    assert got_over_tls(replies(HELLO), tls, url, **options) == Outcome(True, GOOD)
    assert names == [name]


def test_an_invalid_name_is_reported(tls: ssl.SSLContext) -> None:
    outcome = got_over_tls(replies(HELLO), tls, sni_name="a..b")
    assert not outcome.ok
    assert outcome.reason.startswith("TLS failed: server name 'a..b'")


def check_of(target: Target, pace: Pace = PATIENT) -> HttpCheck:
    return HttpCheck(target=target, urls=(ROOT,), tls=True, pace=pace)


def test_tls_to_a_server_without_it_is_reported() -> None:
    assert asked(check_of, replies(HELLO)) == Outcome(False, "TLS failed: wrong version number")
    assert asked(check_of, replies()) == Outcome(False, "connection closed in the TLS handshake")
    assert asked(check_of, replies(reset=True)) == Outcome(False, "connection reset in the TLS handshake")


@given(st.one_of(st.binary(max_size=200), st.lists(RECORDS, max_size=4).map(b"".join)))
@settings(deadline=None, max_examples=100)
def test_garbage_instead_of_a_handshake_fails(garbage: bytes) -> None:
    outcome = asked(check_of, replies(garbage))
    assert not outcome.ok
    assert outcome.reason.startswith("TLS failed: ") or outcome.reason in (
        "connection closed in the TLS handshake",
        "connection reset in the TLS handshake",
    )


def test_garbage_within_tls_fails(tls: ssl.SSLContext) -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n")
        await writer.drain()
        os.write(writer.get_extra_info("socket").fileno(), bytes(range(64)))
        await reader.read()

    outcome = got_over_tls(handler, tls)
    assert not outcome.ok
    assert outcome.reason.startswith("TLS failed")


def test_tls_that_never_begins_times_out() -> None:
    assert asked(check_of, hangs()) == Outcome(False, f"{TIMED_OUT} in the TLS handshake")


def renegotiated(certificate: str, times: int) -> Outcome:
    """Return the outcome of a server that renegotiates TLS so often between the request and its answer."""
    command = ["openssl", "s_server", "-accept", f"{V4}:0", "-naccept", "1", "-cert", certificate, "-tls1_2", "-state"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "bufsize": 0}
    with subprocess.Popen(command, **pipes) as server:  # type: ignore[call-overload]

        def line_with(text: bytes) -> bytes:
            return next((line for line in server.stdout if text in line), b"")

        def serve() -> None:
            line_with(b"GET / ")
            with contextlib.suppress(BrokenPipeError):  # the client has disconnected
                for _ in range(times):
                    server.stdin.write(b"r\n")
                    line_with(b"read finished")
                server.stdin.write(b"HTTP/1.0 200 OK\r\n\r\nhello\n")
            server.stdin.close()
            server.stdout.read()

        port = int(line_with(b"ACCEPT").rpartition(b":")[2])

        async def main() -> Outcome:
            serving = asyncio.get_running_loop().run_in_executor(None, serve)
            outcome = await probe_of(check_of(Target(IPv4Address(V4), port)), CheckContext())()
            await serving
            return outcome

        with asyncio.Runner() as runner:
            return runner.run(main())


def test_a_server_may_renegotiate_but_not_for_ever(certificate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each renegotiation takes several reads without data."""
    assert renegotiated(certificate, 3) == Outcome(True, GOOD)
    most = 30
    monkeypatch.setattr(sockets, "_MAX_SILENT_READS", most)
    reason = f"TLS failed: {most} messages without data waiting for the answer"
    assert renegotiated(certificate, 2 * most) == Outcome(False, reason)


def raw_tls_end(tls: ssl.SSLContext, compliant: bool) -> tuple[Outcome, str]:
    """Run a server that ends without close_notify; return the outcome, and how the client ended."""
    ends: list[str] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with tls.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as served:
            served.recv(4096)
            served.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            with socket.socket(fileno=os.dup(served.fileno())) as bare:  # ssl's error for it depends on the version
                ends.append("close_notify" if bare.recv(1) else "")

    with socket.create_server((V4, 0)) as listener:
        target = Target(IPv4Address(V4), listener.getsockname()[1])
        url = Url("/", tls_compliant=compliant)

        async def main() -> Outcome:
            serving = asyncio.get_running_loop().run_in_executor(None, serve)
            outcome = await probe_of(HttpCheck(target=target, urls=(url,), tls=True, pace=PATIENT), CheckContext())()
            await serving
            return outcome

        return undisturbed(main), ends[0]


def test_close_notify_is_sent_if_configured(tls: ssl.SSLContext) -> None:
    assert raw_tls_end(tls, True) == (Outcome(True, GOOD), "close_notify")
    assert raw_tls_end(tls, False) == (Outcome(True, GOOD), "")


def test_an_end_without_close_notify_is_accepted(tls: ssl.SSLContext) -> None:
    assert got_over_tls(replies(b"HTTP/1.0 200 OK\r\n\r\nhi", reset=False), tls, Url("/", digest=md5(b"hi"))).ok

"""`pylvs trace`: its limits, outputs, warnings, and what it refuses. Sessions are made up; tests/lab has real ones."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from pylvs.cli import main
from pylvs.cli.packets import trace as command
from pylvs.model.errors import Busy, InvalidOperation
from pylvs.model.service import Protocol
from pylvs.trace.filters import Filter
from pylvs.trace.packet import TracedPacket
from pylvs.trace.session import Counts, TraceEnded
from tests.unit.trace.packets import ALL, DIRECT, DROPPED, NAT

Read = TracedPacket | None | BaseException


class FakeSession:
    """A session that yields what a test has, then nothing; each step takes half a second of its clock."""

    def __init__(self, reads: Sequence[Read], counts: Counts) -> None:
        self.reads, self.counted, self.moment = list(reads), counts, 0.0
        self.opened: dict[str, Any] = {}
        self.closed = False

    def read(self, timeout_s: float) -> TracedPacket | None:
        self.moment += timeout_s
        found = self.reads.pop(0) if self.reads else KeyboardInterrupt()
        if isinstance(found, BaseException):
            raise found
        return found

    def counts(self) -> Counts:
        return self.counted


class Runner:
    """Runs the command with a made-up session."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd
        self.session = FakeSession((), Counts(0, 0, 0, 0, 0))

    def __call__(self, *words: str, reads: Sequence[Read] = (), counts: Counts | None = None) -> tuple[int, str, str]:
        shown = len([each for each in reads if isinstance(each, TracedPacket)])
        self.session = session = FakeSession(reads, counts or Counts(shown, 0, 0, shown, 0))

        @contextlib.contextmanager
        def open_session(given: Filter, **values: int) -> Iterator[FakeSession]:
            session.opened = {"filter": given.expression, **values}
            try:
                yield session
            finally:
                session.closed = True

        self.monkeypatch.setattr(command, "open_session", open_session)
        self.monkeypatch.setattr("pylvs.cli.packets.trace.monotonic", lambda: session.moment)
        status = main.run(["trace", *words])
        return status, *self.capfd.readouterr()


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capfd)


def test_it_ends_after_ten_packets(trace: Runner) -> None:
    status, out, err = trace(reads=[DIRECT] * 12)
    assert (status, out.count(" in   eth0")) == (0, 10)
    assert err.splitlines() == [
        "pylvs: tracing all packets; it ends after 10 packets, or by ctrl-C",
        "pylvs: packets: 12 matched, 10 shown",
    ]
    assert trace.session.closed
    assert trace.session.opened == {"filter": "", "sample": 1, "rate": 1000, "snap": 128}


@pytest.mark.parametrize(
    ("words", "shown", "ending"),
    [
        ("--count 3", 3, "it ends after 3 packets, or by ctrl-C"),
        ("--follow", 12, "ctrl-C ends it"),
        ("--follow --count 11", 11, "it ends after 11 packets, or by ctrl-C"),
        ("--seconds 2", 4, "it ends after 2 s, or by ctrl-C"),
        ("--seconds 2 --count 1", 1, "it ends after 1 packet or 2 s, or by ctrl-C"),
    ],
)
def test_options_choose_another_end(trace: Runner, words: str, shown: int, ending: str) -> None:
    status, out, err = trace(*words.split(), reads=[DIRECT] * 12)
    assert (status, out.count(" in   eth0")) == (0, shown)
    assert err.splitlines()[0] == f"pylvs: tracing all packets; {ending}"


def test_the_words_of_a_filter_need_no_quotes(trace: Runner) -> None:
    status, _, err = trace(
        "tcp", "port", "80", "--count", "1", "--rate", "5", "--sample", "7", "--snap", "96", reads=[NAT]
    )
    assert status == 0
    assert trace.session.opened == {"filter": "tcp port 80", "sample": 7, "rate": 5, "snap": 96}
    assert err.startswith("pylvs: tracing packets that match 'tcp port 80'; it ends after 1 packet")


@pytest.mark.parametrize(("words", "expected"), [([], 130), (["--follow"], 0)], ids=["early", "follow"])
def test_ctrl_c_prints_the_summary(trace: Runner, words: list[str], expected: int) -> None:
    status, out, err = trace(*words, reads=[None, DROPPED], counts=Counts(9, 5, 3, 1, 0))
    assert status == expected
    assert "drop table full dropped" in out
    assert err.splitlines()[-1] == "pylvs: packets: 9 matched, 1 shown, 5 not shown by the rate limit, 3 lost"
    assert trace.session.closed


def test_too_many_packets_are_one_warning_of_each_kind(trace: Runner) -> None:
    _, _, err = trace("--follow", "--rate", "50", reads=[DIRECT] * 8, counts=Counts(900, 800, 92, 8, 1))
    warnings = [line.removeprefix("pylvs: warning: ") for line in err.splitlines() if "warning" in line]
    remedy = "write a narrower FILTER, or use --sample or --rate"
    assert warnings == [
        f"more packets than --rate 50 match in a second; others are counted, not shown: {remedy}",
        f"packets match faster than they are printed, and some are lost: {remedy}",
        "this process was stopped for seconds, in which nothing was traced",
    ]


def test_json_has_an_object_a_line(trace: Runner) -> None:
    status, out, _ = trace("--json", reads=[*ALL.values(), None], counts=Counts(14, 0, 0, 14, 0))
    assert status == 0
    assert [json.loads(line)["verdict"] for line in out.splitlines()] == [each.verdict for each in ALL.values()][:10]


def test_explain_prints_both_headers(trace: Runner) -> None:
    _, out, _ = trace("--explain", "--count", "1", reads=[NAT])
    assert "destination       10.0.0.100         * 10.0.0.22" in out
    assert "\x1b" not in out  # no colours where there is no terminal


def test_a_file_is_replaced_and_has_what_is_printed(trace: Runner, tmp_path: Path) -> None:
    path = tmp_path / "packets.pcapng"
    path.write_bytes(b"x" * 100_000)
    status, out, _ = trace("--pcap", str(path), "--count", "2", reads=[DIRECT, DROPPED])
    assert (status, out.count(" in   eth0")) == (0, 2)
    done = subprocess.run(["tshark", "-r", path], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 3


def test_stdout_as_the_file_has_nothing_else(trace: Runner) -> None:
    status, out, err = trace("--pcap", "-", "--count", "1", reads=[replace(DROPPED, before=b"\1" * 20, length=20)])
    assert status == 0
    assert out.encode("utf-8", "surrogateescape")[:4] == b"\x0a\x0d\x0d\x0a"
    assert " in   eth0" not in out
    assert err.endswith("pylvs: packets: 1 matched, 1 shown\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["tcp", "prt"], "filter 'tcp prt': can't parse filter expression: syntax error; see man pcap-filter"),
        (["--pcap", "/nowhere/file"], "/nowhere/file: No such file or directory"),
        (["--pcap", "/dev/full"], "/dev/full: No space left on device"),
    ],
)
def test_a_failure_is_one_line_before_anything_is_shown(trace: Runner, words: list[str], text: str) -> None:
    assert trace(*words, reads=[DIRECT]) == (1, "", f"pylvs: {text}\n")
    assert trace.session.closed or not trace.session.opened


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("--json --explain", "--json and --explain exclude each other"),
        ("--pcap - --json", "--pcap - writes packets to stdout, so --json and --explain have no place there"),
        (
            "--synthetic 10.0.0.1 10.0.0.2:2",
            "--synthetic: '10.0.0.1' is no address with a port; write 192.0.2.1:80 or [2001:db8::1]:80",
        ),
        (
            "--synthetic 2001:db8::1:80 [::1]:2",
            "--synthetic: '2001:db8::1:80' is no address with a port; write 192.0.2.1:80 or [2001:db8::1]:80",
        ),
        (
            "--synthetic 10.0.0.1:0 [::1]:2",
            "--synthetic: '10.0.0.1:0' is no address with a port; write 192.0.2.1:80 or [2001:db8::1]:80",
        ),
        (
            "--synthetic 10.0.0.1:1 10.0.0.2:2 tcp",
            "--synthetic shows one packet: it takes no FILTER, --count, --follow or --seconds",
        ),
        ("--protocol udp", "--protocol and --device belong to --synthetic; FILTER selects packets"),
        ("--snap 20", "Invalid value for '--snap': 20 is not in the range 64<=x<=256"),
        ("--count 0", "Invalid value for '--count': 0 is not in the range x>=1"),
        ("--seconds 0", "Invalid value for '--seconds': 0.0 is not in the range x>0"),
    ],
)
def test_options_that_do_not_fit_are_refused(trace: Runner, words: str, text: str) -> None:
    assert trace(*words.split()) == (2, "", f"pylvs: {text}; see pylvs trace --help\n")


@pytest.mark.parametrize(
    "error",
    [
        InvalidOperation("there is nothing to trace"),
        Busy("another trace is running (process 7): end it first; one at a time can run"),
    ],
)
def test_an_error_of_the_session_is_one_line(
    trace: Runner, monkeypatch: pytest.MonkeyPatch, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(command, "open_session", refuse)
    assert main.run(["trace"]) == 1
    assert capfd.readouterr() == ("", f"pylvs: {error}\n")


def test_a_packet_that_is_not_sent_is_one_question(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = list[tuple[object, ...]]()

    def ask(*values: object) -> TracedPacket:
        asked.append(values)
        return DIRECT

    monkeypatch.setattr(command, "ask", ask)
    words = ["trace", "--synthetic", "192.0.2.5:40000", "10.0.0.100:80"]
    assert main.run([*words, "--protocol", "udp", "--device", "eth1"]) == 0
    assert main.run(["trace", "--synthetic", "[2001:db8::5]:1", "[2001:db8::100]:65535", "--json"]) == 0
    out, err = capfd.readouterr()
    assert out.count("10.0.0.5:40000 > 10.0.0.100:80") == 1
    assert err.splitlines()[0] == "pylvs: nothing is sent; the first packet of this flow would be treated so:"
    assert asked == [
        (IPv4Address("192.0.2.5"), 40000, IPv4Address("10.0.0.100"), 80, Protocol.UDP, "eth1"),
        (IPv6Address("2001:db8::5"), 1, IPv6Address("2001:db8::100"), 65535, Protocol.TCP, ""),
    ]


def test_a_session_that_ends_by_itself_prints_why_behind_the_packets(trace: Runner) -> None:
    status, out, err = trace(reads=[DIRECT, TraceEnded("the trace ends: the tables were removed")])
    assert (status, out.count(" in   eth0")) == (1, 1)
    assert err.splitlines()[1:] == [
        "pylvs: packets: 1 matched, 1 shown",
        "pylvs: the trace ends: the tables were removed",
    ]

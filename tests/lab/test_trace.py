"""`pylvs trace` in labs: real requests through the director, as text, JSON and a file that tshark reads."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pylvs.lab.hosts import environment
from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.support import PYLVS, answers
from tests.waiting import PATIENCE_S, until


class Trace:
    """A running `pylvs trace`, with what it has printed."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process, self._folder = process, folder

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text()

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text()

    def end(self, number: int | None = None) -> int:
        """Send a signal, if any, and return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextmanager
def traced(lab: Lab, folder: Path, *words: str) -> Iterator[Trace]:
    """Run `pylvs trace` on the director; packets are traced once this yields."""
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [*lab.host("director").inside(), *PYLVS, "trace", *words],
            stdout=out,
            stderr=err,
            text=True,
            env=environment(),
        )
    trace = Trace(process, folder)
    try:
        until(lambda: "tracing" in trace.err or process.poll() is not None, lambda: trace.err)
        yield trace
    finally:
        process.kill()
        process.wait(PATIENCE_S)


def tshark(path: Path) -> list[dict[str, Any]]:
    words = ["tshark", "-n", "-r", str(path), "-T", "json", "--no-duplicate-keys"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


def objects(trace: Trace) -> list[dict[str, Any]]:
    whole = trace.out.rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def forwarded_by_xdp(lab: Lab, trace: Trace) -> dict[str, Any]:
    """Make a request; return the first packet that XDP forwarded, empty without one."""
    assert answers(lab, 1) == ["This is rs1 server!"]
    found = (packet for packet in objects(trace) if (packet["hook"], packet["verdict"]) == ("xdp", "forwarded"))
    return next(found, {})


def use_xdp(lab: Lab, device: str = "eth0") -> None:
    """Let XDP forward: with finished checksums, and next hops that the director knows."""
    lab.sh("client", "ethtool -K eth0 tx off >/dev/null")
    lab.sh("director", f"pylvs attach {device} --mode generic")
    answers(lab, 3)


def test_the_file_has_both_sides_of_packets_that_xdp_forwards(make_lab: MakeLab, tmp_path: Path) -> None:
    lab, path = make_lab("dr", 1), tmp_path / "packets.pcapng"
    use_xdp(lab)
    words = ["--json", "--pcap", str(path), "--follow", "tcp[tcpflags] & tcp-push != 0"]
    with traced(lab, tmp_path, *words) as trace:
        # Now and then XDP leaves a packet to TC, so that the kernel confirms the neighbour.
        packet = until(lambda: forwarded_by_xdp(lab, trace), lambda: trace.out)
        assert trace.end(signal.SIGINT) == 0
    assert {name: packet[name] for name in ("hook", "verdict", "method", "choice", "state", "output", "kind")} == {
        "hook": "xdp",
        "verdict": "forwarded",
        "method": "direct",
        "choice": "existing_connection",
        "state": "ESTABLISHED",
        "output": "eth0",
        "kind": "TCP PSH ACK",
    }
    assert {row["field"] for row in packet["changes"]} == {"destination MAC", "source MAC", "TTL", "header checksum"}
    came, left = (side for side in tshark(path) if side["frame"]["frame.packet_id"] == str(packet["number"]))
    assert [side["eth"]["eth.dst"] for side in (came, left)] == ["02:00:00:00:0d:00", "02:00:00:01:01:00"]
    assert [side["ip"]["ip.ttl"] for side in (came, left)] == ["64", "63"]
    assert came["ip"]["ip.dst"] == left["ip"]["ip.dst"] == "10.0.0.100"
    for side in came, left:
        assert side["pkt_comment"]["frame.comment"].startswith(
            "forwarded by eth0; TCP 10.0.0.100:80 -> 10.0.0.21:80 direct"
        )
        assert side["frame"]["frame.len"] == str(packet["length"])


@pytest.mark.parametrize(
    ("kind", "layers"),
    [("gre", ["+IPv4", "+GRE"]), ("gue", ["+IPv4", "+UDP", "+GUE"])],
)
def test_a_tunnel_is_shown_with_its_outer_headers(
    make_lab: MakeLab, tmp_path: Path, kind: str, layers: list[str]
) -> None:
    lab = make_lab("tun", 1, tunnel=kind)
    answers(lab, 1)
    with traced(lab, tmp_path, "--count", "1", "tcp[tcpflags] & tcp-push != 0") as trace:
        assert answers(lab, 1) == ["This is rs1 server!"]
        assert trace.end() == 0
    assert trace.out.splitlines()[-1].endswith(f"changed: MACs, TTL, {', '.join(layers)}")
    assert "IPv4 10.0.0.10 > 10.0.11.21" in trace.out


def test_the_file_has_the_outer_header_of_a_tunnel(make_lab: MakeLab, tmp_path: Path) -> None:
    """The comment of both sides has the verdict, and the packet that left has the length of its outer header more."""
    lab, path = make_lab("tun", 1), tmp_path / "packets.pcapng"
    answers(lab, 1)
    with traced(
        lab, tmp_path, "--pcap", str(path), "--count", "2", "tcp[tcpflags] & (tcp-syn | tcp-push) != 0"
    ) as trace:
        assert answers(lab, 1) == ["This is rs1 server!"]
        assert trace.end() == 0
    frames = tshark(path)
    assert [side["frame"]["frame.packet_id"] for side in frames] == ["1", "1", "2", "2"]
    for came, left in (frames[:2], frames[2:]):
        assert came["ip"]["ip.dst"] == "10.0.0.100"
        outer, inner = left["ip"]  # --no-duplicate-keys makes a list of two headers
        assert (outer["ip.src"], outer["ip.dst"], outer["ip.proto"]) == ("10.0.0.10", "10.0.11.21", "4")
        assert (inner["ip.src"], inner["ip.dst"]) == ("172.16.0.5", "10.0.0.100")
        assert int(left["frame"]["frame.len"]) == int(came["frame"]["frame.len"]) + 20
        comments = {side["pkt_comment"]["frame.comment"] for side in (came, left)}
        assert len(comments) == 1
        assert comments.pop().startswith("forwarded by eth0; TCP 10.0.0.100:80 -> 10.0.11.21:80 tunnel")


def test_both_ways_of_nat_and_ipv6(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab("nat", 1, 6)
    answers(lab, 1)
    with traced(lab, tmp_path, "--json", "--count", "2", "ip6 and tcp port 80 and ip6[53] & 2 != 0") as trace:
        assert answers(lab, 1) == ["This is rs1 server!"]
        assert trace.end() == 0
    syn, reply = objects(trace)
    server, vip = syn["server"], syn["destination"]
    assert (syn["kind"], syn["sent_destination"]) == ("TCP SYN", server)
    assert (reply["kind"], reply["choice"], reply["source"]) == ("TCP SYN ACK", "reply", server)
    assert (reply["sent_source"], reply["sent_destination"]) == (vip, syn["source"])


def test_ctrl_c_another_trace_and_down(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab("dr", 1)
    with traced(lab, tmp_path, "--follow", "--seconds", "1000", "tcp dst port 80 or tcp dst port 81") as trace:
        answers(lab, 1)
        lab.run("client", ["curl", "-s", "--max-time", "30", "http://VIP:81/"])  # no service: the stack refuses it
        until(lambda: "pass of no service" in trace.out, lambda: trace.out)
        other = lab.run("director", [*PYLVS, "trace"])
        assert (other.returncode, other.stdout) == (1, "")
        assert other.stderr.startswith("pylvs: another trace is running (process ")
        assert trace.end(signal.SIGINT) == 0
    assert trace.err.splitlines()[-1].startswith("pylvs: packets: ")
    with traced(lab, tmp_path, "--follow") as trace:
        lab.sh("director", "pylvs down")
        assert trace.end() == 1
    assert trace.err.splitlines()[-1] == "pylvs: the trace ends: the tables of this director were removed (pylvs down)"
    refused = lab.run("director", [*PYLVS, "trace"])
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("pylvs: nothing to trace: this network namespace has no virtual service")


def test_a_busy_director_prints_a_warning_and_forwards_everything(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab("dr", 1)
    with traced(lab, tmp_path, "--follow", "--rate", "8") as trace:
        until(lambda: set(answers(lab, 20)) == {"This is rs1 server!"} and "--rate 8" in trace.err, lambda: trace.err)
        assert trace.end(signal.SIGINT) == 0
    (warning,) = [line for line in trace.err.splitlines() if "--rate 8" in line]
    assert warning.startswith("pylvs: warning: more packets than --rate 8 match in a second")
    assert "not shown by the rate limit" in trace.err.splitlines()[-1]

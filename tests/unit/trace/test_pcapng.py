"""The file of `pylvs trace --pcap`, as Wireshark reads it."""

from __future__ import annotations

import errno
import io
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pylvs.trace.decision import comment
from pylvs.trace.packet import TracedPacket
from pylvs.trace.pcapng import PacketFile, length_of
from tests.unit.trace.packets import ALL, DIRECT, DROPPED, IP6IP6, IPIP, TIME

SNAP = 128
PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "trace.md"


def tshark(path: Path) -> list[dict[str, Any]]:
    """The layers of each packet, as tshark decodes them. It exits with an error for a file that is cut or damaged."""
    words = ["tshark", "-n", "-r", str(path), "-T", "json", "--no-duplicate-keys"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


def written(path: Path, packets: list[TracedPacket]) -> list[dict[str, Any]]:
    with path.open("wb") as stream:
        file = PacketFile(stream, SNAP)
        for packet in packets:
            file.add(packet, comment(packet))
    return tshark(path)


def comments(layers: dict[str, Any]) -> str:
    return str(layers["pkt_comment"]["frame.comment"])


def test_both_sides_of_a_packet_have_device_direction_time_and_verdict(tmp_path: Path) -> None:
    came, left = written(tmp_path / "file", [replace(DIRECT, output="eth1")])
    assert (came["eth"]["eth.dst"], left["eth"]["eth.dst"]) == ("02:00:00:00:0d:00", "02:00:00:01:02:00")
    for side, device, direction in ((came, "eth0", "0x00000001"), (left, "eth1", "0x00000002")):
        frame = side["frame"]
        assert frame["frame.interface_id_tree"]["frame.interface_name"] == device
        assert frame["frame.packet_flags_tree"]["frame.packet_flags_direction"] == direction
        assert frame["frame.packet_id"] == "1"
        assert float(frame["frame.time_epoch"]) == TIME
        assert side["tcp"]["tcp.dstport"] == "80"
        assert comments(side) == (
            "forwarded by eth1; TCP 10.0.0.100:80 -> 10.0.0.22:80 direct; wlc: least load for its weight, 256, of 3"
            " servers; new connection, SYN_RECV; hook xdp, CPU 1"
        )


def test_a_packet_that_was_not_sent_has_one_side_and_its_drop_reason(tmp_path: Path) -> None:
    (came,) = written(tmp_path / "file", [DROPPED])
    assert comments(came).startswith("dropped: table full dropped: the connection table is full")


def test_each_kind_of_packet_is_readable(tmp_path: Path) -> None:
    found = written(tmp_path / "file", list(ALL.values()))
    assert len(found) == sum(2 if packet.after else 1 for packet in ALL.values())
    assert all("_ws.malformed" not in layers for layers in found)


def test_a_truncated_packet_has_its_original_length(tmp_path: Path) -> None:
    cut = replace(DIRECT, before=DIRECT.before[:40], after=DIRECT.after[:40], length=1514, sent_length=1515)
    lengths = [
        (layers["frame"]["frame.cap_len"], layers["frame"]["frame.len"]) for layers in written(tmp_path / "f", [cut])
    ]
    assert lengths == [("40", "1514"), ("40", "1515")]


@pytest.mark.parametrize("packet", [DIRECT, IPIP, IP6IP6], ids=["direct", "ipip", "ip6ip6"])
def test_the_length_of_a_cut_frame_is_that_of_its_headers(packet: TracedPacket) -> None:
    assert length_of(packet.after[:60]) == length_of(packet.after) == len(packet.after)
    assert length_of(b"\0" * 10) == 10


def test_the_file_is_readable_after_each_packet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as stream:
        file = PacketFile(stream, SNAP)
        assert tshark(path) == []
        for number, packet in enumerate(ALL.values(), 1):
            file.add(replace(packet, after=b"", output=None), "a comment")
            assert path.stat().st_size % 4 == 0
            if number in (1, len(ALL)):
                assert len(tshark(path)) == number


def test_names_with_any_bytes_do_not_damage_the_file(tmp_path: Path) -> None:
    path, strange = tmp_path / "file", replace(DIRECT, device="\udcffa\x1b[31m\n", output="x" * 300)
    with path.open("wb") as stream:
        PacketFile(stream, SNAP).add(strange, "ä" * 100)
    came, left = tshark(path)
    assert comments(came) == "ä" * 100
    assert came["frame"]["frame.interface_id_tree"]["frame.interface_name"] == "?a\x1b[31m\n"
    assert left["frame"]["frame.interface_id_tree"]["frame.interface_name"] == "x" * 300


def test_a_comment_is_cut_at_the_longest_option_between_two_characters(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as stream:
        PacketFile(stream, SNAP).add(DROPPED, "ä" * 70_000)
    words = ["tshark", "-n", "-r", str(path), "-T", "fields", "-e", "frame.number"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "1\n"
    assert path.read_bytes().count("ä".encode()) == 0xFFFF // 2


def test_the_documented_display_filters_select_what_the_page_names(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as stream:
        file = PacketFile(stream, SNAP)
        for number, packet in enumerate(ALL.values(), 1):
            file.add(replace(packet, number=number), comment(packet))
    rows = re.findall(r"^\| `(frame\..*)` \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    found = {}
    for expression, meaning in rows:
        words = ["tshark", "-n", "-r", str(path), "-Y", expression]
        found[meaning] = len(subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines())
    sent = sum(bool(packet.after) for packet in ALL.values())
    assert found == {"packets as they left": sent, "dropped packets": 1, "both sides of packet 3": 2}


def test_a_full_disk_is_an_error() -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        PacketFile(Full(), SNAP)

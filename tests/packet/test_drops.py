"""`pylvs drops` prints what became of packets, by device, reason and service, and where packets are missing."""

from __future__ import annotations

import json
import re
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner

from pylvs.bpf.reasons import reasons
from pylvs.cli.packets import drops as command
from pylvs.cli.packets.drops import drops
from pylvs.model.rows import DeviceEnds, HookPackets
from tests.json_page import assert_documented
from tests.packet.frames import tcp
from tests.packet.host import new_host, populated_namespace
from tests.packet.wire import wire
from tests.waiting import until


def in_json() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(CliRunner().invoke(drops, ["--json"]).output)
    return found


def test_the_tables_have_devices_reasons_and_services() -> None:
    with new_host(mode="tc", recycled=True) as host, wire() as link:
        service = host.new_key()
        host.serve(service, 0)
        for sport in range(7):
            link.send(tcp(sport=sport, dport=service.port))
        until(lambda: host.reason("NO_DESTINATION") == 7, "they are counted")
        printed = CliRunner().invoke(drops).output
        assert re.search(r"^device +received +forwarded +passed +dropped +held +difference$", printed, re.MULTILINE)
        (row,) = re.findall(r"^d0 +(\d+) +0 +(\d+) +7 +0 +0$", printed, re.MULTILINE)
        assert int(row[0]) == int(row[1]) + 7
        sentence = reasons()["no destination"].sentence
        assert re.search(
            rf"^dropped\n +7  no destination +{re.escape(sentence)}\n +{service}: 7$", printed, re.MULTILINE
        )
        found = in_json()
        assert_documented("pylvs drops", found, {"devices": [{"difference": None}]})
        (of_reason,) = (each for each in found["reasons"] if each["reason"] == "no destination")
        assert of_reason["services"] == [{"service": str(service), "count": 7}]


def test_without_tables_it_names_the_command_that_makes_them() -> None:
    with populated_namespace():
        assert "no tables in this network namespace" in CliRunner().invoke(drops).output
        assert in_json() == {"tables": False, "devices": [], "reasons": []}


def test_it_has_rates_once_a_second_until_it_is_interrupted() -> None:
    counts = iter((0, 30, 90))
    clock = iter((0.0, 1.0, 3.0))

    def report() -> dict[str, object]:
        one = {"reason": "no route", "verdict": "dropped", "count": next(counts), "sentence": "none", "services": []}
        return {"tables": True, "devices": [], "reasons": [one]}

    pauses = iter((None, None, KeyboardInterrupt))
    with (
        mock.patch.object(command, "report", report),
        mock.patch("pylvs.cli.packets.drops.time.monotonic", side_effect=clock),
        mock.patch("pylvs.cli.packets.drops.time.sleep", side_effect=pauses),
    ):
        output = CliRunner().invoke(drops, ["--watch"]).output
    assert re.findall(r"(\d+) +(\d+)/s  no route", output) == [("30", "30"), ("90", "30")]
    assert "\x1b" not in output, "plain lines, without a terminal"


@pytest.mark.parametrize(
    ("received", "difference"), [((10, 10), 0), ((12, 12), 2), ((9, 9), -1), ((8, 11), 0), (None, None), ((11, 14), 1)]
)
def test_packets_that_come_at_the_moment_are_no_difference(
    received: tuple[int, int] | None, difference: int | None
) -> None:
    assert DeviceEnds("eth0", received, HookPackets(1, 2), 3, 4, 0).difference == difference

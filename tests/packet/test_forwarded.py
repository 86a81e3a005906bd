"""`pylvs show` and the metrics count forwarded packets by ingress device and hook, those of the fast path, too."""

from __future__ import annotations

import json
from unittest import mock

from click.testing import CliRunner

from pylvs.cli.director import show
from pylvs.daemon.api.metrics import MetricsInput, exposition
from pylvs.dataplane.devices import attachments
from pylvs.model.rows import HookPackets, in_order
from pylvs.model.service import Method, Protocol
from pylvs.netlink import links
from tests.json_page import assert_documented
from tests.packet.frames import CLIENT4, CLIENT6, tcp, udp
from tests.packet.host import SENT, TC_REDIRECT, VIP6, XDP_PASS, Host, new_host, server4

PORT = 8080


class Count:
    """Sends frames by one device, and counts those that each hook forwards."""

    def __init__(self, host: Host, device: str = "d0") -> None:
        self._host, self._device = host, links.device(device)
        self.xdp = self.tc = 0

    def send(self, frame: bytes, by_tc: bool = False) -> None:
        """Send a frame; `by_tc` as if XDP had passed it."""
        frame = self._device.mac + frame[6:]
        with mock.patch.object(self._host, "ifindex", self._device.index):
            if not by_tc:
                done = self._host.run(frame, "xdp")
                if done.verdict in SENT["xdp"]:
                    self.xdp += 1
                    return
                assert done.verdict == XDP_PASS
            assert self._host.run(frame, "tc").verdict == TC_REDIRECT
            self.tc += 1


def test_show_and_metrics_have_the_share_of_each_hook() -> None:
    with new_host(expires=False, recycled=True) as host:
        nat, direct, six = host.new_key(), host.new_key(Protocol.UDP), host.new_key(vip=VIP6)
        host.serve(nat, 1, Method.MASQ, port=PORT)
        host.serve(direct, 2)
        host.serve(six, 1)
        count = Count(host)
        for number in range(50):
            for flags in "S", "A", "A":
                count.send(tcp(flags, sport=2000 + number, dport=nat.port))
                count.send(tcp(f"{flags}A", source=server4(1), target=CLIENT4, sport=PORT, dport=2000 + number))
                count.send(udp(sport=3000, dport=direct.port))
                count.send(tcp(flags, sport=2000 + number, dport=six.port, source=CLIENT6, target=VIP6))
        for number in range(7):
            count.send(tcp("A", sport=2000 + number, dport=nat.port), by_tc=True)
        assert count.xdp > 300
        assert count.tc >= 7
        assert sum(in_order(host.director.packet_counts().totals)[1:3]) == count.xdp + count.tc
        assert host.director.packet_counts().forwarded == {"d0": HookPackets(count.xdp, count.tc)}
        found = json.loads(CliRunner().invoke(show, ["--json"]).output)
        unattached = [{"device": "d9", "reason": "no such device", "needed": True}]
        assert_documented("pylvs show", found, {"unattached": unattached, "reasons": {"no_service": 1}})
        share = round(count.xdp / (count.xdp + count.tc), 4)
        assert found["forwarded"] == {"xdp": count.xdp, "tc": count.tc, "xdp_share": share}
        (of_device,) = [each["forwarded"] for each in found["devices"] if each["device"] == "d0"]
        assert of_device == found["forwarded"]
        text = f"forwarded {count.xdp} at XDP ({share:.1%}), {count.tc} at TC"
        printed = CliRunner().invoke(show).output
        assert f"packets: {text}" in printed
        (line,) = [line for line in printed.splitlines() if line.startswith("d0: ")]
        assert line.endswith(f"; {text}")
        page = exposition(MetricsInput("1", packets=host.director.packet_counts()))
        assert f'pylvs_forwarded_packets_total{{device="d0",hook="xdp"}} {float(count.xdp)}' in page
        assert f'pylvs_forwarded_packets_total{{device="d0",hook="tc"}} {float(count.tc)}' in page


def test_packets_of_the_fast_path_count_for_the_device_by_which_they_came() -> None:
    with new_host(expires=False, recycled=True) as host:
        with host.director.batch():
            attachments.request(host.director.tables, "d1", "generic")
        service = host.new_key(Protocol.UDP)
        host.serve(service, 1)
        counts = {device: Count(host, device) for device in ("d0", "d1")}
        for device in "d0", "d1", "d0", "d1":
            for _ in range(25):
                counts[device].send(udp(sport=3000, dport=service.port))
        assert all(each.xdp > 30 for each in counts.values())
        expected = {device: HookPackets(each.xdp, each.tc) for device, each in counts.items()}
        assert host.director.packet_counts().forwarded == expected

"""Attached devices are desired state: all that receive packets, after any change of devices or programs."""

from __future__ import annotations

import fcntl
import gc
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner

from pylvs.bpf import kernel
from pylvs.cli.director import detach, show
from pylvs.dataplane import load
from pylvs.dataplane.devices import attach, attachments, lo, modes
from pylvs.dataplane.devices.modes import Attachment, Mode
from pylvs.dataplane.watch import listen
from pylvs.ipvsadm import main as ipvsadm
from pylvs.model.rows import DeviceProblem, refused, unattached, warnings
from pylvs.model.service import Destination, DestinationKey, Method, VirtualService
from pylvs.netlink import links, xdp
from pylvs.netlink.codec import Netlink
from tests.iproute import ip_batch
from tests.packet.frames import CLIENT4, CLIENT6, tcp
from tests.packet.host import (
    OWN4,
    TC_REDIRECT,
    VIP4,
    VIP6,
    Host,
    ip,
    key,
    new_host,
    server4,
    server6,
    server_mac,
)
from tests.waiting import until

RTM_NEWNETCONF = 80
SERVICE = key(80)
BEHIND_T0 = key(80, vip="10.78.0.1")  # an address of t0, see `tap`
BEHIND = DestinationKey(ip_address("10.78.0.2"), 80)  # a real server behind another device than the clients


@pytest.fixture
def host() -> Iterator[Host]:
    """Return a host without a device attached by hand; the far end of d0 is out of the namespace."""
    with new_host(expires=False, mode=None, recycled=True) as made:
        yield made


def there(host: Host) -> dict[str, Attachment]:
    return {each.device: each for each in attach.attached(host.director.state)}


def missing(host: Host) -> list[DeviceProblem]:
    return attachments.missing(host.director.tables)


def any_other_edit(host: Host) -> None:
    """Make an edit that has nothing to do with devices, of a service of its own."""
    service = VirtualService(host.new_key())
    host.director.add_service(service)
    host.director.delete_service(service.key)


def any_edit(host: Host) -> None:
    """Make an edit that has nothing to do with devices."""
    host.director.edit_service(VirtualService(SERVICE, "wlc"))
    host.director.edit_service(VirtualService(SERVICE, "rr"))


def pair(near: str, far: str) -> None:
    """Make a veth; its far end is down, so that no packet arrives."""
    ip("link", "add", near, "type", "veth", "peer", "name", far)
    ip("link", "set", near, "up")


def tc(*words: str) -> None:
    subprocess.run(["tc", *words], check=True, capture_output=True)


def test_every_device_that_receives_packets_is_attached(host: Host) -> None:
    pair("e0", "e1")
    pair("b0", "b1")
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "b0", "master", "br0")
    assert there(host) == {}
    host.serve(SERVICE, 1)
    assert there(host).keys() == {"lo", "d0", "e0", "e1", "br0", "b1"}, "not the bridge's port"
    assert {each.mode for each in there(host).values()} == {"tc"}
    assert "veth" in there(host)["d0"].reason
    assert "loopback" in there(host)["lo"].reason
    assert "no service or real server needs XDP" in there(host)["e0"].reason
    assert not host.director.device_problems()
    host.director.flush()
    assert there(host) == {}


def test_replies_are_translated_while_connections_live(host: Host) -> None:
    host.director.add_service(VirtualService(SERVICE))
    server = Destination(DestinationKey(ip_address(server4(1)), 80), Method.MASQ)
    host.director.add_destination(SERVICE, server)
    assert host.run(tcp("S", dport=80), "tc").verdict == TC_REDIRECT
    answer = tcp("SA", sport=80, dport=4000, source=server4(1), target=CLIENT4)
    before = host.run(answer, "tc")
    host.director.delete_destination(SERVICE, server.key)
    assert there(host).keys() == {"lo", "d0"}, "with the last real server gone"
    after = host.run(answer, "tc")
    assert (after.verdict, after.data) == (before.verdict, before.data)
    host.director.flush()
    assert there(host).keys() == {"lo", "d0"}, "with the last service gone, while there is a connection"


def test_devices_stay_attached_as_connections_of_a_deleted_service_need_them(host: Host) -> None:
    """A card that is attached again would lose its link for seconds; clients of NAT on this host need accept_local."""
    with tap():
        host.director.add_service(VirtualService(BEHIND_T0))
        host.director.add_destination(BEHIND_T0, Destination(BEHIND, Method.MASQ))
        assert there(host)["t0"].mode == "native"
        assert host.run(tcp("S", dport=80, target=str(BEHIND_T0.address)), "tc").verdict == TC_REDIRECT
        host.director.flush()
        assert (there(host)["t0"].mode, lo.accepts_local(host.director.state.notes())) == ("native", True)
        host.director.follow_host()
        assert there(host)["t0"].mode == "native"


def test_a_host_may_have_thousands_of_addresses(host: Host) -> None:
    lines = (
        f"address add 10.{number >> 8}.{number & 255}.1/32 dev lo" for number in range(100 << 8, (100 << 8) + 5000)
    )
    ip_batch(lines)
    host.serve(SERVICE, 1)
    assert len(list(host.director.tables.locals.keys())) > 5000
    assert host.run(tcp("S", dport=80), "tc").verdict == TC_REDIRECT


def test_an_edit_restores_a_removed_program(host: Host) -> None:
    host.serve(SERVICE, 1)
    tc("qdisc", "del", "dev", "d0", "clsact")
    assert there(host).keys() == {"lo"}
    (found,) = missing(host)
    assert (found.device, found.needed) == ("d0", True)
    assert "the next edit attaches it" in found.reason
    any_edit(host)
    assert there(host).keys() == {"lo", "d0"}
    assert missing(host) == []


def test_a_device_that_is_made_again_is_attached_again(host: Host) -> None:
    host.serve(SERVICE, 1)
    pair("e0", "e1")
    ip("addr", "add", "10.88.0.1/24", "dev", "e0")
    any_edit(host)
    assert {"e0", "e1"} <= there(host).keys()
    with host.director.batch():
        attachments.request(host.director.tables, "e0", "generic")
        attachments.release(host.director.tables, "e1")
    ip("link", "del", "e0")
    pair("e0", "e1")
    any_edit(host)
    assert there(host).keys() == {"lo", "d0", "e0"}, "and what was done by hand is remembered"
    assert there(host)["e0"].mode == "generic"


def test_a_renamed_device_keeps_its_reason(host: Host) -> None:
    host.serve(SERVICE, 1)
    before = there(host)["d0"]
    ip("link", "set", "d0", "down")
    ip("link", "set", "d0", "name", "out7")
    assert there(host)["out7"] == replace(before, device="out7")


@pytest.mark.parametrize(("mode", "word"), [("native", "xdp"), ("generic", "xdpgeneric")])
def test_a_device_that_moves_to_another_namespace_keeps_its_xdp_program(host: Host, mode: Mode, word: str) -> None:
    """As docs/how-to/attach.md says, with the commands that remove it. Edits succeed without the device."""
    host.serve(SERVICE, 1)
    pair("e0", "e1")
    with host.director.batch():
        attachments.request(host.director.tables, "e0", mode)
    elsewhere = f"{host.name}-b"
    ip("netns", "add", elsewhere)
    try:
        ip("link", "set", "e0", "netns", elsewhere)
        any_edit(host)
        assert "e0" not in there(host)
        shown = ["ip", "-n", elsewhere, "link", "show", "e0"]
        assert "name pylvs_xdp" in subprocess.check_output(shown, text=True)
        assert subprocess.check_output(["tc", "-n", elsewhere, "qdisc", "show", "dev", "e0", "clsact"]) == b""
        ip("-n", elsewhere, "link", "set", "dev", "e0", word, "off")
        assert "xdp" not in subprocess.check_output(shown, text=True)
    finally:
        ip("netns", "del", elsewhere)


def test_a_port_of_a_bridge_is_detached(host: Host) -> None:
    host.serve(SERVICE, 1)
    pair("e0", "e1")
    any_edit(host)
    assert "e0" in there(host)
    ip("link", "add", "br0", "type", "bridge")
    ip("link", "set", "e0", "master", "br0")
    any_edit(host)
    assert there(host).keys() == {"lo", "d0", "e1", "br0"}


def test_an_edit_is_complete_if_a_device_is_refused_and_the_device_is_retried(host: Host) -> None:
    tc("qdisc", "add", "dev", "d0", "ingress")
    host.serve(SERVICE, 1)
    assert [row.service.key for row in host.director.services()] == [SERVICE]
    (problem,) = host.director.device_problems()
    assert (problem.device, problem.needed) == ("d0", True)
    assert "an ingress qdisc of another program" in problem.reason
    assert missing(host) == [problem]
    any_edit(host)
    assert host.director.device_problems() == [problem]
    tc("qdisc", "del", "dev", "d0", "ingress")
    any_edit(host)
    assert (list(host.director.device_problems()), missing(host)) == ([], [])
    assert "d0" in there(host)


def test_a_device_that_the_operator_detached_is_reported(host: Host) -> None:
    host.serve(SERVICE, 1)
    with host.director.batch():
        attachments.release(host.director.tables, "d0")
    any_edit(host)
    assert there(host).keys() == {"lo"}
    reason = "pylvs detach took it out; pylvs attach d0 restores it"
    problem = DeviceProblem("d0", reason, needed=True, by_hand=True)
    assert missing(host) == [problem]
    host.director.follow_host()
    assert host.director.device_problems() == [problem]
    assert unattached(host.director) == [f"d0 is not attached: {reason}"]
    assert refused(host.director) == warnings(host.director) == [], "an edit does as the operator requested"


def test_detaching_warns_that_connections_are_reset(host: Host) -> None:
    host.serve(SERVICE, 1)
    quiet = CliRunner().invoke(detach, ["lo"])
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "lo: detached\n", "")
    assert host.run(tcp("S", dport=80), "tc").verdict == TC_REDIRECT
    done = CliRunner().invoke(detach, ["d0"])
    assert (done.exit_code, done.stdout) == (0, "d0: detached\n")
    assert done.stderr.startswith("pylvs: d0: warning: connections are in the table")
    assert done.stderr.count("\n") == 1


# --- without an edit ---


@pytest.fixture
def watch(host: Host) -> Iterator[subprocess.Popen[str]]:
    """Run `pylvs watch` beside the host's table."""
    script = "from pylvs.cli.main import main; import sys; sys.argv[:] = ['pylvs', 'watch']; sys.exit(main())"
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as process:
        yield process
        assert process.poll() is None
        process.kill()


def test_a_watcher_attaches_new_devices_and_restores_programs(host: Host, watch: subprocess.Popen[str]) -> None:
    host.serve(SERVICE, 1)
    tc("qdisc", "del", "dev", "d0", "clsact")
    until(lambda: "d0" in there(host), "the watcher mends a device that lost its program")
    pair("e0", "e1")
    until(lambda: there(host).keys() == {"lo", "d0", "e0", "e1"}, "the watcher attaches new devices")
    ip("link", "del", "e0")
    pair("e0", "e1")
    until(lambda: there(host).keys() == {"lo", "d0", "e0", "e1"}, "and those that are made again")


def test_a_watcher_restores_forwarding_and_reports_it(host: Host, watch: subprocess.Popen[str]) -> None:
    assert watch.stderr
    host.serve(SERVICE, 1)
    with ip_forward(4) as path:
        path.write_text("0")
        assert watch.stderr.readline().startswith("pylvs: lo: net.ipv4.conf.lo.forwarding was 0, ")
        assert lo_forwards(4).read_text() == "1\n"


def test_a_watcher_reports_a_refusal_once_and_retries(host: Host, watch: subprocess.Popen[str]) -> None:
    assert watch.stderr
    host.serve(SERVICE, 1)
    tc("qdisc", "del", "dev", "d0", "clsact")
    again = "pylvs: d0: its program was removed, and is attached again\n"
    assert watch.stderr.readline() == again
    with host.director.batch():  # the watcher waits so long
        tc("qdisc", "del", "dev", "d0", "clsact")
        tc("qdisc", "add", "dev", "d0", "ingress")
    assert "pylvs: d0 is not attached: an ingress qdisc of another program" in watch.stderr.readline()
    tc("qdisc", "del", "dev", "d0", "ingress")
    assert watch.stderr.readline() == again
    assert watch.stderr.readline() == "pylvs: all devices are attached again\n"
    assert "d0" in there(host)


def test_xdp_redirects_nothing_while_a_device_gets_native_xdp(host: Host) -> None:
    """Only drivers that can transmit for XDP may then be in the map: others drop the packets."""
    host.serve(SERVICE, 1)
    with host.director.batch():
        attachments.request(host.director.tables, "d0", "generic")
    assert len(list(host.director.tables.transmitters.keys())) == 2
    attached, seen = attach.attach, []

    def attach_now(*arguments: Any, **more: Any) -> Attachment:
        seen.append(len(list(host.director.tables.transmitters.keys())))
        return attached(*arguments, **more)

    with mock.patch.object(attach, "attach", attach_now), host.director.batch():
        attachments.request(host.director.tables, "d0", "native")
    assert seen == [0]
    transmits = (links.native_xdp(host.ifindex) or 0) & links.XDP_TRANSMIT  # depends on the kernel and on the peer
    assert len(list(host.director.tables.transmitters.keys())) == bool(transmits)


@contextmanager
def tap() -> Iterator[int]:
    """Make the device t0 towards another network, and yield its file. Its driver transmits XDP frames.

    It stands for a card: `auto` does not notice that it is a tap.
    """
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    as_card = {kind: reason for kind, reason in modes.NOT_NATIVE.items() if kind != "tun"}
    try:
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"t0", 0x1002))  # TUNSETIFF: IFF_TAP | IFF_NO_PI
        ip("addr", "add", "10.78.0.1/24", "dev", "t0")
        ip("link", "set", "t0", "up")
        ip("neigh", "add", str(BEHIND.address), "lladdr", server_mac(9), "nud", "permanent", "dev", "t0")
        with mock.patch.object(modes, "NOT_NATIVE", as_card):
            yield tun
    finally:
        os.close(tun)


def frames_from(tun: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(tun, 2048)
        except BlockingIOError:
            return


def test_xdp_sends_by_a_device_without_a_program(host: Host) -> None:
    """Clients on d0, which runs native XDP, and a real server of direct routing behind t0."""
    host.director.add_service(VirtualService(SERVICE, "rr"))
    with tap() as tun:
        with host.director.batch():
            attachments.request(host.director.tables, "d0", "native")
        host.director.add_destination(SERVICE, Destination(BEHIND, Method.ROUTE))
        assert there(host)["t0"].mode == "tc"
        d1 = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        d1.bind(("d1", 0))
        sent = [tcp("S", sport=5000), *(tcp("A", sport=5000, payload=bytes([number])) for number in range(50))]
        for frame in sent:
            d1.send(frame)
        d1.close()
        arrived: list[bytes] = []

        def all_arrived() -> bool:
            arrived.extend(each for each in frames_from(tun) if each[30:34] == SERVICE.address.packed)
            return len(arrived) >= len(sent)

        until(all_arrived, "the frames behind t0")
        assert sorted(each[34:] for each in arrived) == sorted(each[34:] for each in sent)
        packets = host.director.packet_counts().forwarded["d0"]
        assert packets.xdp + packets.tc == len(sent)
        assert packets.xdp > len(sent) / 2


@contextmanager
def foreign_xdp(device: str) -> Iterator[None]:
    """Run another tool's XDP program on a device, which passes all packets."""
    pass_all = struct.pack("<BBhi", 0xB7, 0, 0, 2) + struct.pack("<BBhi", 0x95, 0, 0, 0)  # r0 = XDP_PASS; exit
    program = kernel.load_instructions(kernel.PROG_TYPE_XDP, "theirs", pass_all)
    index = links.device(device).index
    with Netlink() as link:
        xdp.set_program(link, index, "native", program)
        os.close(program)
        yield
        xdp.set_program(link, index, "native", -1, links.device(device).xdp_native)


def test_auto_is_decided_again_when_another_tool_has_left_xdp(host: Host) -> None:
    with tap():
        with foreign_xdp("t0"):
            host.serve(BEHIND_T0, 1)
            before = there(host)["t0"]
            assert (before.mode, before.intended) == ("tc", "tc")
            assert "(theirs), which is not of pylvs, is at XDP already" in before.reason
            any_other_edit(host)
            assert there(host)["t0"] == before
        any_other_edit(host)
        after = there(host)["t0"]
        assert (after.mode, "already" in after.reason) == ("native", False)


def test_auto_is_decided_again_when_the_ports_of_a_bond_change(host: Host) -> None:
    """t0 stands for a bond, and e0 for a card. The tests' kernel may have none."""
    made, ports = links._device, set[str]()

    def as_bond(*arguments: Any) -> links.Device:
        device = made(*arguments)
        if device.name in ports:
            return replace(device, master=socket.if_nametoindex("t0"), kind="")
        return replace(device, kind="bond") if device.name == "t0" else device

    pair("e0", "e1")
    with mock.patch.object(links, "_device", as_bond), tap():
        host.serve(BEHIND_T0, 1)
        assert (there(host)["t0"].mode, there(host)["t0"].reason) == ("tc", "it has no port")
        ports.add("e0")
        any_other_edit(host)
        assert there(host)["t0"].mode == "native"


def test_a_port_leaves_xdp_before_the_device_above_is_attached(host: Host) -> None:
    """A bond cannot run XDP while a port does. Until the device above is attached, the port forwards at TC."""
    runs = list[tuple[str, Mode | None]]()
    real_attach = attach.attach

    def attach_now(index: int, *arguments: Any, **more: Any) -> Attachment:
        runs.append((links.device(index).name, there(host)["t0"].mode))
        return real_attach(index, *arguments, **more)

    with tap():
        host.serve(BEHIND_T0, 1)
        assert there(host)["t0"].mode == "native"
        ip("link", "add", "br0", "type", "bridge")
        ip("link", "set", "t0", "master", "br0")
        with mock.patch.object(attach, "attach", attach_now):
            host.director.follow_host()
        assert runs == [("br0", "tc")]
        assert there(host).keys() == {"lo", "d0", "br0"}


def lo_forwards(version: int) -> Path:
    return Path(f"/proc/sys/net/ipv{version}/conf/lo/forwarding")


@pytest.mark.parametrize("family", [4, 6])
def test_settings_that_cannot_be_written_do_not_fail_the_first_edit_or_later_ones(
    host: Host, family: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only those of an IP version in use are reported; the servers of a tunnel may have another than the service."""
    load.take_down(host.director.state)
    for version in 4, 6:
        lo_forwards(version).write_text("0")
    server = Destination(DestinationKey(ip_address(server4(1) if family == 4 else server6(1)), 80), Method.TUNNEL)
    text = "lo: net.ipv{0}.conf.lo.forwarding cannot be set to 1: Read-only file system; packets are not forwarded by"
    expected = [f"{text} IPv{{0}}".format(version) for version in sorted({4, family})]
    with mock.patch.object(lo, "_set_sysctl", side_effect=OSError(30, os.strerror(30))):
        host.director.add_service(VirtualService(SERVICE))
        assert warnings(host.director) == expected[:1]
        host.director.add_destination(SERVICE, server)
        assert warnings(host.director) == unattached(host.director) == expected
        monkeypatch.setattr(sys, "argv", ["ipvsadm", "-E", "-t", f"{VIP4}:80", "-s", "rr"])
        monkeypatch.setattr(gc, "disable", lambda: None)
        assert ipvsadm.main() == 0
        assert capsys.readouterr() == ("", "".join(f"ipvsadm: warning: {line}\n" for line in expected))
    (row,) = host.director.services()
    assert [each.destination for each in row.destinations] == [server]
    assert there(host).keys() == {"lo", "d0", "d1"}
    host.director.follow_host()
    assert warnings(host.director) == []
    assert [lo_forwards(version).read_text() for version in (4, 6)] == ["1\n", "1\n"]


def test_an_edit_restores_forwarding_of_lo(host: Host) -> None:
    """A process that made the tables may have been killed before it turned forwarding on."""
    host.serve(SERVICE, 1)
    path = Path("/proc/sys/net/ipv4/conf/lo/forwarding")
    path.write_text("0")
    with mock.patch.object(lo, "_set_sysctl", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        any_edit(host)
    assert host.director.state.note("forwarding-ipv4") == "0", "noted first, so that it is restored"
    any_edit(host)
    assert path.read_text() == "1\n"
    load.take_down(host.director.state)
    assert path.read_text() == "0\n"


# --- pylvs down ---


def test_everything_is_detached_if_a_device_disappears_at_the_same_time(host: Host) -> None:
    pair("g0", "g1")
    host.serve(SERVICE, 1)
    found = attach.attached(host.director.state)
    assert {"d0", "g0"} <= {each.device for each in found}
    ip("link", "del", "g0")
    with mock.patch.object(attach, "attached", return_value=found):
        assert attach.detach_all(host.director.state) == found
    assert there(host) == {}


@contextmanager
def ip_forward(family: int) -> Iterator[Path]:
    """Turn a host into a router; yield the setting."""
    path = Path("/proc/sys/net", {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}[family])
    before = path.read_text()
    path.write_text("1")
    try:
        yield path
    finally:
        path.write_text(before)


def message_types(kernel: socket.socket) -> set[int]:
    """Read pending messages of the kernel, and return the type of the first one of each datagram."""
    found = set[int]()
    with suppress(BlockingIOError):
        while True:
            found.add(struct.unpack_from("4xH", kernel.recv(65536))[0])
    return found


@pytest.mark.parametrize("family", [4, 6])
def test_direct_routing_continues_after_a_host_stops_being_a_router(host: Host, family: int) -> None:
    """The kernel copies ip_forward=0 to every device, also to lo, and reports that."""
    service = key(80, vip={4: VIP4, 6: VIP6}[family])
    host.serve(service, 1)
    frame = tcp("S", 4000, 80, {4: CLIENT4, 6: CLIENT6}[family], str(service.address))
    setting = f"net.ipv{family}.conf.lo.forwarding"
    with ip_forward(family) as path:
        assert host.director.follow_host() == []
        with listen() as kernel:
            path.write_text("0")
            until(lambda: RTM_NEWNETCONF in message_types(kernel), "an event of the kernel")
        until(lambda: host.run(frame, "tc").verdict != TC_REDIRECT, "the cached next hop expires")
        assert attachments.not_forwarding(host.director.tables) == [setting]
        assert f"\n{setting} is 0, so packets are not forwarded: sysctl -w" in CliRunner().invoke(show, []).output
        copied = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}[family]
        assert host.director.follow_host() == [
            f"lo: {setting} was 0, as {copied}=0 sets it, so packets were not forwarded by IPv{family}; it is 1 again"
        ]
        until(
            lambda: host.run(frame, "tc").verdict == TC_REDIRECT, "what the packet path found about this host expires"
        )
        assert attachments.not_forwarding(host.director.tables) == host.director.follow_host() == []


def test_settings_of_versions_that_no_service_uses_are_not_reported(host: Host) -> None:
    host.serve(SERVICE, 1)
    with ip_forward(6) as path:
        path.write_text("0")
        assert attachments.not_forwarding(host.director.tables) == []
        assert host.director.follow_host() == []
    assert lo_forwards(6).read_text() == "1\n"


def test_accept_local_of_lo_that_is_turned_off_is_turned_on_again(host: Host) -> None:
    host.serve(SERVICE, 1, Method.MASQ)
    assert host.director.follow_host() == []
    path = Path("/proc/sys/net/ipv4/conf/lo/accept_local")
    path.write_text("0")
    assert host.director.follow_host() == ["lo: net.ipv4.conf.lo.accept_local was set to 0; it is 1 again"]
    assert path.read_text() == "1\n"


@pytest.mark.parametrize("command", ["tc filter del dev d0 ingress", "tc qdisc del dev d0 clsact"])
def test_a_program_that_another_tool_removes_is_attached_again_and_reported(host: Host, command: str) -> None:
    host.serve(SERVICE, 1)
    before = there(host)["d0"]
    assert host.director.follow_host() == []
    subprocess.run(command.split(), check=True)
    any_edit(host)  # as those of the daemon, between the change and its event
    assert host.director.follow_host() == ["d0: its program was removed, and is attached again"]
    assert there(host)["d0"] == before
    assert host.director.follow_host() == []


@pytest.mark.parametrize("side", ["ingress", "egress"])
def test_either_side_of_a_program_may_be_removed(host: Host, side: str) -> None:
    host.director.add_service(VirtualService(SERVICE))
    assert host.director.follow_host() == []
    own = Destination(DestinationKey(ip_address(OWN4), 80), Method.ROUTE)
    host.director.add_destination(SERVICE, own)
    assert host.director.follow_host() == [], "the program at TC egress is new"
    subprocess.run(f"tc filter del dev d0 {side}".split(), check=True)
    assert host.director.follow_host() == ["d0: its program was removed, and is attached again"]
    host.director.delete_destination(SERVICE, own.key)
    assert host.director.follow_host() == []


def test_xdp_that_another_tool_removes_is_attached_again_and_reported(host: Host) -> None:
    host.serve(SERVICE, 1)
    with host.director.batch():
        attachments.request(host.director.tables, "d0", "generic")
    assert host.director.follow_host() == []
    ip("link", "set", "d0", "xdpgeneric", "off")
    assert host.director.follow_host() == ["d0: its program was removed, and is attached again"]
    assert there(host)["d0"].mode == "generic"

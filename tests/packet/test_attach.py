"""Attaching changes only our own programs, reports its reasons, and can be undone."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

import hatch_build
from pylvs.bpf.libbpf import BpfObject
from pylvs.bpf.maps import ArrayMap
from pylvs.dataplane.devices.advice import leaves_to_tc
from pylvs.dataplane.devices.attach import attach, attached, detach, detach_all
from pylvs.dataplane.devices.modes import Attachment, Mode
from pylvs.dataplane.state import State
from pylvs.model.errors import Busy, NoSuchDevice, PylvsError
from pylvs.model.service import Tunnel, TunnelKind
from pylvs.netlink import codec, links, tc, xdp
from pylvs.netlink.codec import Netlink
from pylvs.netlink.links import ETH_P_8021AD, ETH_P_8021Q
from pylvs.realserver import vip
from tests.waiting import until_up

ROOT = Path(__file__).resolve().parents[2]
CLONE_NEWNET = 0x40000000
AT_XDP, AT_TC, AT_EGRESS = range(3)


def sh(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Host:
    """The test's namespace: `d0` and `d1` are the ends of a veth, `peer` is another namespace with `d1`."""

    name: str
    peer: str
    state: State
    object: BpfObject

    def fd(self, name: str) -> int:
        return self.object.program_fd(name)

    def attach(self, mode: Mode, device: str = "d0", egress: bool = False) -> Attachment:
        egress_fd = self.fd("pylvs_egress") if egress else None
        return attach(device, mode, self.state, tc_fd=self.fd("pylvs_tc"), open_xdp=self.open_xdp, egress_fd=egress_fd)

    def open_xdp(self) -> AbstractContextManager[int]:
        return nullcontext(self.fd("pylvs_xdp"))

    def seen(self) -> list[int]:
        with ArrayMap.duplicate(self.object.map_fd("seen")) as counts:
            return [int.from_bytes(counts.get(i) or b"", "little") for i in range(3)]

    def qdiscs(self, device: str = "d0") -> str:
        return sh("tc", "qdisc", "show", "dev", device)

    def filters(self, side: str = "ingress", device: str = "d0") -> str:
        return sh("tc", "filter", "show", "dev", device, side)


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("hooks") / "objects"
    hatch_build.build(ROOT, ROOT / "tests/unit/dataplane/programs", target)
    return target


@pytest.fixture
def host(objects: Path) -> Iterator[Host]:
    name, peer = (f"pylvs-at{os.getpid()}{end}" for end in "ab")
    libc = ctypes.CDLL(None, use_errno=True)
    for each in (name, peer):
        sh("ip", "netns", "add", each)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{name}", os.O_RDONLY)
    assert libc.setns(there, CLONE_NEWNET) == 0
    state = None
    try:
        sh("ip", "link", "add", "d0", "type", "veth", "peer", "name", "d1", "netns", peer)
        sh("ip", "addr", "add", "10.77.0.1/24", "dev", "d0")
        sh("ip", "link", "set", "d0", "up")
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "-n", peer, "addr", "add", "10.77.0.2/24", "dev", "d1")
        sh("ip", "-n", peer, "link", "set", "d1", "up")
        until_up("d0")
        state = State.open(create=True)
        with BpfObject(objects / "hooks.bpf.o") as opened:
            opened.load()
            yield Host(name, peer, state, opened)
    finally:
        if state is not None:
            state.remove()
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)
        os.close(there)
        for each in (name, peer):
            sh("ip", "netns", "del", each)


def add_foreign_filter(host: Host, priority: int) -> None:
    """Add a filter as another tool would."""
    body = struct.pack("=BxxxiIII", 0, links.device("d0").index, 0, tc.INGRESS, priority << 16 | 0x0300)
    options = codec.nested(2, codec.u32(6, host.fd("pylvs_tc")), codec.text(7, "theirs"), codec.u32(8, 1))
    with Netlink() as link:
        link.request(44, body + codec.text(1, "bpf") + options, codec.CREATE | codec.EXCL)


def ping(host: Host) -> None:
    sh("ip", "netns", "exec", host.peer, "ping", "-c", "3", "-i", "0.05", "-W", "60", "10.77.0.1")


@pytest.mark.parametrize(("mode", "hook"), [("tc", AT_TC), ("generic", AT_XDP), ("native", AT_XDP)])
def test_packets_pass_the_requested_hook_and_then_tc(host: Host, mode: Mode, hook: int) -> None:
    made = host.attach(mode)
    assert (made.device, made.mode, made.reason, bool(made.xdp)) == ("d0", mode, "on request", mode != "tc")
    ping(host)
    seen = host.seen()
    assert seen[hook] >= 3
    assert seen[AT_TC] >= 3
    assert seen[AT_EGRESS] == 0
    assert (seen[AT_XDP] > 0) == (mode != "tc")
    assert attached(host.state) == [made]


def test_egress_is_attached_only_while_it_is_requested(host: Host) -> None:
    assert host.attach("tc", egress=True).egress
    ping(host)
    assert host.seen()[AT_EGRESS] >= 3
    assert not host.attach("tc").egress
    assert host.filters("egress") == ""
    assert host.filters("ingress") != ""


@pytest.mark.parametrize("first", ["tc", "generic", "native"])
@pytest.mark.parametrize("second", ["tc", "generic", "native"])
def test_attaching_again_changes_the_mode_without_duplicates(host: Host, first: Mode, second: Mode) -> None:
    host.attach(first)
    made = host.attach(second)
    assert made.mode == second
    found = links.device("d0")
    assert (bool(found.xdp_native), bool(found.xdp_generic)) == (second == "native", second == "generic")
    assert host.filters().count("pylvs-director") == 1
    assert detach("d0", host.state)
    assert "clsact" not in host.qdiscs()


def test_detaching_leaves_the_device_as_it_was(host: Host) -> None:
    before = (host.qdiscs(), sh("ip", "-d", "link", "show", "d0"))
    host.attach("native", egress=True)
    assert detach("d0", host.state)
    assert (host.qdiscs(), sh("ip", "-d", "link", "show", "d0")) == before
    assert not detach("d0", host.state)
    assert attached(host.state) == []
    kept = {f"received-{socket.if_nametoindex('d0')}"}  # if it received anything, what it received while attached
    assert host.state.notes().keys() <= kept


def test_an_existing_clsact_stays(host: Host) -> None:
    sh("tc", "qdisc", "add", "dev", "d0", "clsact")
    host.attach("tc")
    host.attach("generic")
    detach("d0", host.state)
    assert "clsact" in host.qdiscs()


def test_foreign_filters_and_their_clsact_stay(host: Host) -> None:
    host.attach("tc")
    add_foreign_filter(host, 7)
    theirs = next(line for line in host.filters().splitlines() if "theirs" in line)
    host.attach("generic")
    detach("d0", host.state)
    assert "clsact" in host.qdiscs()
    assert theirs in host.filters()
    assert "pylvs-director" not in host.filters()


def test_a_foreign_filter_at_our_priority_is_busy_and_nothing_changes(host: Host) -> None:
    sh("tc", "qdisc", "add", "dev", "d0", "clsact")
    add_foreign_filter(host, tc.PRIORITIES["director"])
    before = host.filters()
    with pytest.raises(Busy, match="d0: filter theirs of another program has priority 5"):
        host.attach("tc")
    assert host.filters() == before


def test_a_foreign_ingress_qdisc_is_busy_and_stays(host: Host) -> None:
    sh("tc", "qdisc", "add", "dev", "d0", "ingress")
    before = host.qdiscs()
    with pytest.raises(Busy, match="d0: an ingress qdisc"):
        host.attach("tc")
    assert host.qdiscs() == before


@pytest.mark.parametrize("theirs", ["native", "generic"])
@pytest.mark.parametrize("ours", ["native", "generic"])
def test_a_foreign_xdp_program_is_busy_named_and_never_replaced(host: Host, theirs: str, ours: Mode) -> None:
    index = links.device("d0").index
    with Netlink() as link:
        xdp.set_program(link, index, theirs, host.fd("foreign_xdp"))
    there = links.device("d0")
    number = there.xdp_native or there.xdp_generic
    with pytest.raises(Busy, match=rf"d0: program {number} \(foreign_xdp\)"):
        host.attach(ours)
    assert links.device("d0") == there
    assert "clsact" not in host.qdiscs()
    assert host.attach("tc").mode == "tc"
    detach("d0", host.state)
    assert links.device("d0") == there
    with Netlink() as link:
        xdp.set_program(link, index, theirs, -1, number)
    assert not links.device("d0").xdp_native


def test_the_kernel_refuses_to_replace_another_program_than_expected(host: Host) -> None:
    index = links.device("d0").index
    with Netlink() as link:
        xdp.set_program(link, index, "native", host.fd("foreign_xdp"))
        with pytest.raises(codec.NetlinkError):
            xdp.set_program(link, index, "native", host.fd("pylvs_xdp"))


def test_a_device_without_native_xdp_refuses_it_and_keeps_its_program(host: Host) -> None:
    sh("ip", "link", "add", "br0", "type", "bridge")
    with pytest.raises(PylvsError, match="br0: attaching native XDP"):
        host.attach("native", "br0")
    assert "clsact" not in host.qdiscs("br0")
    before = host.attach("tc", "br0")
    with pytest.raises(PylvsError, match="br0: attaching native XDP"):
        attach("br0", "native", host.state, tc_fd=host.fd("pylvs_egress"), open_xdp=host.open_xdp)
    assert attached(host.state) == [before], "the failed attempt put back what ran before"


def test_a_device_whose_driver_refuses_native_xdp_may_get_tc(host: Host) -> None:
    """As `auto` does before Linux 6.3, which does not report the features of drivers."""
    sh("ip", "link", "add", "br0", "type", "bridge")
    made = attach("br0", "native", host.state, tc_fd=host.fd("pylvs_tc"), open_xdp=host.open_xdp, insist=False)
    assert made.mode == "tc"
    assert "refuses native XDP" in made.reason


@pytest.mark.parametrize(("option", "protocol"), [("rxvlan", ETH_P_8021Q), ("rx-vlan-stag-hw-parse", ETH_P_8021AD)])
def test_tags_that_a_card_takes_off_are_those_of_ethtool(host: Host, option: str, protocol: int) -> None:
    index = links.device("d0").index
    assert links.stripped_tags(index) == {ETH_P_8021Q, ETH_P_8021AD}
    sh("ethtool", "-K", "d0", option, "off")
    assert links.stripped_tags(index) == {ETH_P_8021Q, ETH_P_8021AD} - {protocol}
    sh("ethtool", "-K", "d0", option, "on")


def test_a_veth_whose_other_end_sends_unfinished_checksums_is_named(host: Host) -> None:
    device = links.device("d0")  # the other end is in another namespace
    assert device.lower_netns != links.HERE
    slow = leaves_to_tc(device)
    assert "d0: the other end of this veth, d1, sends unfinished checksums" in slow
    assert "ethtool -K d1 tx off" in slow
    sh("ip", "netns", "exec", host.peer, "ethtool", "-K", "d1", "tx", "off")
    assert leaves_to_tc(device) == ""
    sh("ip", "link", "add", "e0", "type", "veth", "peer", "name", "e1")
    assert "e1, sends" in leaves_to_tc(links.device("e0"))
    lost = replace(device, lower_netns=4711)
    assert "in a namespace that cannot be found" in leaves_to_tc(lost)
    assert leaves_to_tc(links.device("lo")) == ""
    assert "a tap's frames" in leaves_to_tc(replace(device, kind="tun"))


def test_the_kernel_reports_which_drivers_have_native_xdp(host: Host) -> None:
    features = links.native_xdp(links.device("d0").index)
    if features is None:
        pytest.skip("needs Linux 6.3: netdev netlink")
    assert features & links.XDP_BASIC
    assert links.native_xdp(links.device("lo").index) == 0


def be_real_server() -> None:
    vip.up([ip_address("10.77.0.100")], [Tunnel(TunnelKind.GRE)], ["d0"])


@pytest.mark.parametrize("found", [False, True])
@pytest.mark.parametrize("director_leaves_first", [False, True])
@pytest.mark.parametrize("director_comes_first", [False, True])
def test_a_director_and_a_real_server_share_a_device_and_the_last_removes_clsact(
    host: Host, director_comes_first: bool, director_leaves_first: bool, found: bool
) -> None:
    """Only if one of them added it."""
    if found:
        sh("tc", "qdisc", "add", "dev", "d0", "clsact")
    if director_comes_first:
        host.attach("tc")
        be_real_server()
    else:
        be_real_server()
        host.attach("tc")
    host.attach("generic", egress=True)
    if director_leaves_first:
        assert detach("d0", host.state)
        assert "pylvs-realserver" in host.filters()
        vip.down()
    else:
        vip.down()
        assert "pylvs-director" in host.filters()
        assert detach("d0", host.state)
    assert host.filters() == ""
    assert ("clsact" in host.qdiscs()) == found


def test_the_reason_of_a_failure_remains_if_its_undo_fails(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is deleted between two steps, so that neither the next step nor the undo can succeed."""
    host.attach("tc")
    set_filter = tc.set_filter

    def set_on_a_deleted_device(link: Netlink, ifindex: int, side: int, *arguments: Any) -> None:
        if side == tc.EGRESS:
            sh("ip", "link", "del", "d0")
        set_filter(link, ifindex, side, *arguments)

    monkeypatch.setattr(tc, "set_filter", set_on_a_deleted_device)
    with pytest.raises(PylvsError, match=r"^d0: attaching at TC: "):
        host.attach("tc", egress=True)


def test_detach_all_finds_what_is_attached(host: Host) -> None:
    host.attach("generic")
    host.attach("tc", "lo", egress=True)
    assert [each.device for each in detach_all(host.state)] == ["lo", "d0"]
    assert "clsact" not in host.qdiscs() + host.qdiscs("lo")
    assert not links.device("d0").xdp_generic


def test_unknown_devices_are_named(host: Host) -> None:
    with pytest.raises(NoSuchDevice, match="nope: no such device; there are: lo, d0"):
        host.attach("tc", "nope")
    with pytest.raises(NoSuchDevice, match="nope"):
        detach("nope", host.state)


def test_a_device_name_may_be_any_bytes(host: Host) -> None:
    name = os.fsdecode(b"a\xffb")
    sh("ip", "link", "set", "d0", "down")
    sh("ip", "link", "set", "d0", "name", name)
    assert links.device(name).mtu > 0
    host.attach("tc", name)
    assert [each.ifindex for each in attached(host.state)] == [links.device(name).index]
    assert detach(name, host.state)


def test_devices_agree_with_ip(host: Host) -> None:
    sh("ip", "link", "add", "br0", "type", "bridge")
    sh("ip", "link", "set", "d0", "master", "br0")
    sh("ip", "addr", "add", "fd77::1/64", "dev", "br0", "nodad")
    reported = {each["ifname"]: each for each in json.loads(sh("ip", "-j", "-d", "addr", "show"))}
    found = {each.name: each for each in links.devices()}
    assert set(found) == set(reported)
    for name, device in found.items():
        other = reported[name]
        assert device.index == other["ifindex"]
        assert device.mac.hex(":") == other["address"]
        assert device.kind == other.get("linkinfo", {}).get("info_kind", "")
        assert device.up == ("UP" in other["flags"])
        assert device.mtu == other["mtu"]
        assert {str(address) for address in device.addresses} == {each["local"] for each in other["addr_info"]}
        assert links.device(name) == device
    assert found["d0"].master == found["br0"].index
    assert found["br0"].has_unicast_address
    assert not found["lo"].has_unicast_address
    assert {str(each) for each in links.local_addresses()} >= {"127.0.0.1", "::1", "10.77.0.1", "fd77::1"}


def test_routes_agree_with_ip(host: Host) -> None:
    sh("ip", "route", "add", "10.78.0.0/16", "via", "10.77.0.2")
    sh("ip", "route", "add", "blackhole", "10.79.0.0/16")
    index = links.device("d0").index
    with links.Routes() as routes:
        routed = routes.to(ip_address("10.78.1.2"))
        assert routed is not None
        assert (routed.ifindex, str(routed.gateway), str(routed.source), routed.local) == (
            index, "10.77.0.2", "10.77.0.1", False
        )  # fmt: skip
        beside = routes.to(ip_address("10.77.0.9"))
        assert beside is not None
        assert (beside.ifindex, beside.gateway) == (index, None)
        own = routes.to(ip_address("10.77.0.1"))
        assert own is not None
        assert own.local
        for nowhere in ("10.79.1.1", "192.168.3.3", "fd99::1"):
            assert routes.to(ip_address(nowhere)) is None

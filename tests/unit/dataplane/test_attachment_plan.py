"""Which device is attached, how and why: decided from facts alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from pylvs.dataplane.devices import device_map, modes
from pylvs.dataplane.devices.modes import Attachment, Drivers, choose_mode
from pylvs.dataplane.devices.plan import GRACE_S, Attach, Facts, Plan, asked, missing, plan, request
from pylvs.dataplane.devices.selection import Concerns, Ways, needed_devices
from pylvs.dataplane.state import BARE, EGRESS, TC, XDP
from pylvs.model.errors import Busy, InvalidOperation
from pylvs.model.rows import DeviceProblem
from pylvs.netlink.links import ETH_P_8021AD, ETH_P_8021Q, XDP_BASIC, XDP_TRANSMIT, XDP_TRANSMIT_FRAGS, Device, Route

PROGRAMS = {TC: 1, XDP: 2, EGRESS: 3, BARE: 4}
NATIVE = "its driver has native XDP and no other program is there"
NOT_NEEDED = "no service or real server needs XDP on it"
OF_LO = "the loopback device has no native XDP"
LATER = "it came, or its program was taken off, after the last edit; the next edit attaches it"


def device(index: int, name: str, **more: Any) -> Device:
    made = Device(index, name, bytes((2, 0, 0, 0, 0, index)), "", True, False, 1500, 0, 0, ())
    return replace(made, **more)


LO = device(1, "lo", loopback=True, mac=bytes(6))
CARD, OTHER, VETH = device(2, "eth0"), device(3, "eth1"), device(4, "v0", kind="veth")
TUN, BRIDGE = device(5, "tun0", kind="tun", mac=b""), device(6, "br0", kind="bridge")
ABLE = Drivers(dict.fromkeys(range(2, 20), XDP_BASIC))  # native XDP on each card


def attached(of: Device, mode: modes.Mode = "tc", reason: str = "", **more: Any) -> Attachment:
    """Return what a device of the director runs, changed by `more`."""
    reason = reason or {LO.index: OF_LO}.get(of.index) or (NATIVE if mode == "native" else NOT_NEEDED)
    xdp, ingress = 0 if mode == "tc" else PROGRAMS[XDP], PROGRAMS[BARE if of.bare else TC]
    return replace(Attachment(of.name, of.index, mode, reason, mode, xdp, ingress), **more)


def facts(*devices: Device, there: Iterable[Attachment] = (), **more: Any) -> Facts:
    by_index = {each.ifindex: each for each in there}
    made = Facts([LO, *devices], by_index, set(by_index), programs=PROGRAMS, slot_count=1024)
    return replace(made, **more)


def done(found: Plan) -> dict[str, tuple[str, str]]:
    return {each.device.name: (each.mode, each.reason) for each in found.attach}


def only(found: Plan) -> Attach:
    (step,) = (each for each in found.attach if each.device is not LO)
    return step


# --- the mode that auto means ---


@pytest.mark.parametrize(
    ("of", "others", "drivers", "mode", "reason"),
    [
        (CARD, [], ABLE, "native", NATIVE),
        (CARD, [], Drivers(), "native", "no other program is at XDP, and the driver takes it"),
        (CARD, [], Drivers({2: 0}), "tc", "its driver has no native XDP"),
        (LO, [], ABLE, "tc", OF_LO),
        (VETH, [], ABLE, "tc", modes.NOT_NATIVE["veth"]),
        (TUN, [], ABLE, "tc", "its packets come without link addresses"),
        (replace(CARD, kind="tun"), [], ABLE, "tc", modes.NOT_NATIVE["tun"]),
        (replace(CARD, kind="vlan"), [], ABLE, "tc", modes.NOT_NATIVE["vlan"]),
        (replace(CARD, bus="xen"), [], ABLE, "tc", modes.UNFINISHED_BY_BUS["xen"]),
        (replace(CARD, master=9), [], ABLE, "tc", "it is a port of another device (bridge, bond or VRF)"),
        (replace(CARD, xdp_native=7), [], ABLE, "native", NATIVE),
        (
            replace(CARD, xdp_native=7), [], replace(ABLE, foreign={7: "theirs"}), "tc",
            "program 7 (theirs), which is not of pylvs, is at XDP already",
        ),
        (
            replace(CARD, xdp_generic=7), [], replace(ABLE, foreign={7: ""}), "tc",
            "program 7, not of pylvs, is at XDP already",
        ),
    ],
)  # fmt: skip
def test_auto_has_a_reason(of: Device, others: list[Device], drivers: Drivers, mode: str, reason: str) -> None:
    assert choose_mode(of, [of, *others], drivers) == (mode, reason)


BOND = device(7, "bond0", kind="bond")
PORT = replace(CARD, master=7)


@pytest.mark.parametrize(
    ("ports", "drivers", "reason"),
    [
        ([], ABLE, "it has no port"),
        ([PORT, replace(VETH, master=7)], ABLE, "its port v0 is a veth, which loses natively forwarded frames"),
        ([replace(PORT, kind="tun")], ABLE, f"its port eth0: {modes.NOT_NATIVE['tun']}"),
        ([replace(PORT, bus="xen")], ABLE, f"its port eth0: {modes.UNFINISHED_BY_BUS['xen']}"),
        ([replace(PORT, xdp_generic=1)], ABLE, "its port eth0 runs an XDP program of its own"),
        ([PORT], Drivers({7: 0}), "the drivers of its ports have no native XDP"),
        ([PORT], ABLE, ""),
    ],
)
def test_the_ports_of_a_bond_decide_and_auto_is_decided_again_when_they_change(
    ports: list[Device], drivers: Drivers, reason: str
) -> None:
    mode, why = choose_mode(BOND, [BOND, *ports], drivers)
    assert (mode, why) == (("tc", reason) if reason else ("native", NATIVE))
    there = attached(BOND, mode, why)
    assert "bond0" not in done(plan(facts(BOND, *ports, there=[there], needed={7}), drivers)), (
        "an edit without a change"
    )
    if reason:
        assert only(plan(facts(BOND, PORT, there=[there], needed={7}), ABLE)).mode == "native"
    else:
        assert only(plan(facts(BOND, replace(VETH, master=7), there=[there], needed={7}), ABLE)).mode == "tc"


@pytest.mark.parametrize("bonded", [False, True])
def test_xdp_below_vlans_needs_their_tags(bonded: bool) -> None:
    below = BOND if bonded else CARD
    vlan = device(8, "eth0.5", kind="vlan", lower=below.index, vlan_protocol=ETH_P_8021Q, vid=5)
    service_vlan = replace(vlan, name="eth0.6", index=9, vlan_protocol=ETH_P_8021AD)
    everything = [below, vlan, service_vlan, *([PORT] if bonded else [])]
    assert choose_mode(below, everything, ABLE)[0] == "native"
    for protocol, option in (ETH_P_8021Q, "rxvlan"), (ETH_P_8021AD, "rx-vlan-stag-hw-parse"):
        name = {ETH_P_8021Q: "eth0.5", ETH_P_8021AD: "eth0.6"}[protocol]
        hides = replace(ABLE, stripped={CARD.index: {protocol}})
        reason = f"{name} stands on it and the card takes VLAN tags off, unseen by XDP (ethtool: {option})"
        assert choose_mode(below, everything, hides) == ("tc", reason)
    assert choose_mode(below, [below, service_vlan, PORT], replace(ABLE, stripped={2: {ETH_P_8021Q}}))[0] == "native"


# --- which devices, and how ---


def test_every_device_that_receives_packets_is_attached_while_the_table_is_in_use() -> None:
    port, dummy = replace(VETH, index=8, name="v1", master=6), device(9, "dummy0", kind="dummy")
    found = done(plan(facts(CARD, OTHER, VETH, TUN, BRIDGE, port, dummy, needed={2}), ABLE))
    not_needed = ("tc", NOT_NEEDED)
    assert found == {
        "lo": ("tc", OF_LO),
        "eth0": ("native", NATIVE),
        "eth1": not_needed,
        "v0": not_needed,
        "tun0": not_needed,
        "br0": not_needed,
    }
    assert done(plan(facts(CARD, needed=set(), in_use=False), ABLE)) == {}


@pytest.mark.parametrize("kind", ["dummy", "ifb"])
def test_an_address_on_a_device_without_packets_needs_all_others(kind: str) -> None:
    vip = ip_address("192.0.2.1")
    holder = device(9, "pylvs-up", kind=kind, addresses=(vip,))
    card = replace(CARD, addresses=(ip_address("10.0.0.1"),))
    assert needed_devices(Concerns(virtual={vip}), Ways(), [LO, card, OTHER, holder]) == {card.index}


def test_an_edit_without_a_change_does_nothing() -> None:
    there = [attached(LO), attached(CARD, "native"), attached(VETH)]
    found = plan(facts(CARD, VETH, there=there, needed={2}, notes={"needed-2": "by a service or a real server"}), ABLE)
    assert (found.attach, found.detach, found.changes, found.notes) == ([], [], False, {})


def test_only_drivers_that_decide_are_asked() -> None:
    """A host may have thousands of devices that run TC."""
    vlan = device(8, "eth1.5", kind="vlan", lower=3, vlan_protocol=ETH_P_8021Q, vid=5)
    concerns = Concerns(outputs={2, 4})
    assert [each.name for each in asked(facts(CARD, OTHER, VETH, TUN, vlan, needed={8}, concerns=concerns))] == [
        "eth0",
        "eth1",
    ]
    assert [each.name for each in asked(facts(CARD, OTHER), requested=3)] == ["eth1"]
    assert asked(facts(CARD, OTHER, VETH)) == []


def test_a_card_that_is_needed_no_more_leaves_native_xdp_when_a_vlan_comes_whose_tags_it_takes_off() -> None:
    vlan = device(8, "eth0.5", kind="vlan", lower=CARD.index, vlan_protocol=ETH_P_8021Q, vid=5)
    found = facts(CARD, OTHER, vlan, there=[attached(LO), attached(CARD, "native"), attached(OTHER), attached(vlan)])
    assert [each.name for each in asked(found)] == ["eth0"]
    assert done(plan(found, ABLE)) == {}
    assert done(plan(found, replace(ABLE, stripped={CARD.index: {ETH_P_8021Q}}))) == {"eth0": ("tc", NOT_NEEDED)}


@pytest.mark.parametrize(("inputs", "mode"), [(ABLE, "native"), (Drivers({2: 0, 3: XDP_BASIC}), "tc")])
def test_a_driver_that_transmits_only_with_a_program_gets_one(inputs: Drivers, mode: str) -> None:
    """As most cards do. A device towards real servers gets it if clients come in by native XDP."""
    concerns = Concerns(outputs={3})
    first = plan(facts(CARD, OTHER, needed={2}, concerns=concerns), inputs)
    assert (done(first)["eth0"][0], done(first)["eth1"][0]) == (mode, mode)
    if mode == "native":  # now the program may be the reason why it transmits
        running = replace(OTHER, xdp_native=PROGRAMS[XDP])
        there = [attached(CARD, "native"), attached(running, "native")]
        transmits = Drivers({2: XDP_BASIC, 3: XDP_BASIC | XDP_TRANSMIT})
        found = plan(facts(CARD, running, there=there, needed={2}, concerns=concerns), transmits)
        assert (set(done(found)), set(found.notes)) == ({"lo"}, {"needed-2", "needed-3"})
    transmits = Drivers({2: XDP_BASIC, 3: XDP_BASIC | XDP_TRANSMIT})
    assert done(plan(facts(CARD, OTHER, needed={2}, concerns=concerns), transmits))["eth1"][0] == "tc"


@pytest.mark.parametrize(
    ("there", "mode"),
    [
        (attached(CARD, ingress=0), "native"),
        (attached(CARD, "native", ingress=99), "native"),
        (attached(CARD, "native", xdp=99), "native"),
        (attached(CARD, "tc", intended="native"), "native"),
        (attached(CARD, "native", egress=PROGRAMS[EGRESS]), "native"),
        (attached(CARD, "tc"), "native"),
    ],
)
def test_a_device_with_other_programs_is_attached_again(there: Attachment, mode: str) -> None:
    assert only(plan(facts(CARD, there=[there], needed={2}), ABLE)).mode == mode
    own_server = facts(CARD, there=[attached(CARD, egress=99)], concerns=Concerns(own_server=True))
    assert only(plan(own_server, ABLE)).egress


def test_the_replies_of_a_server_on_this_host_are_seen_at_tc_egress_but_of_lo() -> None:
    own = Concerns(own_server=True)
    assert {each.device.name: each.egress for each in plan(facts(CARD, TUN, concerns=own), ABLE).attach} == {
        "lo": False, "eth0": True, "tun0": False,
    }  # fmt: skip
    note = {"own-server": "yes"}
    (step,) = plan(facts(CARD, there=[attached(LO)], notes=note, whole=False), ABLE).attach
    assert step.egress, "by a former edit"
    found = plan(facts(CARD, there=[attached(CARD, egress=PROGRAMS[EGRESS])], notes=note), ABLE)
    assert (only(found).egress, found.notes["own-server"]) == (False, None)


@pytest.mark.parametrize(
    ("there", "notes", "line"),
    [
        (None, {}, True),
        (attached(CARD, ingress=0, egress=3), {}, True),
        (attached(CARD, intended="native"), {}, True),
        (attached(CARD), {"own-server": "yes"}, True),
        (attached(CARD), {}, False),
        (None, {"changing": "by an edit"}, False),
    ],
)
def test_a_removed_program_is_reported_unless_a_process_was_killed(
    there: Attachment | None, notes: dict[str, str], line: bool
) -> None:
    """Without the note of a server on this host, the program at TC egress is new."""
    known = facts(CARD, there=[there] if there else [], notes=notes, remembered={2}, concerns=Concerns(own_server=True))
    again = "eth0: its program was removed, and is attached again"
    assert only(plan(known, ABLE)).again == (again if line else "")


def test_packets_are_redirected_to_no_device_whose_driver_resets() -> None:
    """Only drivers that can transmit for XDP may then be in the map: others drop the packets."""

    def stop(before: modes.Mode | None, mode: modes.Mode) -> str:
        there = [attached(CARD, before)] if before else []
        return request(facts(CARD, there=there), ABLE, CARD.index, mode).stop

    assert stop(None, "native") == stop("generic", "native") == "all"
    assert stop("native", "tc") == stop("native", "generic") == "own"
    assert stop("native", "native") == stop("tc", "generic") == stop(None, "tc") == "none"


@pytest.mark.parametrize("in_use", [True, False])
def test_a_port_leaves_xdp_before_the_device_above_is_attached(in_use: bool) -> None:
    """That is so, too, during the time that XDP stays after the last service."""
    port = replace(PORT, xdp_native=PROGRAMS[XDP])
    found = plan(facts(BOND, port, there=[attached(port, "native", "on it")], needed={7}, in_use=in_use), ABLE)
    assert (found.leave_xdp, found.detach) == ([2], [2])
    assert done(found).get("bond0") == (("native", NATIVE) if in_use else None)


@pytest.mark.parametrize(("since", "stays"), [(None, True), (101, True), (100 - GRACE_S, False)])
def test_native_xdp_stays_for_a_time_after_the_last_service(since: int | None, stays: bool) -> None:
    notes = {"idle-since": str(since)} if since is not None else {}
    there = [attached(CARD, "native"), attached(VETH)]
    found = plan(facts(CARD, VETH, there=there, in_use=False, notes=notes, now_s=100), ABLE)
    assert (found.attach, found.detach) == ([], [VETH.index] if stays else [CARD.index, VETH.index])
    assert found.notes == ({"idle-since": "100"} if since is None else {})
    assert plan(facts(CARD, notes={"idle-since": "1"}), ABLE).notes["idle-since"] is None


# --- commands ---


def test_commands_hold_also_for_a_device_that_was_made_again() -> None:
    notes = {"wanted-2": "generic eth0", "wanted-30": "tc eth1", "wanted-31": "off v0", "wanted-32": "tc gone"}
    known = facts(CARD, OTHER, VETH, notes=notes, needed={2, 3, 4})
    assert known.commanded == {2: "generic", 3: "tc", 4: None}
    found = plan(known, ABLE)
    del (steps := done(found))["lo"]
    assert steps == {"eth0": ("generic", "on request"), "eth1": ("tc", "on request")}
    out = DeviceProblem("v0", "pylvs detach took it out; pylvs attach v0 restores it", needed=True, by_hand=True)
    assert (list(found.taken_out), found.refused) == ([out], {})
    assert missing(replace(known, notes=notes | {"wanted-3": "auto eth1"}))[-1] == out


def test_xdp_is_refused_on_a_device_without_link_addresses() -> None:
    reason = "its packets come without link addresses: --mode tc is its only one"
    with pytest.raises(InvalidOperation, match=f"^tun0: {reason}$"):
        request(facts(TUN), ABLE, 5, "generic")
    (problem,) = plan(facts(TUN, notes={"wanted-5": "generic tun0"}), ABLE).refused.values()
    assert problem == DeviceProblem("tun0", reason, needed=False)


def test_xdp_distinguishes_devices_by_the_low_bits_of_their_ifindexes() -> None:
    far, same = device(66, "eth64"), replace(OTHER, index=1026, name="eth1024")
    known = facts(CARD, far, same, slots={2: (2, 0)})
    assert [each.ifindex for each in request(known, ABLE, 66, "generic").entries] == [66]
    has_the_same = "XDP tells devices apart by ifindex modulo 1024, and 2 has the same"
    with pytest.raises(Busy, match=f"^eth1024: {has_the_same}$"):
        request(known, ABLE, same.index, "generic")
    assert (step := request(known, ABLE, same.index, "auto")).reason == has_the_same
    assert (step.mode, step.entries) == ("tc", [])
    assert request(replace(known, slots={2: (2, 40)}), ABLE, same.index, "generic").entries, "a VLAN device gives way"
    found = done(plan(facts(CARD, same, needed={2, same.index}), ABLE))
    assert (found["eth0"][0], found["eth1024"]) == ("native", ("tc", has_the_same)), "planned one after the other"


def test_xdp_finds_a_bond_by_its_ports_and_vlans_by_their_tags() -> None:
    vlan = device(8, "bond0.5", kind="vlan", lower=7, vlan_protocol=ETH_P_8021Q, vid=5)
    by_hand = replace(vlan, index=9, name="bond0.6", vid=6)
    known = facts(
        PORT, BOND, vlan, by_hand, replace(vlan, index=10, vlan_protocol=ETH_P_8021AD), notes={"wanted-9": "tc bond0.6"}
    )
    entries = {each.ifindex: (each.bond, each.trunk, each.vid) for each in request(known, ABLE, 7, "native").entries}
    assert entries == {7: (0, 0, 0), 2: (7, 0, 0), 8: (0, 7, 5)}
    taken = replace(known, slots={8: (8 + 1024, 0), 2: (2 + 1024, 0)})
    assert [each.ifindex for each in request(taken, ABLE, 7, "native").entries] == [7]


@pytest.mark.parametrize(
    ("mtu", "features", "redirects"),
    [
        (1500, XDP_BASIC | XDP_TRANSMIT, True),
        (9000, XDP_BASIC | XDP_TRANSMIT, False),
        (9000, XDP_BASIC | XDP_TRANSMIT | XDP_TRANSMIT_FRAGS, True),
        (1500, XDP_BASIC, False),
    ],
)
def test_xdp_redirects_only_to_drivers_that_transmit_its_frames(mtu: int, features: int, redirects: bool) -> None:
    """The kernel drops the others, and no counter of pylvs counts them."""
    everything = [LO, replace(CARD, mtu=mtu), OTHER, VETH]
    found = device_map.transmitters(
        [attached(CARD, "native"), attached(VETH)], everything, dict.fromkeys((2, 3, 4), features)
    )
    assert found == ({2, 3} if redirects else set()), "a veth transmits only as long as its peer takes the frames"
    assert device_map.transmitters([attached(CARD, "generic"), attached(VETH)], everything, {}) == {2, 4}
    assert device_map.transmitters([attached(CARD), attached(VETH)], everything, {}) == set()


# --- what the table needs ---


def test_the_addresses_of_a_table_need_devices() -> None:
    virtual, routed, elsewhere, server = map(ip_address, ("10.0.0.1", "10.0.1.1", "10.0.2.1", "10.1.0.9"))
    holder = replace(CARD, addresses=(virtual,))
    out = replace(OTHER, addresses=(ip_address("10.1.0.1"),))
    everything = [LO, holder, out, VETH]

    def route(ifindex: int, gateway: str = "") -> Route:
        return Route(ifindex, ip_address(gateway) if gateway else None, None, 1, 0)

    def needed(*addresses: Any, nat: Any = (), marks: bool = False, **ways: Any) -> set[int]:
        concerns = Concerns(virtual=set(addresses), by_nat=set(nat), marks=marks)
        return needed_devices(concerns, Ways(**ways), everything)

    assert needed(virtual) == {2}
    assert needed(routed, routes={routed: route(4)}) == {4}
    assert needed(elsewhere, routes={elsewhere: route(4, "10.9.9.9")}) == needed(marks=True) == {2, 3}
    assert needed(nat={server}, routes={server: route(3)}) == {3}
    networks = [(4, ip_network("10.0.1.0/24"))]
    assert needed(routed, of_routers=frozenset({routed}), networks=networks) == {4}


def test_accept_local_is_for_nat_of_ipv4_and_stays_until_the_whole_table_lacks_it() -> None:
    nat4, nat6 = (Concerns(by_nat={ip_address(each)}) for each in ("10.0.0.1", "fd00::1"))
    assert plan(facts(CARD, concerns=nat4), ABLE).accept_local
    assert not plan(facts(CARD, concerns=nat6), ABLE).accept_local
    assert not plan(facts(CARD, concerns=nat4, notes={"wanted-1": "off lo"}), ABLE).accept_local
    assert plan(facts(CARD, accepts_local=True, whole=False), ABLE).accept_local
    assert not plan(facts(CARD, accepts_local=True), ABLE).accept_local


def test_devices_that_are_not_attached_are_reported() -> None:
    noted = {"unattached-3": "refused"}
    known = facts(CARD, OTHER, VETH, there=[attached(VETH)], needed={2}, notes=noted)
    assert missing(known) == [
        DeviceProblem("lo", LATER, needed=False),
        DeviceProblem("eth0", LATER, needed=True),
        DeviceProblem("eth1", "refused", needed=False),
    ]
    assert missing(facts(CARD, in_use=False)) == []

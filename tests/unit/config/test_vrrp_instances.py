"""`vrrp_instance`: its words, keepalived's defaults, and what cannot be as written."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from pylvs.model.checks import Script
from pylvs.model.vrrp import (
    Announcements,
    Authentication,
    Ipvlan,
    IpvlanMode,
    OldChecksum,
    Peer,
    Track,
    Tracks,
    Vmac,
    VrrpInstance,
)
from tests.unit.config.vrrp_support import ADDRESS, INSTANCE, clean, configured, instance, left_out, vrrp


def test_what_is_not_written_is_keepalived_s_default() -> None:
    found, messages = instance()
    assert messages == []
    assert found == VrrpInstance(name="VI_1", interface="eth0", vrid=51, addresses=found.addresses)
    assert (found.version, found.family, found.priority, found.advert_interval_s) == (2, 4, 100, 1.0)
    assert (found.starts_as_master, found.preempt, found.accept, found.track_primary) == (False, True, True, True)
    assert found.announcements == Announcements(repeat=5, delay_s=5, lower_priority_repeat=5, lower_priority_delay_s=5)


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        ("state MASTER", "starts_as_master", True),
        ("priority 255", "starts_as_master", True),
        ("priority 20", "priority", 20),
        ("advert_int 3", "advert_interval_s", 3.0),
        ("version 3", "version", 3),
        ("nopreempt", "preempt", False),
        ("preempt_delay 300", "preempt_delay_s", 300.0),
        ("no_accept", "accept", False),
        ("mcast_src_ip 192.0.2.9", "source", ip_address("192.0.2.9")),
        ("mcast_dst_ip 224.0.0.99", "multicast", ip_address("224.0.0.99")),
        ("track_src_ip", "track_source", True),
        ("dont_track_primary", "track_primary", False),
        ("lower_prio_no_advert", "lower_priority_unanswered", True),
        ("higher_prio_send_advert on", "higher_priority_answered", True),
        ("down_timer_adverts 7", "down_after_adverts", 7),
        ("skip_check_adv_addr", "skip_address_check", True),
        ("promote_secondaries", "promote_secondaries", True),
        ("kernel_rx_buf_size 65536", "receive_buffer", 65536),
        ("use_vmac", "vmac", Vmac()),
        ("use_vmac vip0 02:00:00:00:00:07", "vmac", Vmac("vip0", bytes.fromhex("020000000007"))),
        ("use_vmac 02:00:00:00:00", "vmac", Vmac("", bytes.fromhex("0200000000"))),
        ("use_vmac_addr", "vmac", Vmac(here=False, for_addresses=True)),
    ],
)
def test_each_keyword_is_compiled(line: str, field: str, value: object) -> None:
    found, messages = instance(line)
    assert messages == []
    assert getattr(found, field) == value


def test_state_master_without_a_priority_owns_the_addresses() -> None:
    assert instance("state MASTER")[0].priority == 255
    assert instance("state MASTER", "priority 100")[0].priority == 100
    assert instance("state MASTER", "priority 300")[0].priority == 100, "keepalived's default for a wrong one"


def test_unicast() -> None:
    lines = "unicast_src_ip 192.0.2.9", "unicast_ttl 3", "old_unicast_checksum never", "unicast_peer {"
    found, messages = instance(*lines, "192.0.2.8", "192.0.2.7 min_ttl 254 max_ttl 254", "}")
    assert messages == []
    assert found.peers == (Peer(ip_address("192.0.2.8")), Peer(ip_address("192.0.2.7"), 254, 254))
    assert found.check_source, "a peer with a limit of its TTL turns the check on"
    assert (found.unicast_ttl, found.old_checksum) == (3, OldChecksum.NEVER)


def test_authentication_of_version_2() -> None:
    found, messages = instance("authentication {", "auth_type PASS", "auth_pass 1111", "}")
    assert messages == []
    assert (found.authentication, found.password) == (Authentication.PASS, b"1111")


def test_notifications() -> None:
    found, messages = instance(
        "notify_master '/nonexistent/up a'", "notify_deleted", "smtp_alert", "notify_priority_changes yes"
    )
    assert messages == ["7: note: /nonexistent/up is not run: no such file or directory"]
    assert found.notify.master is None
    assert (found.notify.say_deleted, found.notify.smtp_alert, found.notify.priority_changes) == (True, True, True)


def test_a_program_runs_with_its_arguments_as_the_user_that_is_named() -> None:
    found, _ = instance("notify '/bin/sh -c \"exit 0\"' root root")
    assert found.notify.every == Script(("/bin/sh", "-c", "exit 0"), "root", "root")


@pytest.mark.parametrize(
    ("lines", "finding", "field", "value"),
    [
        (["advert_int 0.5"], "version 2 counts in whole seconds: 1 counts, not 0.5", "advert_interval_s", 1.0),
        (["advert_int 1.5"], "version 2 counts in whole seconds: 2 counts, not 1.5", "advert_interval_s", 2.0),
        (
            ["advert_int 41", "version 3"],
            "version 3 counts up to 40.95 seconds: 40.95 counts, not 41",
            "advert_interval_s",
            40.95,
        ),
        (
            ["advert_int 0.015", "version 3"],
            "version 3 counts in hundredths of a second: 0.02 counts, not 0.015",
            "advert_interval_s",
            0.02,
        ),
        (
            ["max_advert_int 20"],
            "max_advert_int is ignored: with version 2 all routers have the same advert_int",
            "max_interval_s",
            0.0,
        ),
        (
            ["nopreempt", "state MASTER", "priority 9"],
            "nopreempt is ignored: it has no effect with state MASTER",
            "preempt",
            True,
        ),
        (
            ["nopreempt", "priority 255"],
            "nopreempt is ignored: a router of priority 255 preempts always",
            "preempt",
            True,
        ),
        (
            ["preempt_delay 9", "state MASTER"],
            "preempt_delay is ignored: it has no effect with state MASTER",
            "preempt_delay_s",
            0.0,
        ),
        (
            ["preempt_delay 9", "nopreempt"],
            "preempt_delay is ignored: nopreempt waits for ever",
            "preempt_delay_s",
            0.0,
        ),
        (["unicast_src_ip 192.0.2.9"], "without a peer advertisements are multicast", "peers", ()),
        (
            ["unicast_fault_no_peer"],
            "without a peer the virtual router stays in fault (unicast_fault_no_peer)",
            "fault_without_peers",
            True,
        ),
        (["vmac_xmit_base"], "vmac_xmit_base is ignored: there is no VMAC", "vmac", None),
        (["mcast_dst_ip ff02::5"], "ff02::5 is not IPv4, as the virtual router is", "multicast", "224.0.0.18"),
        (["mcast_src_ip 2001:db8::1"], "mcast_src_ip is ignored: 2001:db8::1 is not IPv4, as", "source", None),
        (["mcast_src_ip 192.0.2.9/24"], "the prefix length /24 has no meaning here", "source", "192.0.2.9"),
        (["native_ipv6"], "the virtual router's addresses are IPv4; native_ipv6 is ignored", "family", 4),
        (["prioritee 200"], "prioritee is not known in vrrp_instance and is ignored", "priority", 100),
        (["garp_master_repeat 0"], "garp_master_repeat 0 counts as 1", "announcements", Announcements(repeat=1)),
        (["use_vmac 00:00:5e:00:01:33"], "00:00:5e:00:01:33 is one of VRRP's own", "vmac", Vmac()),
        (["use_vmac", "use_ipvlan 192.0.2.9"], "use_ipvlan is ignored: use_vmac is given, too", "vmac", Vmac()),
        (["vrf eth3"], "vrf is ignored: the interface has its own VRF", "vrf", ""),
        (["old_unicast_checksum maybe", "unicast_peer { 192.0.2.9 }"], "'maybe'", "old_checksum", OldChecksum.DETECT),
    ],
)
def test_what_cannot_be_as_written_is_named_and_done_as_keepalived_does_it(
    lines: list[str], finding: str, field: str, value: Any
) -> None:
    found, messages = instance(*lines)
    assert len(messages) == 1, messages
    assert finding in messages[0]
    got = getattr(found, field)
    assert (str(got) if isinstance(value, str) else got) == value


@pytest.mark.parametrize(
    ("authentication", "more", "finding"),
    [
        (["auth_type PASS"], "", "no password is given; nothing is authenticated"),
        (["auth_pass 1111"], "", "no auth_type is given; nothing is authenticated"),
        (["auth_type PASS", "auth_pass 1111"], "version 3", "version 3 has no authentication"),
        (["auth_type PASS", "auth_pass 1111"], "strict_mode", "strict_mode has no authentication"),
    ],
)
def test_authentication_that_cannot_be(authentication: list[str], more: str, finding: str) -> None:
    found, messages = instance("authentication {", *authentication, "}", more)
    assert found.authentication is None
    assert found.password == b""
    assert [finding in each for each in messages] == [True]


def test_a_long_password_is_cut_to_what_version_2_carries() -> None:
    found, messages = instance("authentication {", "auth_type PASS", "auth_pass 123456789", "}")
    assert found.password == b"12345678"
    assert messages == ["9: warning: the password is longer than 8 octets; the rest is cut"]


def test_with_an_authentication_header_no_router_begins_as_master() -> None:
    found, messages = instance("state MASTER", "priority 9", "authentication {", "auth_type AH", "auth_pass 1", "}")
    assert not found.starts_as_master
    assert messages == ["7: warning: with auth_type AH a router cannot begin as master; it begins as backup"]


def test_a_vmac_with_peers_sends_from_the_device_below() -> None:
    found, messages = instance("use_vmac", "unicast_peer { 192.0.2.9 }")
    assert found.vmac == Vmac(send_from_base=True)
    assert messages == ["7: warning: with unicast peers a VMAC sends from the device below (vmac_xmit_base)"]


def test_ipv6_is_version_3_with_a_finding_only_for_a_written_2() -> None:
    found, messages = instance(addresses="2001:db8::1/64")
    assert messages == []
    assert (found.family, found.version, str(found.multicast)) == (6, 3, "ff02::12")
    found, messages = instance("version 2", addresses="2001:db8::1/64")
    assert found.version == 3
    assert messages == ["7: warning: version 2 has no IPv6; version 3 counts"]


def test_the_first_address_in_the_text_decides_the_family() -> None:
    found, messages = instance("unicast_peer {", "2001:db8::1", "192.0.2.9", "}")
    assert [str(peer.address) for peer in found.peers] == ["192.0.2.9"]
    assert messages == ["8: error: peer 2001:db8::1 is not IPv4, as the virtual router is; it is left out"]
    found, messages = instance(addresses="2001:db8::1\n192.0.2.1")
    assert [str(each.interface) for each in found.addresses] == ["2001:db8::1/128"]
    assert messages == ["6: error: 192.0.2.1 is not IPv6, as the virtual router is; it is left out"]


def test_strict_mode_removes_what_the_rfc_does_not_have() -> None:
    found, messages = instance(
        *("strict_mode", "accept", "preempt_delay 3", "higher_prio_send_advert", "lower_prio_no_advert off"),
        *("garp_lower_prio_repeat 3", "down_timer_adverts 9", "use_vmac", "vmac_xmit_base"),
    )
    assert len(messages) == 7, messages
    assert found.down_after_adverts == 3
    assert all("strict_mode has" in each for each in messages)
    assert (found.accept, found.preempt_delay_s, found.higher_priority_answered) == (False, 0.0, False)
    assert found.lower_priority_unanswered
    assert (found.announcements.lower_priority_repeat, found.announcements.lower_priority_delay_s) == (0, 0)
    assert found.vmac == Vmac()


def test_what_keepalived_ignores_in_a_stock_file_is_no_error() -> None:
    """The sample of RHEL: such a file can be reloaded."""
    strict = "global_defs {\nvrrp_strict\nvrrp_garp_interval 0\nvrrp_gna_interval 0\n}\n"
    lines = """
        state MASTER
        nopreempt
        preempt_delay 3
        advert_int 0.5
        mcast_dst_ip 224.0.0.9
        unicast_peer {
            192.0.2.9
        }
        authentication {
            auth_type PASS
            auth_pass 1111
        }
        garp_lower_prio_repeat 3
        vmac_xmit_base
        accept
    """
    _, messages = vrrp(strict + INSTANCE.format(addresses=ADDRESS, lines=lines))
    assert len(messages) == 10, messages
    assert [each for each in messages if ": warning: " not in each] == []


def test_in_strict_mode_only_the_owner_begins_as_master() -> None:
    assert instance("strict_mode", "priority 255")[1] == []
    for lines in (["strict_mode", "state MASTER", "priority 9"], ["strict_mode", "priority 255", "state BACKUP"]):
        _, messages = instance(*lines)
        assert ["begins as master if and only if its priority is 255" in each for each in messages] == [True]


def test_strict_mode_turns_a_master_into_a_backup_whose_nopreempt_counts() -> None:
    found, messages = instance("strict_mode", "state MASTER", "priority 9", "nopreempt")
    assert (found.starts_as_master, found.preempt) == (False, False)
    assert len(messages) == 1, "none about nopreempt"
    owner, messages = instance("strict_mode", "state BACKUP", "priority 255", "nopreempt")
    assert (owner.starts_as_master, owner.preempt) == (True, True)
    assert len(messages) == 2


@pytest.mark.parametrize(
    ("words", "expected"),
    [("10", (10, False)), ("all 10", (10, True)), ("10 all", (10, True)), ("all 5 10", (10, True)), ("0", (0, False))],
)
def test_the_words_of_garp_extra_if_have_no_order(words: str, expected: tuple[int, bool]) -> None:
    found, messages = instance(f"garp_extra_if {words}")
    assert (found.announcements.extra_interval_s, found.announcements.extra_everywhere) == expected
    assert messages == []


def test_no_router_is_on_a_loopback_device() -> None:
    text = INSTANCE.format(addresses=ADDRESS, lines="").replace("interface eth0", "interface lo")
    ignored = "2: error: advertisements cannot leave by a loopback device; interface lo is ignored"
    assert left_out(text) == ["1: error: without a valid interface the virtual router is left out", ignored]


def test_the_old_words_of_garp_extra_if_count() -> None:
    text = "global_defs {\nvrrp_vmac_garp_intvl all 7\n}\n" + INSTANCE.format(addresses=ADDRESS, lines="")
    found, messages = vrrp(text)
    announcements = found.instances[0].announcements
    assert (announcements.extra_interval_s, announcements.extra_everywhere) == (7, True)
    assert messages == ["2: warning: vrrp_vmac_garp_intvl is an old word for vrrp_garp_extra_if"]
    own, messages = instance("vmac_garp_intvl 10")
    assert (own.announcements.extra_interval_s, own.announcements.extra_everywhere) == (10, False)
    assert messages == ["7: warning: vmac_garp_intvl is an old word for garp_extra_if"]


def test_an_owner_accepts_and_its_priority_does_not_change() -> None:
    lines = "priority 255", "no_accept", "track_interface {", "eth1", "eth2 weight 3", "}"
    found, messages = instance(*lines)
    assert found.owner
    assert found.accept
    assert found.tracks == Tracks(interfaces=(Track("eth1"),))
    text = "priority 255 does not change, so the weight 3 of eth2 does not count: it is not watched"
    assert messages == [f"11: error: {text}"]


@pytest.mark.parametrize(
    ("device", "version", "maximum"),
    [("eth2", "version 2", 137), ("eth2", "version 3", 139), ("eth0", "version 2", 255)],
)
def test_more_addresses_than_an_advertisement_holds_are_not_in_it(device: str, version: str, maximum: int) -> None:
    addresses = "\n".join(f"10.0.{number // 250}.{number % 250 + 1}" for number in range(300))
    found, messages = instance(f"interface {device}", version, addresses=addresses)
    assert (len(found.addresses), len(found.excluded)) == (maximum, 300 - maximum)
    text = f"an advertisement holds no more than {maximum}; from this address on they are not in it"
    assert f"{5 + maximum}: warning: {text}" in messages


def test_an_address_that_is_given_twice_is_named() -> None:
    found, messages = instance(
        "virtual_ipaddress_excluded {", ADDRESS, "}", addresses="192.0.2.1\n192.0.2.1 label eth0:1"
    )
    assert len(found.addresses) == 2
    assert messages == [
        "6: warning: 192.0.2.1 is given already in line 5",
        "9: warning: 192.0.2.1 is given already in line 5",
    ]


@pytest.mark.parametrize(
    ("lines", "findings"),
    [
        (["virtual_router_id 51"], ["the virtual router lacks its interface; it is left out"]),
        (["interface eth0"], ["the virtual router lacks its virtual_router_id; it is left out"]),
        (
            ["interface eth0", "virtual_router_id 256"],
            [
                "virtual_router_id 256 is not between 1 and 255",
                "without a valid virtual_router_id the virtual router is",
            ],
        ),
    ],
)
def test_without_interface_or_number_there_is_no_router(lines: list[str], findings: list[str]) -> None:
    messages = left_out("\n".join(["vrrp_instance V {", *lines, "virtual_ipaddress { 192.0.2.1 }", "}"]))
    assert len(messages) == len(findings), messages
    for finding in findings:
        assert any(finding in each for each in messages), messages


def test_without_an_address_only_version_2_runs() -> None:
    text = "vrrp_instance V {\ninterface eth0\nvirtual_router_id 5\n%s\n}"
    found, messages = vrrp(text % "")
    assert len(found.instances) == 1
    assert messages == ["1: warning: the virtual router has no virtual address: nothing moves with it"]
    for line in ("version 3", "strict_mode"):
        assert ["need one; it is left out" in each for each in left_out(text % line)] == [True]


def test_in_strict_mode_the_first_ipv6_address_should_be_link_local() -> None:
    text = INSTANCE.format(addresses="2001:db8::1", lines="strict_mode")
    found, messages = vrrp(text)
    assert len(found.instances) == 1
    finding = "1: warning: in strict_mode the first IPv6 address should be link-local, and 2001:db8::1 is not"
    assert messages == [finding]
    found = clean(INSTANCE.format(addresses="fe80::1\n2001:db8::1", lines="strict_mode"))
    assert len(found.instances) == 1


def test_unicast_in_strict_mode_needs_no_link_local_address() -> None:
    lines = "strict_mode\nunicast_peer { 2001:db8::9 }"
    assert len(clean(INSTANCE.format(addresses="2001:db8::1", lines=lines)).instances) == 1


def test_global_defs_set_the_defaults() -> None:
    found = clean(
        """\
        global_defs {
            vrrp_version 3
            vrrp_garp_master_delay 7
            vrrp_garp_lower_prio_repeat 3
            vrrp_mcast_group4 224.0.0.99
            vrrp_lower_prio_no_advert
            smtp_alert
        }
        vrrp_instance VI_1 {
            interface eth0
            virtual_router_id 51
            garp_master_repeat 9
            virtual_ipaddress { 192.0.2.1 }
        }
        """
    ).instances[0]
    assert (found.version, str(found.multicast), found.lower_priority_unanswered) == (3, "224.0.0.99", True)
    assert found.notify.smtp_alert
    expected = Announcements(repeat=9, delay_s=7, lower_priority_repeat=3, lower_priority_delay_s=7)
    assert found.announcements == expected


def test_vrrp_min_garp_changes_only_defaults() -> None:
    text = "global_defs {\nvrrp_min_garp\n}\n" + INSTANCE.format(addresses=ADDRESS, lines="garp_master_repeat 9")
    found = clean(text).instances[0].announcements
    assert found == Announcements(repeat=9, delay_s=0, lower_priority_repeat=1, lower_priority_delay_s=0)


def two(first: str, second: str) -> tuple[list[str], list[str]]:
    """Return the names of the accepted ones of two instances, and the findings; each has a line of its own."""
    text = (
        "vrrp_instance {name} {{\ninterface eth0\nvirtual_router_id 51\nvirtual_ipaddress {{ {address} }}\n{line}\n}}\n"
    )
    one, other = (
        text.format(name=name, address=f"192.0.2.{at}", line=line)
        for at, (name, line) in enumerate((("A", first), ("B", second)), 1)
    )
    found, messages = vrrp(one + other)
    return [each.name for each in found.instances], messages


def test_one_number_on_one_link_is_one_router() -> None:
    names, messages = two("", "")
    assert names == ["A"]
    assert messages == ["9: error: B and A both have VRID 51 with IPv4 on eth0; B is left out"]


@pytest.mark.parametrize(
    ("first", "second", "left"),
    [
        ("", "mcast_dst_ip 224.0.0.99", ["A", "B"]),
        ("", "unicast_peer { 192.0.2.9 }", ["A", "B"]),
        ("unicast_peer { 192.0.2.8 }", "unicast_peer { 192.0.2.9 }", ["A", "B"]),
        ("unicast_peer { 192.0.2.9 }", "unicast_peer { 192.0.2.9 }", ["A"]),
    ],
)
def test_unless_neither_accepts_the_others_advertisements(first: str, second: str, left: list[str]) -> None:
    names, messages = two(first, second)
    assert names == left
    assert len(messages) == 2 - len(left)


def test_one_address_of_two_routers_is_named() -> None:
    found, messages = vrrp(
        INSTANCE.format(addresses=ADDRESS, lines="")
        + INSTANCE.format(addresses=ADDRESS, lines="").replace("VI_1", "VI_2").replace("51", "52")
    )
    assert len(found.instances) == 2
    assert messages == ["13: warning: 192.0.2.1 belongs to VI_1 too: both can hold it at once"]


def test_a_name_is_unique() -> None:
    found, messages = vrrp(2 * INSTANCE.format(addresses=ADDRESS, lines=""))
    assert len(found.instances) == 1
    assert messages == ["9: error: the name 'VI_1' is taken, in line 1; this vrrp_instance is left out"]


def test_a_device_that_is_not_here_is_named_unless_it_may_come_later() -> None:
    text = INSTANCE.format(addresses="192.0.2.1 dev eth8", lines="interface eth9\ntrack_interface { eth7 }")
    _, messages = vrrp(text.replace("    interface eth0\n", "\n"))
    missing = [each.partition(": ")[2] for each in messages]
    assert missing == [f"warning: this machine has no device 'eth{number}'" for number in (8, 9, 7)]
    assert vrrp("global_defs {\ndynamic_interfaces\n}\n" + text.replace("    interface eth0\n", "\n"))[1] == []


UNICAST = """\
vrrp_instance VI_1 {{
    virtual_router_id 51
    {lines}
    unicast_peer {{
        198.51.100.2
    }}
    virtual_ipaddress {{
        192.0.2.1/24
        192.0.2.2/24 dev eth1
    }}
}}
"""


def test_unicast_needs_no_interface_if_it_has_a_source() -> None:
    found = clean(UNICAST.format(lines="unicast_src_ip 198.51.100.1\nvrf eth3")).instances[0]
    assert (found.interface, found.vrf, found.source) == ("", "eth3", ip_address("198.51.100.1"))
    assert [each.device for each in found.addresses] == ["eth0", "eth1"]


@pytest.mark.parametrize(
    ("lines", "finding"),
    [
        ("", "1: error: the virtual router lacks its interface; it is left out"),
        ("vrf eth3", "1: error: the virtual router lacks its interface; it is left out"),
        ("interface eth0\nuse_ipvlan iv0", "4: error: an ipvlan of IPv4 needs an IPv4 address"),
        ("interface eth0\nuse_ipvlan iv0 2001:db8::9", "1: error: the virtual router has no virtual address"),
    ],
)
def test_what_a_router_without_multicast_needs(lines: str, finding: str) -> None:
    found, messages = vrrp(UNICAST.format(lines=lines))
    assert found.instances == ()
    assert any(each.startswith(finding) for each in messages), messages


@pytest.mark.parametrize(
    ("words", "name", "address", "mode"),
    [
        ("iv0 192.0.2.9/24", "iv0", "192.0.2.9/24", IpvlanMode.BRIDGE),
        ("192.0.2.9 private", "", "192.0.2.9/32", IpvlanMode.PRIVATE),
        ("vepa 192.0.2.9 iv0", "iv0", "192.0.2.9/32", IpvlanMode.VEPA),
    ],
)
def test_an_ipvlan(words: str, name: str, address: str, mode: IpvlanMode) -> None:
    found, messages = instance(f"use_ipvlan {words}")
    assert messages == []
    assert found.vmac == Vmac(name, ipvlan=Ipvlan(mode, ip_interface(address)))
    assert found.source == ip_interface(address).ip


@pytest.mark.parametrize(
    ("settings", "lines", "missing"),
    [
        ("notification_email {\na@b\n}", "smtp_alert", True),
        ("notification_email {\na@b\n}\nsmtp_alert", "", True),
        ("notification_email {\na@b\n}\nsmtp_server 192.0.2.25", "smtp_alert", False),
        ("notification_email {\na@b\n}", "", False),
        ("smtp_alert", "smtp_alert", False),
    ],
)
def test_alerts_without_a_mail_server_are_a_finding(settings: str, lines: str, missing: bool) -> None:
    """As in keepalived, no mail is sent then. Where there is no recipient either, none is expected."""
    text = f"global_defs {{\n{settings}\n}}\n" + INSTANCE.format(addresses=ADDRESS, lines=lines)
    found = configured(text)
    expected = ["2: warning: no alert is mailed: there is no smtp_server"] if missing else []
    assert [f"{each.location.line}: {each.severity.value}: {each.text}" for each in found.findings] == expected
    assert found.configuration.settings.mail.server == ("192.0.2.25" if "smtp_server" in settings else "")


def test_the_longest_interval_that_a_backup_adopts() -> None:
    found, messages = instance("version 3", "max_advert_int 20")
    assert (found.max_interval_s, messages) == (20.0, [])
    assert instance("version 3", "advert_int 2")[0].max_interval_s == 0.0

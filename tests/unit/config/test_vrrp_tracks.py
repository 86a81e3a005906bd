"""What virtual routers and their groups watch: scripts, files, processes, devices; and who is in a group."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pylvs.config.show import shown
from pylvs.model.bfd import BfdSession
from pylvs.model.checks import Script
from pylvs.model.vrrp import Track, TrackFile, TrackProcess, Tracks, VrrpScript
from tests.unit.config.vrrp_support import ADDRESS, INSTANCE, clean, configured, instance, vrrp

# Nothing is run that would need script security: a shell only opens these.
SCRIPTS = """\
vrrp_script plain {
    script "</dev/null"
}
vrrp_script heavy {
    script "</dev/zero"
    interval 3
    timeout 2
    weight -20 reverse
    rise 4
    fall 5
    init_fail
    user root
}
"""
FILE = """\
track_file number {
    file /run/number
    weight 2
    init_file 7 overwrite
}
"""
PROCESS = """\
vrrp_track_process nginx {
    process nginx
    weight 5
}
"""


def opened(path: str) -> Script:
    """What a shell does for "<PATH"."""
    return Script(("/bin/sh", "-c", f"<{path}"))


def watching(definitions: str, *lines: str) -> tuple[Tracks, list[str]]:
    """Return what one instance tracks, and the findings."""
    found, messages = vrrp(definitions + INSTANCE.format(addresses="192.0.2.1", lines="\n".join(lines)))
    return found.instances[0].tracks, messages


def test_what_is_defined() -> None:
    found = clean(SCRIPTS + FILE + PROCESS)
    assert found.scripts[0] == VrrpScript(
        name="plain", script=opened("/dev/null"), interval_s=1, timeout_s=1, track=Track("plain")
    )
    assert found.scripts[1] == VrrpScript(
        name="heavy",
        script=Script(opened("/dev/zero").arguments, "root"),
        interval_s=3,
        timeout_s=2,
        track=Track("heavy", -20, reverse=True),
        rise=4,
        fall=5,
        down_at_start=True,
    )
    number = TrackFile(name="number", path="/run/number", track=Track("number", 2), initial=7, overwrite=True)
    assert found.files == (number,)
    assert found.processes == (TrackProcess(name="nginx", command=("nginx",), track=Track("nginx", 5)),)


def test_the_weight_of_a_line_counts_before_that_of_the_definition() -> None:
    lines = "track_script {", "plain weight 10", "heavy", "}", "track_file { number weight 0 }"
    found, messages = watching(SCRIPTS + FILE, *lines)
    assert messages == []
    assert found.scripts == (Track("plain", 10), Track("heavy", -20, reverse=True))
    assert found.files == (Track("number"),)
    found, _ = watching(SCRIPTS, "track_script {", "heavy weight 30", "}")
    assert found.scripts == (Track("heavy", 30, reverse=True),), "reverse stays, as keepalived has it"
    found, _ = watching(SCRIPTS, "track_script {", "heavy weight 30 noreverse", "}")
    assert found.scripts == (Track("heavy", 30),)


@pytest.mark.parametrize(
    ("lines", "finding", "left"),
    [
        (["track_script { missing }"], "7: warning: there is no vrrp_script 'missing', so it is not watched", ()),
        (["track_process { missing }"], "7: warning: there is no vrrp_track_process 'missing'", ()),
        (["track_interface { eth1 weight 254 }"], "weight 254 is not between -253 and 253; it counts as 253", (253,)),
        (["track_interface { eth1 weight 300x }"], "'300x' is not a whole number; it is ignored", (0,)),
        (["track_interface { eth1 weight 300 }"], "weight 300 is not between -253 and 253; it is ignored", (0,)),
        (["track_interface { eth1 wieght 3 }"], "'wieght' is not known here, so eth1 is not watched", ()),
        (["track_interface { eth1 eth2 }"], "'eth2' is not known here, so eth1 is not watched", ()),
        (["track_interface { eth0 }"], "eth0 is the virtual router's own interface, which is watched anyway", ()),
        (["track_interface {", "eth1", "eth1", "}"], "9: warning: eth1 is watched already", (0,)),
        (["track_interface { eth9 }"], "this machine has no device 'eth9'", (0,)),
        (["track_bfd { missing }"], "7: warning: there is no bfd_instance 'missing', so it is not watched", ()),
    ],
)
def test_what_cannot_be_watched_is_named(lines: list[str], finding: str, left: tuple[int, ...]) -> None:
    found, messages = instance(*lines)
    assert [finding in each for each in messages] == [True], messages
    assert tuple(track.weight for track in found.tracks.interfaces) == left


def test_keepalived_does_not_look_ahead() -> None:
    text = INSTANCE.format(addresses="192.0.2.1", lines="track_script { plain }") + SCRIPTS
    found, messages = vrrp(text)
    assert found.instances[0].tracks == Tracks()
    assert messages == ["7: warning: vrrp_script 'plain' is defined only in line 9, so it is not watched"]


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("vrrp_script s {\ninterval 2\n}", "1: error: vrrp_script s has no script"),
        ("vrrp_script s {\nscript '</dev/null'\ninterval 2s\n}", "3: error: '2s' is not a whole number; 2 counts"),
        ("vrrp_script s {\nscript '</dev/null'\ninterval 5000\n}", "3: error: interval 5000 is not between 1 and"),
        ("vrrp_script s {\nscript '</dev/null'\ninterval 0\n}", "3: warning: interval 0 counts as 1"),
        ("vrrp_script s {\nscript '</dev/null'\ninterval 0.5\n}", "3: error: '0.5' is not a whole number; 1 counts"),
        ("vrrp_script s {\nscript '</dev/null'\ntimeout 0.5\n}", "3: error: '0.5' is not a whole number; 1 counts"),
        ("global_defs {\nvrrp_rt_priority 0.5\n}", "2: error: '0.5' is not a whole number; 1 counts"),
        ("global_defs {\nvrrp_rt_priority 500x\n}", "2: error: '500x' is not a whole number; 99 counts"),
        ("vrrp_script s {\nscript '</dev/null'\ntimeout 4295\n}", "3: error: timeout 4295 is not between 1 and 4294"),
        ("vrrp_script s {\nscript '</dev/null'\nrise 0\n}", "3: error: rise 0 is not between 1 and 2147483647"),
        (
            "vrrp_script s {\nscript '</dev/null'\nweight 254\n}",
            "3: warning: weight 254 is not between -253 and 253; it counts",
        ),
        ("vrrp_script s {\nscript </dev/null more\n}", "2: warning: surplus 'more' behind script is ignored"),
        ("vrrp_script {\nscript '</dev/null'\n}", "1: error: vrrp_script lacks a name"),
        ("track_file f {\nweight 1\n}", "1: error: track_file f has no file"),
        ("track_file f {\nfile /f\ninit_file x\n}", "3: error: 'x' is neither a number nor 'overwrite'"),
        ("track_file f {\nfile /f\ninit_file 999\n}", "3: warning: 999 is not between -254 and 254"),
        ("vrrp_track_process p {\nquorum 2\n}", "1: error: vrrp_track_process p has no process"),
        ("vrrp_track_process p {\nprocess p\nquorum 0\n}", "3: error: quorum 0 is not between 1 and 65535"),
        (
            "vrrp_track_process p {\nprocess p\nquorum 4\nquorum_max 2\n}",
            "4: error: quorum_max 2 is less than quorum 4 and is ignored",
        ),
        (
            "vrrp_track_process p {\nprocess p\ndelay 3601\n}",
            "3: error: delay 3601 seconds is not between 0.000001 and 3600",
        ),
        ("bfd_instance b {\nmin_rx 5\n}", "1: error: bfd_instance b has no neighbor_ip; it is never up"),
        ("bfd_instance b {\nneighbor_ip 192.0.2.300\n}", "2: error: '192.0.2.300' is not an IP address"),
        (
            "bfd_instance b {\nneighbor_ip 192.0.2.1\nsource_ip fd00::1\n}",
            "3: error: source_ip fd00::1 is not of the IP version of 192.0.2.1; bfd_instance b is never up",
        ),
        ("bfd_instance b {\nneighbor_ip 192.0.2.1\nmin_tx 0.5\n}", "3: error: min_tx 0.5 is not between 1 and 4294967"),
        (
            "bfd_instance b {\nneighbor_ip 192.0.2.1\nidle_tx 999\n}",
            "3: error: idle_tx 999 is not between 1000 and",
        ),
        ("bfd_instance b {\nneighbor_ip 192.0.2.1\nmin_rx 20000\n}", "3: warning: 20000 ms is long: min_rx is in"),
        (
            "bfd_instance b {\nneighbor_ip 192.0.2.1\nmultiplier 256\n}",
            "3: error: multiplier 256 is not between 1 and",
        ),
        ("bfd_instance b {\nneighbor_ip 192.0.2.1\nttl 0\n}", "3: error: ttl 0 is not between 1 and 255"),
        (
            "bfd_instance b {\nneighbor_ip 192.0.2.1\nttl 20\nmax_hops 30\n}",
            "4: error: max_hops 30 is more than the ttl 20, which counts",
        ),
        (
            "bfd_instance b {\nneighbor_ip 192.0.2.1\n}\nbfd_instance b {\nneighbor_ip 192.0.2.2\n}",
            "4: error: the name 'b' is taken, in line 1; this one does not count",
        ),
        (
            "bfd_instance b {\nneighbor_ip 192.0.2.1\n}\nbfd_instance c {\nneighbor_ip 192.0.2.1\n}",
            "5: error: bfd_instance b has neighbor 192.0.2.1 and the same source_ip; c is never up",
        ),
    ],
)
def test_a_definition_that_is_wrong_is_named(text: str, finding: str) -> None:
    _, messages = vrrp(text)
    assert len(messages) == 1, messages
    assert messages[0].startswith(finding)


@pytest.mark.parametrize(
    ("line", "weight", "severity"),
    [
        ("weight -255", -255, "warning"),
        ("weight 300 reverse", 300, "warning"),
        ("weight 10;", 10, "error"),
        ("weight 10x reverse", 10, "error"),
    ],
)
def test_a_script_keeps_a_weight_with_a_finding(line: str, weight: int, severity: str) -> None:
    found, messages = vrrp(f"vrrp_script s {{\nscript '</dev/null'\n{line}\n}}")
    assert found.scripts[0].track == Track("s", weight, reverse="reverse" in line)
    assert [severity in each for each in messages] == [True]


@pytest.mark.parametrize(
    ("line", "weight", "severity"),
    [
        ("10; reverse", 10, "error"),
        ("0x10", 0, "error"),
        ("heavy", 0, "error"),
        ("300x", -20, "warning"),
        ("300", -20, "warning"),
    ],
)
def test_a_weight_of_a_line_is_the_number_that_it_begins_with(line: str, weight: int, severity: str) -> None:
    found, messages = watching(SCRIPTS, "track_script {", f"heavy weight {line}", "}")
    assert found.scripts == (Track("heavy", weight, reverse=True),)
    assert [severity in each for each in messages] == [True]


DEFINED = (
    SCRIPTS
    + FILE
    + "vrrp_track_process proc {\nprocess p\nweight 3\n}\n"
    + "bfd_instance b {\nneighbor_ip 192.0.2.9\nweight 7\n}\n"
)


@pytest.mark.parametrize(
    ("kind", "field", "name", "keeps"),
    [
        ("track_interface", "interfaces", "eth1", True),
        ("track_script", "scripts", "plain", True),
        ("track_process", "processes", "proc", True),
        ("track_file", "files", "number", False),
        ("track_bfd", "sessions", "b", False),
    ],
)
def test_an_unknown_word_behind_a_weight_drops_the_lines_that_it_drops_in_keepalived(
    kind: str, field: str, name: str, keeps: bool
) -> None:
    found, messages = watching(DEFINED, f"{kind} {{", f"{name} weight 5 downwards", "}")
    assert [each.weight for each in getattr(found, field)] == ([5] if keeps else [])
    assert ["error: 'downwards' is not known here" in each for each in messages] == [True]
    found, messages = watching(DEFINED, f"{kind} {{", f"{name} weight 5 reverse downwards", "}")
    assert [(each.weight, each.reverse) for each in getattr(found, field)] == [(5, True)]
    assert ["surplus 'downwards'" in each for each in messages] == [True]
    found, messages = watching(DEFINED, f"{kind} {{", f"{name} downwards", "}")
    assert getattr(found, field) == ()


def test_only_weights_of_devices_and_scripts_are_brought_into_their_limits() -> None:
    lines = ("track_interface {", "eth1 weight 254", "}", "track_script {", "heavy weight -254", "}")
    found, _ = watching(DEFINED, *lines, "track_bfd {", "b weight 254", "}")
    assert [each.weight for each in (*found.interfaces, *found.scripts, *found.sessions)] == [253, -253, 7]


def test_a_script_without_its_program_is_not_tracked() -> None:
    script = 'vrrp_script s {\nscript "/nonexistent/program -x"\n}\n'
    found, messages = watching(script, "track_script { s }")
    assert found == Tracks()
    assert messages == [
        "2: error: /nonexistent/program is not run: no such file or directory; vrrp_script s watches nothing",
    ]


def test_of_the_delays_of_a_process_the_last_counts() -> None:
    text = "vrrp_track_process p {{\nprocess p -x\n{lines}\n}}"
    first = clean(text.format(lines="fork_delay 4\ndelay 3")).processes[0]
    assert (first.fork_delay_s, first.terminate_delay_s) == (3.0, 3.0)
    second = clean(text.format(lines="delay 3\nfork_delay 4")).processes[0]
    assert (second.fork_delay_s, second.terminate_delay_s) == (4.0, 3.0)
    assert (second.match_arguments, second.full_command) == (True, True)


def test_a_process_that_must_not_run() -> None:
    found = clean("vrrp_track_process p {\nprocess p\nquorum_max 0\n}").processes[0]
    assert (found.least, found.most) == (0, 0)


MEMBERS = (
    "".join(
        f"vrrp_instance VI_{number} {{\ninterface eth{number}\nvirtual_router_id 5{number}\n"
        f"virtual_ipaddress {{ 192.0.2.{number} }}\n{{{number}}}\n}}\n"
        for number in (0, 1)
    )
    .replace("{0}", "{first}")
    .replace("{1}", "{second}")
)


def members(first: str = "", second: str = "") -> str:
    """Two instances, VI_0 and VI_1, with a line each (5 and 11)."""
    return MEMBERS.replace("{first}", first).replace("{second}", second)


def test_a_group() -> None:
    group = "vrrp_sync_group G {\ngroup { VI_0 VI_1 }\ntrack_interface { eth2 weight 3 }\nsmtp_alert\n}\n"
    (found,) = clean(group + members()).groups
    assert (found.name, found.members, found.notify.smtp_alert) == ("G", ("VI_0", "VI_1"), True)
    assert found.tracks == Tracks(interfaces=(Track("eth2", 3),))


@pytest.mark.parametrize(
    ("group", "left", "findings"),
    [
        ("vrrp_sync_group G {\ngroup { VI_0 VI_9 }\n}", ("VI_0",), ["there is no virtual router 'VI_9'", "only one"]),
        ("vrrp_sync_group G {\ngroup { VI_0 VI_1 VI_0 }\n}", ("VI_0", "VI_1"), ["VI_0 is in group G already"]),
        ("vrrp_sync_group G {\ngroup { VI_0 }\n}", ("VI_0",), ["group G has only one virtual router, VI_0"]),
        ("vrrp_sync_group G {\n}", (), ["group G has no virtual router; it is left out"]),
        ("vrrp_sync_group G {\nVI_0\n}", (), ["group G has no virtual router", "VI_0 is not known in vrrp_sync_group"]),
        (
            "vrrp_sync_group G {\ngroup { VI_0 VI_1 }\nglobal_tracking\n}",
            ("VI_0", "VI_1"),
            ["global_tracking is an old"],
        ),
    ],
)
def test_a_group_that_cannot_be_as_written(group: str, left: tuple[str, ...], findings: list[str]) -> None:
    found, messages = vrrp(members() + group)
    assert tuple(member for each in found.groups for member in each.members) == left
    assert len(messages) == len(findings), messages
    for finding in findings:
        assert any(finding in each for each in messages), messages


def test_weights_belong_to_the_group() -> None:
    lines = "track_interface { eth2 weight 3 }\ntrack_script { heavy }\ntrack_file { number }"
    text = SCRIPTS + FILE + members(first=lines) + "vrrp_sync_group G {\ngroup { VI_0 VI_1 }\n}\n"
    found, messages = vrrp(text)
    assert found.instances[0].tracks == Tracks(interfaces=(Track("eth2"),))
    assert [each.partition(": error: ")[2] for each in messages] == [
        "VI_0 is in group G, so the weight 3 of eth2 does not count: a fault if it is down",
        "VI_0 is in group G, so the weight -20 of heavy does not count: it is not watched",
        "VI_0 is in group G, so the weight 2 of number does not count: it is not watched",
    ]
    found = clean(text.replace("VI_1 }\n}", "VI_1 }\nsync_group_tracking_weight\n}"))
    assert found.groups[0].member_weights
    assert found.instances[0].tracks.interfaces == (Track("eth2", 3),)


@pytest.mark.parametrize(
    ("first", "group", "settings", "expected"),
    [
        ("", "notify_priority_changes", "", (True, True)),
        ("notify_priority_changes no", "notify_priority_changes", "", (False, True)),
        ("", "notify_priority_changes off", "vrrp_notify_priority_changes", (False, False)),
        ("", "", "vrrp_notify_priority_changes", (True, True)),
    ],
)
def test_members_write_changes_of_priority_as_their_group_does(
    first: str, group: str, settings: str, expected: tuple[bool, bool]
) -> None:
    text = f"global_defs {{\n{settings}\n}}\n{members(first=first)}"
    text += f"vrrp_sync_group G {{\ngroup {{ VI_0 VI_1 }}\n{group}\n}}\n"
    document = configured(text)
    assert document.findings == ()
    found = document.configuration.vrrp
    assert tuple(each.notify.priority_changes for each in found.instances) == expected
    assert configured(shown(document.effective)).configuration.vrrp == found


def test_global_tracking_is_an_old_word_for_sync_group_tracking_weight() -> None:
    group = "vrrp_sync_group G {\ngroup { VI_0 VI_1 }\nglobal_tracking\n}\n"
    found, messages = vrrp(SCRIPTS + members(first="track_script { heavy }") + group)
    assert found.groups[0].member_weights
    assert found.instances[0].tracks.scripts == (Track("heavy", -20, reverse=True),)
    assert len(messages) == 1


@pytest.mark.parametrize("lines", ["priority 255", "priority 100"])
def test_where_weights_do_not_count_a_file_of_the_default_weight_is_watched_without_one(lines: str) -> None:
    files = ["plain", "none weight 0 reverse", "one weight 1 reverse", "heavy weight 2", "light weight -1"]
    defined = "".join(f"track_file {each.split()[0]} {{\nfile /tmp/{each.split()[0]}\n}}\n" for each in files)
    track = "track_file {\n" + "\n".join(files) + "\n}"
    group = "vrrp_sync_group G {\ngroup { VI_0 VI_1 }\n}\n"
    found, messages = vrrp(defined + members(first=f"{lines}\n{track}", second=lines) + group)
    expected = Track("plain"), Track("none", reverse=True), Track("one", reverse=True)
    assert found.instances[0].tracks.files == expected
    assert [each.partition("does not count: ")[2] for each in messages] == [
        "a fault unless its number is 0",
        "a fault if its number is 0",
        "it is not watched",
        "it is not watched",
    ]


def test_an_owner_keeps_its_devices_in_a_group_whose_members_have_no_weights() -> None:
    lines = "priority 255\ntrack_interface {\neth2 weight 3\neth1\n}"
    text = members(first=lines, second="priority 255") + "vrrp_sync_group G {\ngroup { VI_0 VI_1 }\n}\n"
    found, messages = vrrp(text)
    assert found.instances[0].tracks.interfaces == (Track("eth2"), Track("eth1"))
    why = "VI_0 is in group G, so the weight 3 of eth2 does not count: a fault if it is down"
    assert [each.partition("error: ")[2] for each in messages] == [why]
    found, messages = vrrp(text.replace("VI_1 }\n}", "VI_1 }\nsync_group_tracking_weight\n}"))
    assert found.instances[0].tracks.interfaces == (Track("eth1"),)
    why = "priority 255 does not change, so the weight 3 of eth2 does not count: it is not watched"
    assert [each.partition("error: ")[2] for each in messages] == [why]


def test_what_a_member_and_its_group_both_watch_is_named() -> None:
    group = "vrrp_sync_group G {\ngroup { VI_0 VI_1 }\ntrack_interface { eth2 }\n}\n"
    _, messages = vrrp(members(first="track_interface { eth2 }") + group)
    assert messages == ["1: warning: eth2 in track_interface is watched by its group too"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", None),
        ("track_data_plane", Track("data plane")),
        ("track_data_plane weight -50", Track("data plane", -50)),
        ("track_data_plane weight 20", Track("data plane", 20)),
    ],
)
def test_the_data_plane_counts_where_configured(line: str, expected: Track | None) -> None:
    found, messages = instance(line)
    assert (found.track_data_plane, messages) == (expected, [])


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("track_data_plane weight", "lacks a weight"),
        ("track_data_plane weight 254", "weight 254 is not between -253 and 253"),
        ("track_data_plane weight many", "many"),
        ("track_data_plane weight -5 reverse", "reverse"),
        ("track_data_plane -5", "-5"),
    ],
)
def test_a_weight_of_the_data_plane_that_cannot_be_is_named(line: str, text: str) -> None:
    _, messages = instance(line)
    (message,) = messages
    assert message.startswith("7: ")
    assert text in message


def test_an_owner_and_a_member_of_a_group_have_no_weight_for_the_data_plane() -> None:
    found, messages = instance("priority 255", "track_data_plane weight -50")
    assert found.track_data_plane is None
    why = "priority 255 does not change"
    assert messages == [f"8: error: {why}, so the weight -50 of track_data_plane does not count: it is not watched"]
    found, messages = instance("priority 255", "track_data_plane")
    assert (found.track_data_plane, messages) == (Track("data plane"), [])
    both = INSTANCE.format(addresses=ADDRESS, lines="track_data_plane weight -50")
    other = both.replace("VI_1", "VI_2").replace("51", "52").replace("192.0.2.1", "192.0.2.2")
    group = "vrrp_sync_group G {{ group {{ VI_1\nVI_2 }} {more} }}".replace("{{", "{").replace("}}", "}")
    alone, messages = vrrp(both + other + group.replace("{more}", ""))
    assert [each.track_data_plane for each in alone.instances] == [None, None]
    assert len(messages) == 2
    weighed, messages = vrrp(both + other + group.replace("{more}", "\nsync_group_tracking_weight\n"))
    assert [each.track_data_plane for each in weighed.instances] == [Track("data plane", -50)] * 2
    assert messages == []


SESSION = "bfd_instance b {{\nneighbor_ip {neighbor}\n{lines}\n}}\n"


def session(lines: str = "", neighbor: str = "192.0.2.1") -> BfdSession:
    (found,) = clean(SESSION.format(neighbor=neighbor, lines=lines)).sessions
    return found


def test_a_session_has_the_defaults_of_keepalived() -> None:
    found = session()
    assert found == BfdSession(name="b", neighbor=ip_address("192.0.2.1"))
    assert (found.min_rx_us, found.min_tx_us, found.idle_tx_us, found.multiplier) == (10_000, 10_000, 1_000_000, 5)
    assert (found.ttl, found.min_ttl, found.passive, found.source, found.port) == (255, 255, False, None, 3784)


def test_a_session_has_the_written_settings() -> None:
    lines = "source_ip 192.0.2.9\nmin_rx 3.312\nmin_tx 50\nidle_tx 2000\nmultiplier 3\npassive\nttl 200\nmax_hops 7"
    found = session(f"{lines}\nmultihop")
    assert (found.source, found.passive, found.port) == (ip_address("192.0.2.9"), True, 4784)
    assert (found.min_rx_us, found.min_tx_us, found.idle_tx_us, found.multiplier) == (3_312, 50_000, 2_000_000, 3)
    assert (found.ttl, found.min_ttl) == (200, 193)


@pytest.mark.parametrize(
    ("neighbor", "lines", "ttl", "least"),
    [
        ("192.0.2.1", "max_hops 3", 255, 252),
        ("192.0.2.1", "max_hops 255", 255, 0),
        ("192.0.2.1", "max_hops -1", 255, 0),
        ("192.0.2.1", "multihop", 255, 0),
        ("192.0.2.1", "multihop\nmax_hops 3", 255, 252),
        ("fd00::1", "", 255, 64),
        ("fd00::1", "hoplimit 255", 255, 255),
        ("fd00::1", "hoplimit 64\nmax_hops 4", 64, 60),
    ],
)
def test_the_ttl_of_received_packets(neighbor: str, lines: str, ttl: int, least: int) -> None:
    found = session(lines, neighbor)
    assert (found.ttl, found.min_ttl) == (ttl, least)


def test_a_session_is_tracked_with_its_own_weight_or_that_of_the_line() -> None:
    block = SESSION.format(neighbor="192.0.2.1", lines="weight -20 reverse")
    found, _ = watching(block, "track_bfd { b }")
    assert found.sessions == (Track("b", -20, reverse=True),)
    found, _ = watching(block, "track_bfd {", "b weight 5 noreverse", "}")
    assert found.sessions == (Track("b", 5),)


def test_a_session_with_wrong_settings_can_be_tracked_and_is_never_up() -> None:
    found, messages = watching("bfd_instance b {\n}\n", "track_bfd { b }")
    assert found.sessions == (Track("b"),)
    assert messages == ["1: error: bfd_instance b has no neighbor_ip; it is never up"]


def test_a_session_for_health_checks_alone_is_not_tracked() -> None:
    block = SESSION.format(neighbor="192.0.2.1", lines="checker")
    found, messages = watching(block, "track_bfd { b }")
    assert found.sessions == ()
    assert [each.partition(": ")[2] for each in messages] == [
        "error: bfd_instance b is for health checks alone, so it is not watched"
    ]
    assert len(clean(block).sessions) == 1
    found, _ = watching(SESSION.format(neighbor="192.0.2.1", lines="checker\nvrrp"), "track_bfd { b }")
    assert found.sessions == (Track("b"),)

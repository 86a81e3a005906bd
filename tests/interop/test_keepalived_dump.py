"""pylvs reads virtual routers as keepalived does: compared with keepalived's own dump (-d)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read
from pylvs.model.routing import FOREVER, HeldAddress
from pylvs.model.vrrp import Authentication, Track, VrrpConfiguration, VrrpInstance
from tests.interop import keepalived
from tests.interop.namespaces import on_four_devices
from tests.waiting import PATIENCE_S

REASON = keepalived.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

STAMP = re.compile(r"^\w{3} \w{3} [ \d]\d [\d:]{8} \d{4}: ?")
DEFINITIONS = """\
vrrp_script plain {
    script "</dev/null"
}
vrrp_script heavy {
    script "</dev/zero"
    interval 7
    timeout 3
    weight 10 reverse
    rise 3
    fall 4
}
track_file number {
    file /run/number
}
track_file double {
    file /run/number
    weight 2
}
vrrp_track_process some {
    process keepalived
    quorum 2
    delay 3
}
vrrp_track_process many {
    process keepalived
    weight -7
    quorum 2
    quorum_max 4
    fork_delay 2
    delay 1.5
}
"""

# The lines of a virtual router and its addresses; each file has them with other defaults.
ROUTERS: list[tuple[str, str]] = [
    ("", "192.168.200.16"),
    ("state MASTER", "192.168.200.17/24 dev eth1\n192.168.200.18 scope link brd 192.168.200.255 label eth0:7"),
    ("state MASTER\npriority 90\nadvert_int 5", "192.168.200.19/24 brd +"),
    ("priority 255", "192.168.200.20"),
    ("priority 300", "192.168.200.21/33"),
    ("advert_int 0.4", "192.168.200.22 foo"),
    ("advert_int 1.5\nno_accept\nnopreempt", "192.168.200.23 brd foo\n192.168.200.24"),
    ("version 3\nadvert_int 0.015", "192.168.200.25 label foooooooooooooooooooooooo\n192.168.200.26"),
    ("version 3\nadvert_int 41", "192.168.200.27 scope foo\n192.168.200.28 preferred_lft foo"),
    ("garp_master_repeat 9\ngarp_master_delay 8\ngarp_master_refresh 60", "192.168.200.29 peer 192.168.200.30"),
    ("garp_master_repeat 0\ngarp_lower_prio_repeat 0\ngarp_lower_prio_delay 3", "192.168.200.31"),
    ("lower_prio_no_advert\nhigher_prio_send_advert\ndown_timer_adverts 7\npromote_secondaries", "192.168.200.32"),
    ("unicast_src_ip 192.168.200.1/24\nunicast_peer {\n192.168.200.9/24 min_ttl 3\n192.168.200.8\n}", "192.168.200.33"),
    ("unicast_ttl 9\nunicast_peer {\n192.168.200.7 min_ttl 300 max_ttl 20\n}", "192.168.200.34"),
    ("authentication {\nauth_type PASS\nauth_pass 123456789\n}", "192.168.200.35"),
    ("authentication {\nauth_type AH\nauth_pass abc\n}", "192.168.200.36"),
    ("authentication {\nauth_type pass\nauth_pass abc\n}", "192.168.200.37"),
    ("version 3\nauthentication {\nauth_type PASS\nauth_pass abc\n}", "192.168.200.38"),
    ("state MASTER\npriority 9\nnopreempt", "192.168.200.39"),
    ("state MASTER\npriority 9\npreempt_delay 7", "192.168.200.40"),
    ("track_interface {\neth1\neth2 weight 254\neth3 weight 300\n}", "192.168.200.41"),
    ("track_script {\nplain\nheavy weight 254\n}", "192.168.200.42"),
    ("track_script {\nheavy weight 3 noreverse\nplain foo\n}", "192.168.200.43"),
    ("track_script {\nheavy\nplain weight 300\nplain\n}", "192.168.200.44"),
    ("track_file {\nnumber\ndouble weight 0\n}\ntrack_process {\nsome\nmany weight 3\n}", "192.168.200.45"),
    ("priority 255\ntrack_interface {\neth1 weight 3\n}\ntrack_script {\nheavy\nplain\n}", "192.168.200.46"),
    ("priority 255\ntrack_file {\nnumber\n}", "192.168.200.47"),
    ("mcast_dst_ip 224.0.0.99", "192.168.200.48"),
    ("", "fe80::1:2\n2001:db8::1/64 preferred_lft forever\n2001:db8::2\n2001:db8::3 preferred_lft forever"),
    ("advert_int 0.5\nmcast_dst_ip ff02::99", "2001:db8::5/64 preferred_lft forever"),
    ("strict_mode", "192.168.200.49"),
    ("strict_mode\npriority 255", "192.168.200.50"),
    ("strict_mode\nversion 3\naccept\ngarp_lower_prio_repeat 3", "192.168.200.51"),
    ("skip_check_adv_addr\nnotify_priority_changes", "192.168.200.52\n2001:db8::7"),
]
GLOBALS = {
    "keepalived's defaults": "",
    "other defaults": (
        "vrrp_version 3\n vrrp_garp_master_delay 7\n vrrp_garp_lower_prio_repeat 3\n vrrp_mcast_group4 224.0.0.77\n"
        " vrrp_lower_prio_no_advert\n vrrp_higher_prio_send_advert\n vrrp_down_timer_adverts 5\n"
        " vrrp_garp_master_refresh 30\n vrrp_garp_master_refresh_repeat 2"
    ),
    "the fewest gratuitous ARPs": "vrrp_min_garp",
}
IGNORED = {
    # with vrrp_min_garp and a refresh interval keepalived sends none at a refresh; pylvs sends one
    "the fewest gratuitous ARPs": {"Gratuitous ARP refresh repeat"},
}


def configuration(defaults: str) -> str:
    """Return a whole file."""
    routers = [
        f"vrrp_instance R{number} {{\ninterface eth0\nvirtual_router_id {number}\n"
        f"virtual_ipaddress {{\n{addresses}\n}}\n{lines}\n}}\n"
        for number, (lines, addresses) in enumerate(ROUTERS, 1)
    ]
    group = "vrrp_sync_group G {\ngroup {\nR1\nR22\nR25\n}\ntrack_interface {\neth3 weight 3\n}\n}\n"
    security = "enable_script_security\n script_user root"
    if "higher_prio_send_advert" not in defaults:  # pylvs has it on by default
        defaults += "\n vrrp_higher_prio_send_advert off"
    return f"global_defs {{\n {security}\n {defaults}\n}}\n" + DEFINITIONS + "".join(routers) + group


@dataclass(slots=True)
class Dumped:
    """An object of keepalived's dump: the value of each `=`, and the lines below each `:`."""

    values: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)


def dump(file: Path) -> list[str]:
    """Return keepalived's dump of its virtual routers as lines; keepalived then ends."""
    with keepalived.running(file, "-d", lambda text: "< Interfaces >" in text, PATIENCE_S) as log:
        pass
    return [STAMP.sub("", line) for line in log.read_text().splitlines()]


def things(lines: list[str]) -> dict[str, Dumped]:
    """Return each virtual router, script, file and process of a dump, by "KIND NAME"."""
    found: dict[str, Dumped] = {}
    current, items = Dumped(), [""]
    for line in lines:
        head = re.match(r" (VRRP Instance|VRRP Sync Group|VRRP Script|Track file|VRRP Track process) = ([^,]*)", line)
        if head:
            current = found.setdefault(f"{head[1]} {head[2]}", Dumped())
        elif match := re.match(r"   (\S.*?) = (.*)", line):
            current.values[match[1]] = match[2]
        elif match := re.match(r"   (\S.*?)(?: \(\d+\))? ?:(?: (.*))?$", line):
            items = current.lists.setdefault(match[1], [])
            if match[2]:
                items.append(match[2])
        elif line.startswith("     "):
            items.append(line.strip())
    return found


def on(value: bool) -> str:
    """Return a flag as in the dump."""
    return "enabled" if value else "disabled"


def values_of(router: VrrpInstance) -> Iterator[tuple[str, str]]:
    """Return a virtual router in the format of the dump."""
    garp = router.announcements
    yield "VRRP Version", str(router.version)
    yield "Interface", router.interface
    yield "Virtual Router ID", str(router.vrid)
    yield "Priority", str(router.priority)
    seconds = router.advert_interval_s
    yield "Advert interval", f"{seconds:.0f} sec" if router.version == 2 else f"{seconds * 1000:.0f} milli-sec"
    yield "Accept", on(router.accept)
    yield "Preempt", on(router.preempt)
    yield "Promote_secondaries", on(router.promote_secondaries)
    yield "Down timer adverts", str(router.down_after_adverts)
    yield "Send advert after receive lower priority advert", str(not router.lower_priority_unanswered).lower()
    yield "Send advert after receive higher priority advert", str(router.higher_priority_answered).lower()
    yield "Gratuitous ARP delay", str(garp.delay_s)
    yield "Gratuitous ARP repeat", str(garp.repeat)
    yield "Gratuitous ARP refresh", str(garp.refresh_s)
    yield "Gratuitous ARP refresh repeat", str(garp.refresh_repeat)
    yield "Gratuitous ARP lower priority delay", str(garp.lower_priority_delay_s)
    yield "Gratuitous ARP lower priority repeat", str(garp.lower_priority_repeat)
    if router.version == 2:
        kinds = {None: "none", Authentication.PASS: "SIMPLE_PASSWORD", Authentication.AH: "IPSEC_AH"}
        yield "Authentication type", kinds[router.authentication]
    if router.source:
        yield "Using src_ip", f"{router.source} (from configuration)"
    if router.peers:
        yield "Unicast TTL", str(router.unicast_ttl)


def address_line(address: HeldAddress, device: str) -> str:
    """Return an address in the format of the dump."""
    prefix = address.interface.network.prefixlen
    words = [str(address.interface) if prefix < address.interface.max_prefixlen else str(address.interface.ip)]
    words += ["brd", str(address.broadcast)] if address.broadcast else []
    words += ["dev", address.device or device, "scope", {0: "global", 253: "link"}[address.scope]]
    words += ["label", address.label] if address.label else []
    words += ["peer", f"{address.peer}/{address.peer.max_prefixlen}"] if address.peer else []
    if address.interface.version == 6:
        words.append("preferred_lft forever" if address.preferred_lft_s == FOREVER else "deprecated")
    return " ".join(words)


def tracked(track: Track, comma: str) -> str:
    """Return what is tracked, in the format of the dump."""
    return f"{track.name}{comma} weight {track.weight}{' reverse' if track.reverse else ''}"


def lists_of(router: VrrpInstance) -> Iterator[tuple[str, list[str]]]:
    """Return the lists, in the format of the dump."""
    tracks = router.tracks
    yield "Virtual IP", [address_line(address, router.interface) for address in router.addresses]
    yield "Tracked interfaces", [tracked(each, "") for each in tracks.interfaces]
    yield "Tracked scripts", [tracked(each, "") for each in tracks.scripts]
    yield "Tracked files", [tracked(each, ",") for each in tracks.files]
    yield "Tracked processes", [tracked(each, ",") for each in tracks.processes]
    yield "Unicast Peer", [f"{each.address} min_ttl {each.least_ttl} max_ttl {each.most_ttl}" for each in router.peers]
    if router.peers:
        yield "Check unicast src", ["yes" if router.check_source else "no"]


def differences(found: VrrpConfiguration, dumped: dict[str, Dumped], ignored: set[str]) -> Iterator[str]:
    """Return what differs between both."""
    for router in found.instances:
        theirs = dumped[f"VRRP Instance {router.name}"]
        for name, value in values_of(router):
            if name not in ignored and theirs.values.get(name) != value:
                yield f"{router.name} {name}: keepalived {theirs.values.get(name)}, pylvs {value}"
        for name, items in lists_of(router):
            if theirs.lists.get(name, []) != items:
                yield f"{router.name} {name}: keepalived {theirs.lists.get(name, [])}, pylvs {items}"
    for script in found.scripts:
        values = dumped[f"VRRP Script {script.name}"].values
        weight = f"{script.track.weight}{' reverse' if script.track.reverse else ''}"
        mine = f"{script.interval_s} sec", weight, str(script.rise), str(script.fall)
        if mine != tuple(values[name] for name in ("Interval", "Weight", "Rise", "Fall")):
            yield f"{script}: {values}"
    for process in found.processes:
        values = dumped[f"VRRP Track process {process.name}"].values
        ours = str(process.least), str(process.track.weight), process.fork_delay_s, process.terminate_delay_s
        delays = (float(values[f"{name} delay"].removesuffix("s")) for name in ("Fork", "Terminate"))
        if ours != (values["Min processes"], values["Weight"], *delays):
            yield f"{process}: {values}"


@pytest.mark.parametrize("name", GLOBALS)
def test_each_virtual_router_is_keepalived_s(name: str, tmp_path: Path) -> None:
    file = tmp_path / "keepalived.conf"
    file.write_text(configuration(GLOBALS[name]))
    with on_four_devices():
        document, unread = read(str(file))
        found = compile_document(document).configuration.vrrp
        dumped = things(dump(file))
    assert unread == ()
    assert [each.name for each in found.instances] == [f"R{number}" for number in range(1, len(ROUTERS) + 1)]
    assert list(differences(found, dumped, IGNORED.get(name, set()))) == []

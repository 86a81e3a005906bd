"""Differences of two configurations as text, and the connections that they affect."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest

from pylvs.config.compile.document import build
from pylvs.config.diff import Affected, Change, differences, field_differences
from pylvs.config.language.parser import read_text
from pylvs.model.checks import (
    AgentCheck,
    Check,
    DnsCheck,
    FileCheck,
    HttpCheck,
    LoadCheck,
    LoadSource,
    MiscCheck,
    Pace,
    Pattern,
    PingCheck,
    Script,
    SmtpCheck,
    Target,
    TcpCheck,
    UdpCheck,
    Url,
)
from pylvs.model.routing import HeldAddress, NextHop, Route, RoutingRule
from pylvs.model.service import (
    Destination,
    DestinationKey,
    Method,
    Protocol,
    ServiceFlag,
    ServiceKey,
    Timeouts,
    Tunnel,
    TunnelFlag,
    TunnelKind,
)
from pylvs.model.vrrp import (
    Authentication,
    Fifo,
    LinkDelay,
    Notify,
    OldChecksum,
    Peer,
    SendingLimit,
    Track,
    TrackFile,
    TrackProcess,
    Tracks,
    Vmac,
    VrrpConfiguration,
    VrrpGroup,
    VrrpInstance,
    VrrpScript,
    VrrpSettings,
)
from pylvs.model.wanted import Configuration, GlobalSettings, Mail, WantedServer, WantedService

CONTINUE = "its connections continue, except with expire_nodest_conn=1"

A, B = IPv4Address("10.0.0.2"), IPv4Address("10.0.0.3")
SERVICE = """
virtual_server 192.0.2.1 80 {{
    lb_algo wlc
    lb_kind DR
    protocol TCP
    delay_loop 6
    {service}
    real_server 10.0.0.2 80 {{
        {server}
        TCP_CHECK {{
            {check}
        }}
    }}
    {more}
}}
"""


def service(service: str = "", server: str = "", check: str = "", more: str = "") -> str:
    return SERVICE.format(service=service, server=server, check=check, more=more)


def meant(text: str) -> Configuration:
    document, findings = read_text(text)
    configuration, more = build(document)
    assert not [finding for finding in (*findings, *more) if finding.fatal]
    return configuration


def messages(old: str, new: str) -> list[str]:
    return [str(change) for change in differences(meant(old), meant(new))]


RS = "virtual_server 192.0.2.1:80 tcp: real server 10.0.0.2:80"
ANOTHER = "real_server 10.0.0.3 80 {\n weight 2\n PING_CHECK {\n }\n TCP_CHECK {\n connect_port 81\n }\n}"


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        (service(), service(), []),
        (service(), "# a comment\n" + service(server="weight 1", check="connect_timeout 5"), []),
        (service(server="weight 1"), service(server="weight 3"), [f"{RS}: weight 1 -> 3"]),
        (
            service(server="weight 3", more=ANOTHER),
            service(server="weight 0", more=ANOTHER),
            [f"{RS}: weight 3 -> 0; established connections stay, new clients go elsewhere"],
        ),
        (
            service(),
            service(server="lvs_method NAT"),
            [f"{RS}: method DR -> NAT; established connections keep the old method"],
        ),
        (
            service(server="lvs_method TUN"),
            service(server="lvs_method TUN type gue port 6080"),
            [f"{RS}: tunnel none -> gue port 6080; established connections take the new tunnel too"],
        ),
        (service(), service(check="retry 3"), [f"{RS}: check TCP_CHECK: retry 1 -> 3"]),
        (
            service(),
            service(check="connect_port 8080\nbindto 10.9.9.9"),
            [f"{RS}: check TCP_CHECK: target 10.0.0.2:80 -> 10.0.0.2:8080 from 10.9.9.9"],
        ),
        (
            service(),
            service(more=ANOTHER),
            [
                (
                    "virtual_server 192.0.2.1:80 tcp: real server 10.0.0.3:80 added "
                    "(weight 2, method DR, PING_CHECK, TCP_CHECK)"
                )
            ],
        ),
        (
            service(more=ANOTHER),
            service(),
            ["virtual_server 192.0.2.1:80 tcp: real server 10.0.0.3:80 removed; its connections are forwarded no more"],
        ),
        (
            service(),
            service(service="persistence_timeout 60").replace("wlc", "sh\nsh-port\nsh-fallback"),
            [
                (
                    "virtual_server 192.0.2.1:80 tcp: scheduler wlc -> sh, persistence_timeout none -> 60 s, "
                    "flags none -> sh-fallback+sh-port"
                )
            ],
        ),
        (
            service(service="sorry_server 10.9.9.9 80"),
            service(service="sorry_server 10.9.9.8 80"),
            [
                (
                    "virtual_server 192.0.2.1:80 tcp: sorry_server 10.9.9.9:80 (weight 1, method DR) -> "
                    "10.9.9.8:80 (weight 1, method DR); connections that 10.9.9.9:80 has are forwarded no more"
                )
            ],
        ),
        (
            service(),
            service().replace("192.0.2.1 80", "192.0.2.1 81"),
            [
                "virtual_server 192.0.2.1:81 tcp added (scheduler wlc; servers 10.0.0.2:81)",
                f"virtual_server 192.0.2.1:80 tcp removed; {CONTINUE}",
            ],
        ),
        (
            "global_defs {\n router_id a\n notification_email {\n x@example.net\n}\n}",
            "global_defs {\n router_id b\n notification_email {\n y@example.net\n}\n}",
            [
                (
                    "global_defs: router_id a -> b, notification_email x@example.net removed, "
                    "notification_email y@example.net added"
                )
            ],
        ),
    ],
)
def test_differences_are_described(old: str, new: str, lines: list[str]) -> None:
    assert messages(old, new) == lines


def test_order_is_no_difference() -> None:
    two = service(more=ANOTHER), service().replace("192.0.2.1 80", "192.0.2.1 81")
    swapped = service(more="real_server 10.0.0.2 80 {\n TCP_CHECK {\n }\n }").replace(
        "real_server 10.0.0.2 80 {\n        \n        TCP_CHECK {\n            \n        }\n    }\n", ANOTHER + "\n"
    )
    assert swapped.index("10.0.0.3") < swapped.index("10.0.0.2")
    assert messages("".join(two), "".join((two[1], swapped))) == []


def test_reordered_checks_are_distinguished() -> None:
    old = service(more="real_server 10.0.0.3 80 {\nTCP_CHECK {\nconnect_port 1\n}\nTCP_CHECK {\nconnect_port 2\n}\n}")
    new = service(
        more="real_server 10.0.0.3 80 {\nTCP_CHECK {\nconnect_port 2\nretry 5\n}\nTCP_CHECK {\nconnect_port 1\n}\n"
        "MISC_CHECK {\nmisc_path /bin/true\n}\n}"
    )
    server = "virtual_server 192.0.2.1:80 tcp: real server 10.0.0.3:80"
    assert messages(old, new) == [
        f"{server}: check TCP_CHECK 10.0.0.3:2: retry 1 -> 5",
        f"{server}: check MISC_CHECK added (/bin/true)",
    ]
    assert messages(new, old)[1] == f"{server}: check MISC_CHECK /bin/true removed"


def test_urls_are_distinguished_by_their_paths() -> None:
    def pages(*lines: str) -> str:
        urls = "".join(f"url {{\npath {line}\n}}\n" for line in lines)
        return service(more=f"real_server 10.0.0.3 80 {{\nHTTP_GET {{\n{urls}}}\n}}")

    check = "virtual_server 192.0.2.1:80 tcp: real server 10.0.0.3:80: check HTTP_GET"
    assert messages(pages("/a", "/b"), pages("/b\nstatus_code 200 300-301", "/c")) == [
        f"{check}: url /b: status_code 200-299 -> 200 300-301",
        f"{check}: url /c added",
        f"{check}: url /a removed",
    ]


GROUP = (
    "virtual_server_group {name} {{\n {keys}\n}}\n"
    "virtual_server group {name} {{\n lb_algo rr\n lb_kind DR\n protocol TCP\n real_server 10.0.0.2 80 {{\n}}\n}}"
)


def test_a_group_may_grow_shrink_and_be_renamed() -> None:
    old = GROUP.format(name="web", keys="192.0.2.1 80\n192.0.2.2 80")
    assert messages(old, GROUP.format(name="web", keys="192.0.2.2 80\nfwmark 3")) == [
        "virtual_server group web tcp: address fwmark 3 added",
        f"virtual_server group web tcp: address 192.0.2.1:80 tcp removed; {CONTINUE}",
    ]
    assert messages(old, GROUP.format(name="www", keys="192.0.2.1 80\n192.0.2.2 80")) == [
        "virtual_server group www tcp: name group web tcp -> group www tcp"
    ]
    again = "virtual_server group web {\n lb_algo rr\n lb_kind DR\n real_server 10.0.0.2 80 {\n}\n}\n"
    assert messages(again + old, old) == [
        "virtual_server group web tcp: name in FIFOs and mails [web]:1 -> [web]:0",
        f"virtual_server group web udp removed; {CONTINUE}",
    ]


def test_services_with_affected_connections_are_named() -> None:
    first, second = service(more=ANOTHER), service().replace("192.0.2.1 80", "192.0.2.1 81")
    third = service().replace("192.0.2.1 80", "192.0.2.1 82")
    old = meant(first + second + third)
    new = meant(service() + second.replace("wlc", "rr"))
    changes = differences(old, new)
    assert Affected.by(changes, old, new) == Affected(("192.0.2.1:80 tcp",), 1)
    assert Affected.by((), old, old) == Affected((), 3)


def test_programs_get_the_same() -> None:
    (change,) = differences(meant(service(more=ANOTHER)), meant(service()))
    assert json.loads(json.dumps(change.encoded())) == {
        "path": ["virtual_server 192.0.2.1:80 tcp", "real server 10.0.0.3:80"],
        "change": "removed",
        "settings": [],
        "connections": "end",
        "service": "192.0.2.1:80 tcp",
        "text": str(change),
    }
    (change,) = differences(meant(service(server="weight 1")), meant(service(server="weight 2")))
    assert change.encoded()["settings"] == [{"name": "weight", "old": "1", "new": "2"}]
    assert change.encoded()["connections"] == "stay"


def vrrp(*lines: str) -> str:
    more = "\n".join(lines)
    return f"vrrp_instance V {{\n interface eth0\n virtual_router_id 5\n {more}\n}}\n"


def test_addresses_that_move_are_named() -> None:
    old = vrrp(
        "virtual_ipaddress {\n10.1.0.1\n10.1.0.2 dev eth1\n10.1.0.3\n}", "virtual_ipaddress_excluded {\n10.1.0.4\n}"
    )
    new = vrrp("virtual_ipaddress {\n10.1.0.1\n10.1.0.2 dev eth1\n}").replace("eth0", "eth2", 1)
    second = vrrp("virtual_ipaddress {\n10.1.0.3\n}").replace(" V ", " W ").replace("id 5", "id 6")
    moved, added = messages(old, new + second)
    assert moved.endswith(
        "; a master moves 10.1.0.1 from eth0 to eth2; a master hands 10.1.0.3 to vrrp_instance W; "
        "a master gives up 10.1.0.4"
    )
    assert added == "vrrp_instance W added"


def test_virtual_routers() -> None:
    old = vrrp(
        "priority 100", "authentication {\nauth_type PASS\nauth_pass secret\n}", "virtual_ipaddress {\n10.1.0.1\n}"
    )
    new = vrrp(
        "priority 90", "authentication {\nauth_type PASS\nauth_pass other\n}", "virtual_ipaddress {\n10.1.0.2\n}"
    )
    (line,) = messages(old, new)
    assert line == (
        "vrrp_instance V: priority 100 -> 90, virtual_ipaddress 10.1.0.1/32 removed, "
        "virtual_ipaddress 10.1.0.2/32 added, password changed; a master gives up 10.1.0.1; "
        "all directors of this router must change it: one that differs becomes MASTER as well"
    )
    assert messages(old, "") == ["vrrp_instance V removed; a master gives up 10.1.0.1"]
    assert messages("", old) == ["vrrp_instance V added"]


# Objects with a value in each field, so that the test fails for a new field that is not compared.

RUN = Script(("/bin/a", "b"), "user", "group")
TARGET = Target(A, 80, B, 81, "eth0", 7, True)
TRACK = Track("name", 3, True)
ADDRESS = HeldAddress(interface=IPv4Interface("10.1.0.1/24"), device="eth1", broadcast=A, peer=B)
ROUTE = Route(destination=IPv4Network("10.2.0.0/16"), next_hops=(NextHop(via=A, device="eth0"),), source=B, scope=0)
RULE = RoutingRule(family=4, source=IPv4Network("10.2.0.0/16"), destination=IPv4Network("10.3.0.0/16"))
TRACKS = Tracks(interfaces=(TRACK,), scripts=(TRACK,), files=(TRACK,), processes=(TRACK,))
NOTIFY = Notify(master=RUN, backup=RUN, fault=RUN, stop=RUN, every=RUN, deleted=RUN, lower_priority_received=RUN)
CHECKS: tuple[Check, ...] = (
    TcpCheck(target=TARGET),
    HttpCheck(target=TARGET, urls=(Url("/", "d", regex="r", regex_options=("caseless",)),), sni_name="n"),
    SmtpCheck(targets=(TARGET,)),
    DnsCheck(target=TARGET),
    UdpCheck(target=TARGET, payload=b"\x01", reply=Pattern(b"\x12", b"\xff")),
    PingCheck(target=TARGET),
    FileCheck(path="/f"),
    MiscCheck(script=RUN),
    AgentCheck(target=TARGET, send=b"x\n"),
    LoadCheck(target=TARGET, metric="m"),
)
SETTINGS = GlobalSettings(
    mail=Mail(("a@b",)),
    lvs_timeouts=Timeouts(),
    metrics_address=(A, 9000),
    lvs_flush_on_stop="vs",
    fifo=Fifo("/lvs", reader=RUN),
    startup_script=RUN,
    shutdown_script=RUN,
)
SERVER = WantedServer(
    Destination(DestinationKey(A, 80), tunnel=Tunnel(TunnelKind.GUE, 6080)), CHECKS, False, False, RUN, RUN
)
WHOLE = WantedService(
    "192.0.2.1:80 tcp",
    (ServiceKey(Protocol.TCP, IPv4Address("192.0.2.1"), 80),),
    netmask=0xFFFFFF00,
    flags=ServiceFlag.PERSISTENT,
    servers=(SERVER,),
    sorry_server=Destination(DestinationKey(B, 80)),
    quorum_up=RUN,
    quorum_down=RUN,
)
ROUTER = VrrpInstance(
    name="V",
    vrid=5,
    addresses=(ADDRESS,),
    excluded=(ADDRESS,),
    routes=(ROUTE,),
    rules=(RULE,),
    authentication=Authentication.PASS,
    source=A,
    peers=(Peer(A),),
    vmac=Vmac("v", b"\x02\x00\x00\x00\x00\x01"),
    tracks=TRACKS,
    notify=NOTIFY,
)
VRRP = VrrpConfiguration(
    instances=(ROUTER,),
    groups=(VrrpGroup(name="g", members=("V",), tracks=TRACKS, notify=NOTIFY),),
    scripts=(VrrpScript(name="s", script=RUN, track=TRACK),),
    files=(TrackFile(name="f", path="/f", track=TRACK, initial=1),),
    processes=(TrackProcess(name="p", command=("a", "b"), track=TRACK),),
    addresses=(ADDRESS,),
    routes=(ROUTE,),
    rules=(RULE,),
    settings=VrrpSettings(
        fifos=(Fifo("/fifo", reader=RUN),),
        limits=(SendingLimit(devices=("eth0",)),),
        link_delays=(LinkDelay("e", 1, 2),),
        cpus=(1,),
    ),
)
FULL = Configuration((WHOLE,), SETTINGS, VRRP)
UNSEEN = {"WantedService.name", "DestinationKey.address", "DestinationKey.port", "Track.name", "Peer.address"}


def others(value: Any, where: str = "") -> list[tuple[str, Any]]:
    """The value with one thing in it changed, for each thing in it."""
    if isinstance(value, bool):
        return [(where, not value)]
    if isinstance(value, (ServiceFlag, TunnelFlag)):
        return [(f"{where} {flag.name}", value ^ flag) for flag in type(value)]
    if isinstance(value, (Method, TunnelKind, Protocol, Authentication, OldChecksum, LoadSource)):
        return [(f"{where} {each.name}", each) for each in type(value) if each is not value]
    if isinstance(value, (int, float)):
        return [(where, value + 1)]
    if isinstance(value, str):
        return [(where, value + "x")]
    if isinstance(value, bytes):
        return [(where, value + b"\x07")]
    if isinstance(value, (IPv4Address, IPv4Interface, IPv4Network)):
        step = 256 if isinstance(value, IPv4Network) else 1
        text = str(IPv4Address(int(IPv4Address(str(value).split("/")[0])) + step * 256))
        return [(where, type(value)(text + "".join(str(value).partition("/")[1:])))]
    if isinstance(value, tuple):
        found = [(f"{where} none", ())] if value else []
        for at, each in enumerate(value):
            found += [(w, (*value[:at], other, *value[at + 1 :])) for w, other in others(each, where)]
        return found
    if is_dataclass(value) and not isinstance(value, type):
        return [
            (w, replace(value, **{field.name: other}))
            for field in fields(value)
            for w, other in others(getattr(value, field.name), f"{type(value).__name__}.{field.name}")
        ]
    return []  # None: the objects above have a value there


@pytest.mark.parametrize(("where", "other"), others(FULL), ids=lambda value: value if isinstance(value, str) else "")
def test_nothing_that_differs_is_passed_over(where: str, other: Configuration) -> None:
    changes = differences(FULL, other)
    assert changes, f"{where} is not compared"
    for change in changes:
        assert " object at 0x" not in str(change)
        assert "<" not in str(change)
    assert all(isinstance(change, Change) for change in differences(other, FULL))
    assert not differences(other, other)


def test_missing_files_are_findings() -> None:
    assert [str(each) for each in field_differences(Pace(), Pace(retry=3, alpha=True))] == [
        "retry 1 -> 3",
        "alpha off -> on",
    ]
    assert [str(each) for each in field_differences(SETTINGS, replace(SETTINGS, lvs_timeouts=None))] == [
        "lvs_timeouts tcp 900 tcpfin 120 udp 300 -> none"
    ]
    before, after = (replace(SETTINGS, lvs_timeouts=Timeouts(*seconds)) for seconds in ((0, 0, 15), (60, 0, 15)))
    assert [str(each) for each in field_differences(before, after)] == ["lvs_timeouts udp 15 -> tcp 60 udp 15"]

"""`pylvs check` compared with `keepalived -t` on hundreds of lines, good and bad, of all but virtual servers.

The exit status is the same, except if pylvs reports an error that keepalived misses, or accepts what keepalived cannot.
Each exception has a reason, and must still be an exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pylvs.cli.configuration import exit_status
from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read
from tests.interop import keepalived
from tests.interop.namespaces import on_four_devices

REASON = keepalived.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

WORDS = Path(__file__).parent / "words"
ROUTER = """\
vrrp_instance VI_1 {
 interface eth0
 virtual_router_id 51
 virtual_ipaddress { 192.168.200.16/24 }
 %s
}
"""
WHERE = {
    "vrrp_instance": ROUTER,
    "addresses": ROUTER % "virtual_ipaddress {\n %s\n }",
    "routes": ROUTER % "virtual_routes {\n %s\n }",
    "rules": ROUTER % "virtual_rules {\n %s\n }",
    "global_defs": "global_defs {\n %s\n}\n" + ROUTER % "",
    "static_ipaddress": "static_ipaddress {\n %s\n}\n" + ROUTER % "",
    "garp_group": "garp_group {\n %s\n}\n" + ROUTER % "",
    "interface_up_down_delays": "interface_up_down_delays {\n %s\n}\n" + ROUTER % "",
    "bfd_instance": "bfd_instance B {\n %s\n}\n" + ROUTER % "track_bfd { B }",
}

# What pylvs reports and keepalived does not.
LET_PASS = {
    "surplus words": r"surplus '|is no part of|'foo' is neither yes nor no",
    "what is given twice": r"(was|is) given already|given a second time|is taken|belongs to VI_1 too|is watched by its",
    "what pylvs does not do": r"is not implemented: ignored|has no effect in pylvs|is not made",
    "a prefix length where there is none": r"the prefix length /\w+ has no meaning",
    "a virtual router that can never speak": r"stays in fault \(unicast_fault_no_peer\)",
    "a password that is never used": r"no auth_type is given",
    "a version that IPv6 has not": r"version 2 has no IPv6",
    "contradictions within a route or rule": r"second destination|second device|is no range of numbers|'4294967296'",
    "groups of nothing": r"names no device|has no virtual router|there is no virtual router",
    "a file that depends on the directory of the start": r"is no absolute path",
    "a delay without a number": r"lacks seconds",
    "a delay that a backup does not wait for": r"would let a backup without a link become master",
    "a group with one owner of addresses": r"owns its addresses, and other members do not",
    "a reader of no pipe": r"there is nothing to read",
    "a user that is not there": r"this machine has none of that name",
    "a check that is gone": r"no check of the real server \S+ is left",
    "a program that cannot run": r"not executable|not a file|is not run: no such file",
}
SILENCE = re.compile("|".join(LET_PASS.values()))

# Where keepalived reports an error, and pylvs does not.
OTHERWISE = {
    "inet6 default via fe80::1 dev eth0": (0, "keepalived forgets the word behind inet6"),
    "192.168.200.0/24 dev eth0 add": (5, "the kernel's flag for it, NLM_F_EXCL, is not set"),
    "inet6 table 5 preference 39": (0, "keepalived forgets the word behind inet6"),
    "inet6 preference 5 table 5": (0, "keepalived forgets the word behind inet6"),
    "from 192.168.2.0/24 table 1 preference 5 protocol bird no_track": (0, "a protocol may have its name"),
    "smtp_server no.such.host": (0, "a name is looked up when mail is sent"),
    "smtp_connect_timeout 1.5": (0, "a fraction of a second is one"),
    "snmp_socket udp:1.2.3.4:705": (5, "AgentX needs a connection, and snmpd does not serve it over UDP"),
    "dbus_service_name foo": (5, "a name on the bus has two elements at least, and keepalived would not get this one"),
    "dbus_no_interface_name foo": (0, "a keyword of later versions of keepalived"),
    "include_check readable": (0, "the word has no meaning in pylvs: a missing file is a finding always"),
    "include_check foo": (0, "the word has no meaning in pylvs: a missing file is a finding always"),
    "not executable script": (5, "a program that cannot run is no danger"),
    "script directory": (5, "a program that cannot run is no danger"),
    "notify notexec": (5, "a program that cannot run is no danger"),
    "notify dir": (5, "a program that cannot run is no danger"),
}


def router(lines: str) -> str:
    """Return a virtual router with these lines."""
    return ROUTER % lines.replace(";", "\n ")


def cases(name: str) -> Iterator[tuple[str, str]]:
    """Return name and text of each case of a file."""
    if name != "blocks":
        for line in (WORDS / f"{name}.txt").read_text().splitlines():
            yield line, WHERE[name] % line.replace(";", "\n ")
        return
    for case in re.split(r"^=== *", (WORDS / "blocks.conf").read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = case.partition("\n")
        text = re.sub(r"^%V (.*)$", lambda match: router(match[1]), text, flags=re.MULTILINE)
        yield title, re.sub(r"^%%$", router(""), text, flags=re.MULTILINE)


def difference(name: str, text: str, file: Path) -> str:
    """Return what is wrong with a case; "" if nothing is."""
    file.write_text(text)
    theirs = keepalived.status_of(file)
    document, unread = read(str(file))
    findings = (*unread, *compile_document(document).findings)
    ours = exit_status(findings)
    same = ours == {0: 0, 6: 6}.get(theirs, 5)
    summary = f"{name!r}: keepalived {theirs}, pylvs {ours}: " + " | ".join(str(each) for each in findings)
    if name in OTHERWISE:
        wanted, _ = OTHERWISE[name]
        return summary if same or ours != wanted else ""
    if same or theirs < 0:  # below 0 a signal ended it
        return ""
    silent = theirs == 0 and all(SILENCE.search(each.text) for each in findings)
    return "" if silent else summary


@pytest.mark.parametrize("name", [*WHERE, "blocks"])
def test_the_exit_status_is_keepalived_s_or_has_a_reason(name: str, tmp_path: Path) -> None:
    with on_four_devices():
        found = [difference(title, text, tmp_path / "keepalived.conf") for title, text in cases(name)]
    assert len(found) > 5
    assert [each for each in found if each] == []


def test_every_exception_is_about_a_case() -> None:
    titles = {title for name in (*WHERE, "blocks") for title, _ in cases(name)}
    assert set(OTHERWISE) <= titles

"""Which scripts may run by keepalived's rules, and findings about the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pylvs.config.compile import scripts
from pylvs.config.compile.document import CompiledDocument
from pylvs.config.language.parser import read_text
from pylvs.config.schema.global_defs import ROOT
from pylvs.config.schema.grammar import Block, Keyword, Reader
from pylvs.config.schema.types import SCRIPT, SCRIPT_ALONE
from pylvs.config.schema.vrrp_types import DELETED
from pylvs.model.checks import Script
from pylvs.system.processes.accounts import Account
from tests.unit.config.support import compiled, messages, single

UNSET = "scripts run, and enable_script_security is not set"
SAFE = "/bin/sh"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that may run."""
    made = tmp_path / "notify"
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    return made


def notified(script: str, *settings: str) -> CompiledDocument:
    """Compile a service with this quorum_up script."""
    return compiled(
        "global_defs {\n    router_id here\n"
        + "".join(f"    {line}\n" for line in settings)
        + "}\nvirtual_server 192.0.2.1 80 {\n    protocol TCP\n    lvs_sched rr\n    lvs_method NAT\n"
        + f"    quorum_up {script}\n    real_server 10.0.0.2 80 {{\n    }}\n}}\n"
    )


def test_a_script_runs_as_it_is_written() -> None:
    document = notified(f"\"{SAFE} -c 'echo up' x\" root daemon", "enable_script_security")
    assert messages(document) == []
    assert single(document).quorum_up == Script((SAFE, "-c", "echo up", "x"), "root", "daemon")


def test_scripts_without_script_security_are_one_finding() -> None:
    document = notified(f"{SAFE} root\n    quorum_down {SAFE} root")
    assert [each.text for each in document.findings] == [UNSET]
    assert [each.security for each in document.findings] == [True]
    assert single(document).quorum_up is not None


def test_the_scripts_of_a_virtual_router_that_is_left_out_are_checked() -> None:
    document = compiled(f"vrrp_instance VI {{\n    interface lo\n    notify {SAFE}\n}}\n")
    assert document.configuration.vrrp.instances == ()
    assert [each.text for each in document.findings if each.security] == [UNSET]


def test_script_security_needs_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "script_account", lambda: Account("root", 0, 0))
    document = notified(SAFE, "enable_script_security")
    assert single(document).quorum_up is None
    assert messages(document) == [
        (
            "9: error: /bin/sh is not run: with enable_script_security it needs a script_user, or a user "
            "keepalived_script on this machine; name a user that this machine has"
        )
    ]
    monkeypatch.setattr(scripts, "script_account", lambda: Account("keepalived_script", 4711, 4711))
    assert messages(notified(SAFE, "enable_script_security")) == []
    assert messages(notified(SAFE, "enable_script_security", "script_user daemon")) == []


def test_a_script_of_an_unknown_user_is_rejected() -> None:
    document = notified(f"{SAFE} no-such-user", "enable_script_security")
    assert single(document).quorum_up is None
    assert messages(document) == [
        (
            "9: error: /bin/sh is not run: user no-such-user: this machine has none of that name; "
            "name a user that this machine has"
        )
    ]
    settings = compiled("global_defs {\n    script_user no-such-user\n}\n")
    assert messages(settings) == [
        "2: error: user no-such-user: this machine has none of that name; name a user that this machine has"
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files that are root's")
def test_what_others_can_change_does_not_run_as_root_with_script_security(program: Path) -> None:
    program.parent.chmod(0o777)
    refused = notified(f"{program} root", "enable_script_security")
    assert single(refused).quorum_up is None
    assert [(each.severity.value, each.security) for each in refused.findings] == [("error", True)]
    assert f"{program} is not run: {program.parent} is writable by all users" in messages(refused)[0]
    warned = notified(f"{program} root")
    assert single(warned).quorum_up == Script((str(program),), "root")
    assert [(each.severity.value, each.security) for each in warned.findings] == [("warning", True)] * 2


def test_a_program_that_is_not_there_is_a_note_and_does_not_run() -> None:
    document = notified("/no/such/program root")
    assert single(document).quorum_up is None
    assert messages(document) == [
        "8: note: /no/such/program is not run: no such file or directory; install it before pylvs starts"
    ]


def test_a_file_that_is_no_program_is_an_error(program: Path) -> None:
    program.chmod(0o644)
    document = notified(f"{program} root", "enable_script_security")
    assert single(document).quorum_up is None
    assert messages(document)[0].startswith(f"9: error: {program} is not run: not executable for user root")


@pytest.mark.parametrize(
    ("script", "finding"),
    [
        ('"/bin/sh \'x"', "8: error: a quote in '/bin/sh 'x' is not closed; close it"),
        ('""', "8: error: no program is named; name one"),
        ("/bin/sh root root more", "8: warning: surplus 'more' behind quorum_up is ignored"),
    ],
)
def test_words_that_are_no_script_are_findings(script: str, finding: str) -> None:
    assert finding in messages(notified(script))


def test_of_two_scripts_the_first_counts_as_in_keepalived() -> None:
    document = notified(f"{SAFE} root\n    quorum_up '{SAFE} 2' root", "enable_script_security")
    assert single(document).quorum_up == Script((SAFE,), "root")
    assert messages(document) == [
        "10: warning: quorum_up was given already in line 9; the first one counts; remove one of them"
    ]


NO_SHELL = (
    "no shell runs this: '{}' is an argument of /bin/echo; write a script file, or /bin/sh -c '...' within the quotes"
)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("master > /tmp/state", ">"),
        ("master >/tmp/state", ">/tmp/state"),
        ("a >> b", ">>"),
        ("a 2>/dev/null", "2>/dev/null"),
        ("a 2>&1", "2>&1"),
        ("a &>/dev/null", "&>/dev/null"),
        ("a < /dev/null", "<"),
        ("a | grep b", "|"),
        ("a || b", "||"),
        ("a && b", "&&"),
        ("a & b", "&"),
        ("a; b", "a;"),
        ("a ; b", ";"),
        ("a `date`", "`date`"),
        ("at $(date)", "$(date)"),
        ("host=$(hostname)", "host=$(hostname)"),
    ],
)
def test_shell_words_in_a_script_are_a_note_as_keepalived_accepts_them(arguments: str, word: str) -> None:
    document = notified(f'"/bin/echo {arguments}" root', "enable_script_security")
    assert messages(document) == [f"9: note: {NO_SHELL.format(word)}"]


@pytest.mark.parametrize(
    "script",
    [
        "/bin/sh -c 'a > b; c | d'",
        "/usr/bin/env bash -ec 'a && b'",
        "/bin/echo 'a > b | c; d' a=b a-b <a@b> x>=1 50% a|b q?a=1&b=2",
        "/usr/bin/find / -name x -exec rm {} ;",
        "</dev/tcp/127.0.0.1/80",
    ],
)
def test_words_that_no_shell_has_to_obey_are_none(script: str) -> None:
    document = notified(f'"{script}" root', "enable_script_security")
    assert not [each for each in messages(document) if "no shell" in each]


def test_shell_words_are_found_in_every_script_of_the_schema() -> None:
    found = 0
    for block in ROOT.blocks():
        for entry in block.entries:
            if isinstance(entry, Keyword) and entry.type in (SCRIPT, SCRIPT_ALONE, DELETED):
                document, _ = read_text(f'{entry.name} "/bin/echo a > b"')
                reader = Reader(Block("", "", (entry,)))
                reader.read(document.nodes)
                assert [str(each) for each in reader.findings.all()] == [
                    f"-:1:{len(entry.name) + 2}: note: {NO_SHELL.format('>')}"
                ]
                found += 1
    assert found > 15

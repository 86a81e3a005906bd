"""The account of a script, and the programs that it may execute."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from pylvs.model.errors import PylvsError
from pylvs.system.processes import accounts
from pylvs.system.processes.accounts import Account, account, located, script_account, unusable

ROOT = Account("root", 0, 0)
OTHER = Account("other", 4711, 4711, (4711, 100))


def test_a_user_is_found_by_name_and_by_number_with_all_groups() -> None:
    entry = pwd.getpwuid(os.getuid())
    found = account(entry.pw_name)
    assert (found.uid, found.gid, found.home) == (entry.pw_uid, entry.pw_gid, entry.pw_dir)
    assert set(os.getgrouplist(entry.pw_name, entry.pw_gid)) == set(found.groups)
    assert account(str(entry.pw_uid)) == found


def test_a_given_group_replaces_the_primary_group_of_the_user() -> None:
    found = account("root", "daemon")
    assert found.uid == 0
    assert found.gid == account("daemon").gid
    assert found.gid in found.groups


@pytest.mark.parametrize(
    ("user", "group", "words"), [("no-such-user", "", "user no-such-user"), ("root", "no-such-group", "group no-such")]
)
def test_the_error_names_a_missing_user_or_group(user: str, group: str, words: str) -> None:
    with pytest.raises(PylvsError, match=words):
        account(user, group)


def test_by_default_scripts_run_as_keepaliveds_user_if_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "SCRIPT_USER", "daemon")
    assert script_account().name == "daemon"
    monkeypatch.setattr(accounts, "SCRIPT_USER", "no-such-user")
    assert script_account().uid == os.geteuid()
    assert script_account("root").uid == 0


def test_the_present_user_needs_no_entry_in_etc_passwd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "SCRIPT_USER", "no-such-user")
    monkeypatch.setattr(os, "geteuid", lambda: 987654)
    assert (script_account().name, script_account().uid) == ("987654", 987654)


def test_a_name_without_slash_is_searched_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "check-it"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert located("check-it") == str(program)
    assert located("not-there") == "not-there"
    assert located("./check-it") == "./check-it"


@pytest.mark.parametrize(
    ("mode", "owner", "group", "who", "able"),
    [
        (0o755, 0, 0, OTHER, True),
        (0o744, 0, 0, OTHER, False),
        (0o744, 0, 0, ROOT, True),
        (0o644, 0, 0, ROOT, False),
        (0o750, 0, 100, OTHER, True),
        (0o705, 0, 100, OTHER, False),  # the group's bits apply, not those of others
        (0o077, 4711, 0, OTHER, False),
        (0o100, 4711, 0, OTHER, True),
    ],
)
def test_the_mode_decides_who_may_execute_a_file(
    mode: int, owner: int, group: int, who: Account, able: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = os.stat_result((0o100000 | mode, 0, 0, 1, owner, group, 0, 0, 0, 0))
    monkeypatch.setattr(os, "stat", lambda path: about)
    assert unusable("/a/program", who) == ("" if able else f"not executable for user {who.name}")


def test_a_directory_and_a_missing_file_have_their_own_errors(tmp_path: Path) -> None:
    assert unusable(str(tmp_path), ROOT) == "not a file"
    assert unusable(str(tmp_path / "missing"), ROOT) == "no such file or directory"

"""Whom a program runs as: users and groups of this machine, and what they may execute."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import stat

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError

SCRIPT_USER = "keepalived_script"  # keepalived's default, where the machine has it


@dataclass(frozen=True, slots=True)
class Account:
    """A user with the groups that a login would give; `name` is what messages call it."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()  # supplementary
    home: str = "/"


def account(user: str, group: str = "") -> Account:
    """The user of this name or number, with this group instead of its own if given. Raises PylvsError."""
    entry = _entry(user)
    if entry is None:
        raise PylvsError(f"user {user}: this machine has none of that name")
    gid = _group(group) if group else entry.pw_gid
    groups = tuple(sorted({*os.getgrouplist(entry.pw_name, gid), gid}))
    return Account(entry.pw_name, entry.pw_uid, gid, groups, entry.pw_dir or "/")


def _entry(user: str) -> pwd.struct_passwd | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(user)
    with contextlib.suppress(KeyError, ValueError, OverflowError):
        return pwd.getpwuid(int(user))
    return None


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        try:
            return grp.getgrgid(int(name)).gr_gid
        except (KeyError, ValueError, OverflowError):
            raise PylvsError(f"group {name}: this machine has none of that name") from None


def script_account(user: str = "", group: str = "") -> Account:
    """Whom scripts run as where a configuration names `user` and `group`, or nobody.

    As in keepalived: the user keepalived_script if the machine has it, else whoever runs this. Raises PylvsError.
    """
    if user:
        return account(user, group)
    for known in (SCRIPT_USER, str(os.geteuid())):
        if _entry(known):
            return account(known, group)
    gid = _group(group) if group else os.getegid()  # a container without a line for whoever runs this
    return Account(str(os.geteuid()), os.geteuid(), gid, tuple(os.getgroups()))


def located(program: str) -> str:
    """Where a program is: a bare name is looked for on PATH, and stays bare if it is not there."""
    if "/" in program:
        return program
    return shutil.which(program) or program


def unusable(path: str, who: Account) -> str:
    """Why this account cannot execute the file, "" if it can. What access lists allow beyond the mode is not seen."""
    try:
        about = os.stat(path)
    except OSError as error:
        return (error.strerror or "cannot be read").lower()
    if not stat.S_ISREG(about.st_mode):
        return "not a file"
    if who.uid == 0:
        able = bool(about.st_mode & 0o111)
    else:
        groups = {who.gid, *who.groups}
        bit = 0o100 if about.st_uid == who.uid else 0o010 if about.st_gid in groups else 0o001
        able = bool(about.st_mode & bit)
    return "" if able else f"not executable for user {who.name}"

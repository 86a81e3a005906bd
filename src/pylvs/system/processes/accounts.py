"""Whether somebody other than root could change a program that runs as root.

The rule is keepalived's (`enable_script_security`): every component of the path must be root's, and writable by nobody
else. keepalived looks at the path behind all symbolic links; here the directories that hold the links count as well,
for whoever may replace a link chooses what runs.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import stat

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError

MOST_LINKS = 40  # as in Linux, path_resolution(7)


def insecurities(path: str, uid: int) -> tuple[str, ...]:
    """Each component that others may change, and how: "/opt is writable by group 100"; nothing if all is well.

    For a `uid` other than root's there is nothing to protect: that user gains no right that it has not got. A path
    that does not exist ends the walk in silence: what is missing cannot run, and is another complaint.
    """
    if uid != 0:
        return ()
    found: dict[str, None] = {}
    waiting = _components(os.path.join(os.getcwd(), path))
    here, links = "/", 0
    found.update(dict.fromkeys(_of_one("/", os.lstat("/"))))
    while waiting:
        name = waiting.pop()
        if name == "..":
            here = os.path.dirname(here)
            continue
        there = os.path.join(here, name)
        try:
            about = os.lstat(there)
            if stat.S_ISLNK(about.st_mode):
                links += 1
                if links > MOST_LINKS:
                    break
                target = os.readlink(there)
                if about.st_uid:
                    found[f"{there}, a symbolic link, belongs to user {about.st_uid}"] = None
                here = "/" if target.startswith("/") else here
                waiting += _components(target)
                continue
        except OSError:
            break
        found.update(dict.fromkeys(_of_one(there, about)))
        here = there
    return tuple(found)


def _components(path: str) -> list[str]:
    """The names in a path, the first one last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _of_one(path: str, about: os.stat_result) -> list[str]:
    """In a directory whose sticky bit is set others may write, but change nothing that is root's."""
    found = []
    if about.st_uid:
        found.append(f"{path} belongs to user {about.st_uid}")
    if stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX:
        return found
    if about.st_mode & stat.S_IWOTH:
        found.append(f"{path} is writable by everybody")
    elif about.st_mode & stat.S_IWGRP and about.st_gid:
        found.append(f"{path} is writable by group {about.st_gid}")
    return found


# --- accounts --------------------------------------------------------------------------------------------------------
# Whom a program runs as: users and groups of this machine, and what they may execute.


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

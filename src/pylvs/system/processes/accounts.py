"""The accounts that scripts run as, and whether other users could change a program that runs as root.

The rule is keepalived's (`enable_script_security`): only root may own and write each component of the path. keepalived
checks the path behind all symbolic links. pylvs also checks the directories that contain the links, because a user who
can replace a link chooses the program.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat

from pylvs.model.dataclass import dataclass
from pylvs.model.errors import PylvsError

MOST_LINKS = 40  # as in Linux, path_resolution(7)
SCRIPT_USER = "keepalived_script"  # keepalived's default, where the machine has it


def insecurities(path: str, uid: int) -> tuple[str, ...]:
    """Return each component that other users can change, and how: "/opt is writable by group 100".

    Another `uid` than root's needs no protection: the script gets no right that its user lacks. A component that does
    not exist ends the walk without an error, because such a script does not run.
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
    """Return the names in a path in reverse order."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _of_one(path: str, about: os.stat_result) -> list[str]:
    """Check one component. In a directory with the sticky bit, other users cannot replace root's files."""
    found = []
    if about.st_uid:
        found.append(f"{path} belongs to user {about.st_uid}")
    if stat.S_ISDIR(about.st_mode) and about.st_mode & stat.S_ISVTX:
        return found
    if about.st_mode & stat.S_IWOTH:
        found.append(f"{path} is writable by all users")
    elif about.st_mode & stat.S_IWGRP and about.st_gid:
        found.append(f"{path} is writable by group {about.st_gid}")
    return found


@dataclass(frozen=True, slots=True)
class Account:
    """A user with the groups of a login; messages contain `name`."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()  # supplementary
    home: str = "/"


def account(user: str, group: str = "") -> Account:
    """Return the user of this name or number; `group` replaces its primary group. Raises PylvsError."""
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
    """Return the account of scripts for the configuration's `user` and `group`. Raises PylvsError.

    Without a user it is, as in keepalived, keepalived_script if the machine has that, else this process's user.
    """
    if user:
        return account(user, group)
    for known in (SCRIPT_USER, str(os.geteuid())):
        if _entry(known):
            return account(known, group)
    gid = _group(group) if group else os.getegid()  # in a container whose /etc/passwd lacks this user
    return Account(str(os.geteuid()), os.geteuid(), gid, tuple(os.getgroups()))


def located(program: str) -> str:
    """Return the path of a program; a name without "/" is searched on PATH, and returned unchanged if not found."""
    if "/" in program:
        return program
    import shutil  # late: few configurations name programs without a path

    return shutil.which(program) or program


def unusable(path: str, who: Account) -> str:
    """Return why this account cannot execute the file, "" if it can; access control lists are ignored."""
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

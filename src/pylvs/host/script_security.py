"""Whether somebody other than root could change a program that runs as root.

The rule is keepalived's (`enable_script_security`): every component of the path must be root's, and writable by nobody
else. keepalived looks at the path behind all symbolic links; here the directories that hold the links count as well,
for whoever may replace a link chooses what runs.
"""

from __future__ import annotations

import os
import stat

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

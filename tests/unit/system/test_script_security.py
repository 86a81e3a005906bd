"""Components of a path that users other than root can change."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pylvs.system.processes.accounts import insecurities

OTHER = 4711


class Imagined:
    """lstat as a tree of the test's own says it, so that owners can be made up without root."""

    def __init__(self) -> None:
        self.about: dict[str, tuple[int, int, int]] = {"/": (stat.S_IFDIR | 0o755, 0, 0)}
        self.links: dict[str, str] = {}

    def directory(self, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        self.about[path] = (stat.S_IFDIR | mode, uid, gid)

    def file(self, path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> None:
        self.about[path] = (stat.S_IFREG | mode, uid, gid)

    def link(self, path: str, target: str, uid: int = 0) -> None:
        self.about[path] = (stat.S_IFLNK | 0o777, uid, 0)
        self.links[path] = target

    def lstat(self, path: str) -> os.stat_result:
        if path not in self.about:
            raise FileNotFoundError(path)
        mode, uid, gid = self.about[path]
        return os.stat_result((mode, 0, 0, 1, uid, gid, 0, 0, 0, 0))

    def readlink(self, path: str) -> str:
        return self.links[path]


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch) -> Imagined:
    """A root directory with /opt in it, both root's."""
    made = Imagined()
    made.directory("/opt")
    made.file("/opt/check")
    monkeypatch.setattr(os, "lstat", made.lstat)
    monkeypatch.setattr(os, "readlink", made.readlink)
    return made


def test_a_path_that_is_all_of_roots_is_secure(tree: Imagined) -> None:
    assert insecurities("/opt/check", 0) == ()


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "error"),
    [
        (0o777, 0, 0, ("/opt is writable by all users",)),
        (0o775, 0, 1, ("/opt is writable by group 1",)),
        (0o775, 0, 0, ()),
        (0o755, OTHER, 0, ("/opt belongs to user 4711",)),
        (0o1777, 0, 0, ()),
        (0o1775, 0, 1, ()),
        (0o1777, OTHER, 0, ("/opt belongs to user 4711",)),
    ],
)
def test_a_directory_that_others_may_write_is_named(
    tree: Imagined, mode: int, uid: int, gid: int, error: tuple[str, ...]
) -> None:
    tree.directory("/opt", mode, uid, gid)
    assert insecurities("/opt/check", 0) == error


@pytest.mark.parametrize(
    ("mode", "uid", "gid", "error"),
    [
        (0o777, 0, 0, ("/opt/check is writable by all users",)),
        (0o1777, 0, 0, ("/opt/check is writable by all users",)),  # sticky means nothing on a file
        (0o775, 0, 1, ("/opt/check is writable by group 1",)),
        (0o700, OTHER, OTHER, ("/opt/check belongs to user 4711",)),
    ],
)
def test_a_file_that_others_may_write_is_named(
    tree: Imagined, mode: int, uid: int, gid: int, error: tuple[str, ...]
) -> None:
    tree.file("/opt/check", mode, uid, gid)
    assert insecurities("/opt/check", 0) == error


def test_both_ends_of_a_link_count(tree: Imagined) -> None:
    tree.directory("/open", 0o777)
    tree.file("/open/program")
    tree.link("/opt/link", "../open/program")
    tree.link("/open/back", "/opt/check")
    assert insecurities("/opt/link", 0) == ("/open is writable by all users",)
    assert insecurities("/open/back", 0) == ("/open is writable by all users",)


def test_a_link_of_another_user_is_named(tree: Imagined) -> None:
    tree.link("/opt/link", "check", uid=OTHER)
    assert insecurities("/opt/link", 0) == ("/opt/link, a symbolic link, belongs to user 4711",)


def test_links_in_a_circle_end(tree: Imagined) -> None:
    tree.link("/opt/a", "b")
    tree.link("/opt/b", "a")
    assert insecurities("/opt/a", 0) == ()


def test_who_is_not_root_gains_nothing(tree: Imagined) -> None:
    tree.directory("/opt", 0o777)
    assert insecurities("/opt/check", OTHER) == ()


def test_what_is_missing_is_as_secure_as_where_it_would_be(tree: Imagined) -> None:
    assert insecurities("/opt/missing", 0) == ()
    tree.directory("/opt", 0o777)
    assert insecurities("/opt/missing", 0) == ("/opt is writable by all users",)


def test_a_real_path_is_read(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.touch()
    program.chmod(0o777)
    assert f"{program} is writable by all users" in insecurities(str(program), 0)

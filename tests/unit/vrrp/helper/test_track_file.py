"""track_file: the number in a text, by keepalived's rules, and every way in which a file changes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.vrrp import Track, TrackFile, VrrpConfiguration
from pylvs.model.wanted import GlobalSettings
from pylvs.vrrp.helper.link import Configure
from pylvs.vrrp.helper.track_file import POLL_S, TrackFiles, parse_number
from tests.shortages import SHORTAGES, failing
from tests.unit.health.clock import FakeTimeLoop
from tests.unit.vrrp.helper.running_helper import Started, run_helper


@pytest.mark.parametrize(
    ("text", "number"),
    [  # by keepalived 2.2.7
        ("5\n", 5),
        ("-3\n", -3),
        ("abc\n", 0),
        ("12abc\n", 12),
        (" 9\n", 9),
        ("\n", 0),
        ("", 0),
        ("0x10\n", 16),
        ("+4\n", 4),
        ("3 4\n", 3),
        ("010\n", 8),
        ("1.5\n", 1),
        ("99999999999\n", None),
        ("08", 0),
        ("0x", 0),
        ("--1", 0),
    ],
)
def test_the_number_in_a_text(text: str, number: int | None) -> None:
    assert parse_number(text.encode()) == number


@given(st.binary(max_size=300))
def test_any_text_is_parsed(text: bytes) -> None:
    number = parse_number(text)
    assert number is None or -(1 << 31) <= number < 1 << 31


def file(path: Path, name: str = "f", **fields: Any) -> TrackFile:
    return TrackFile(name=name, path=str(path), track=Track(name, 1), **fields)


def configure(*files: TrackFile) -> Configure:
    return Configure(GlobalSettings(), VrrpConfiguration(files=files))


def numbers(helper: Started, name: str = "f") -> list[int | None]:
    return [each.number for each in helper.received if each.track.name == name]


def write(path: Path, text: str) -> None:
    """Overwrite in place without an empty file in between, which the helper process might read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(descriptor, text.encode())
    os.ftruncate(descriptor, len(text))
    os.close(descriptor)


def test_every_change_is_reported(tmp_path: Path) -> None:
    path, directory = tmp_path / "d" / "f", tmp_path / "d"
    directory.mkdir()
    with run_helper(tmp_path) as helper:
        helper.send(configure(file(path)))
        helper.until(lambda: numbers(helper) == [0])
        write(path, "5\n")
        helper.until(lambda: numbers(helper) == [0, 5])
        write(path, "-7")
        helper.until(lambda: numbers(helper)[2:] == [-7])
        (tmp_path / "new").write_text("8")
        os.replace(tmp_path / "new", path)
        helper.until(lambda: numbers(helper)[3:] == [8])
        write(path, "99999999999")
        helper.until(lambda: "too great" in helper.log.read_text())
        path.unlink()
        helper.until(lambda: numbers(helper)[4:] == [0])
        path.write_text("9")
        helper.until(lambda: numbers(helper)[5:] == [9])
        directory.rename(tmp_path / "elsewhere")
        helper.until(lambda: numbers(helper)[6:] == [0])
        directory.mkdir()
        path.write_text("10")
        helper.until(lambda: numbers(helper)[7:] == [10])
        path.unlink()
        path.symlink_to(tmp_path / "target")
        helper.until(lambda: numbers(helper)[8:] == [0])
        (tmp_path / "target").write_text("11")
        helper.until(lambda: numbers(helper)[9:] == [11])


def test_a_file_that_is_being_written_has_its_old_number(tmp_path: Path) -> None:
    path, directory, aside = tmp_path / "f", tmp_path / "folder", tmp_path / "aside"
    path.write_text("5\n")
    aside.mkdir()
    (aside / "old").write_text("1")
    os.utime(aside / "old", (0, 0))
    with run_helper(tmp_path, constants={"vrrp.helper.track_file.SETTLED_S": 600}) as helper:
        helper.send(configure(file(path), file(directory / "old", "old")))
        helper.until(lambda: (numbers(helper), numbers(helper, "old")) == ([5], [0]))
        with open(path, "w") as out:
            aside.rename(directory)  # without an inotify event: polling finds it
            helper.until(lambda: numbers(helper, "old") == [0, 1])
            out.write("6\n")
        helper.until(lambda: numbers(helper)[1:] == [6])
        assert numbers(helper) == [5, 6]


def test_initial_values(tmp_path: Path) -> None:
    missing, there, over = (tmp_path / name for name in ("missing", "there", "over"))
    there.write_text("6")
    over.write_text("5")
    with run_helper(tmp_path) as helper:
        configuration = configure(
            file(missing, "missing", initial=10),
            file(there, "there", initial=10),
            file(over, "over", initial=10, overwrite=True),
            file(tmp_path / "no" / "where", "nowhere", initial=3),
        )
        helper.send(configuration)
        helper.until(lambda: len(helper.received) == 4)
        assert [numbers(helper, name) for name in ("missing", "there", "over", "nowhere")] == [[10], [6], [10], [0]]
        assert missing.read_text() == "10\n"
        write(over, "7\n\n")  # as long as before: it is never half written
        helper.until(lambda: numbers(helper, "over") == [10, 7])
        helper.send(configuration)
        write(there, "8")
        helper.until(lambda: numbers(helper, "there") == [6, 8])
        assert over.read_text() == "7\n\n"
    assert "track file nowhere" in helper.log.read_text()


def test_a_reload_overwrites_no_file(tmp_path: Path) -> None:
    """Neither one whose track_file is new, nor one whose path is; a missing file is made."""
    there, moved, missing = (tmp_path / name for name in ("there", "moved", "missing"))
    there.write_text("5")
    moved.write_text("6")
    added = [file(path, path.name, initial=10, overwrite=True) for path in (there, missing)]
    with run_helper(tmp_path) as helper:
        helper.send(configure(file(tmp_path / "before", "moves", initial=10, overwrite=True)))
        helper.until(lambda: numbers(helper, "moves") == [10])
        helper.send(replace(configure(file(moved, "moves", initial=10, overwrite=True), *added), again=True))
        helper.until(lambda: len(helper.received) == 4)
        assert [numbers(helper, name) for name in ("moves", "there", "missing")] == [[10, 6], [5], [10]]
    assert (there.read_text(), moved.read_text()) == ("5", "6")


def test_other_kinds_of_files_count_as_0(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with run_helper(tmp_path) as helper:
        helper.send(
            configure(file(tmp_path / "pipe", "pipe"), file(tmp_path, "folder"), file(Path("/dev/zero"), "zero"))
        )
        helper.until(lambda: len(helper.received) == 3)
        assert {each.number for each in helper.received} == {0}


def test_initial_values_are_not_written_through_links_or_into_pipes(tmp_path: Path) -> None:
    target, link, pipe, hard = (tmp_path / name for name in ("target", "link", "pipe", "hard"))
    target.write_text("precious\n")
    link.symlink_to(target)
    os.mkfifo(pipe)
    hard.write_text("99999\n")
    with run_helper(tmp_path) as helper:
        those = ((link, "link"), (pipe, "pipe"), (hard, "hard"))
        helper.send(configure(*(file(path, name, initial=1, overwrite=True) for path, name in those)))
        helper.until(lambda: len(helper.received) == 3)
    assert target.read_text() == "precious\n"
    assert hard.read_text() == "1\n", "a regular file is overwritten, whole"
    log = helper.log.read_text()
    assert f"track file link: {link} cannot be written: it is a symbolic link" in log
    assert f"track file pipe: {pipe}" in log


@pytest.mark.parametrize("number", SHORTAGES)
def test_without_descriptors_the_number_stays_and_is_late(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, reported, loop = tmp_path / "f", list[int | None](), FakeTimeLoop()
    files = TrackFiles(lambda result: reported.append(result.number))
    path.write_text("1")

    async def begin() -> None:
        files.configure([file(path)])

    loop.run_until_complete(begin())
    with monkeypatch.context() as shortage:
        shortage.setattr(os, "open", failing(number))
        path.write_text("2")
        loop.pass_(2 * POLL_S)
        assert (reported, list(files.late())) == ([1], [("file", "f")])
    loop.pass_(POLL_S)
    assert (reported, list(files.late())) == ([1, 2], [])
    with monkeypatch.context() as shortage:
        shortage.setattr(os, "open", failing(number))
        path.write_text("2")
        loop.pass_(2 * POLL_S)
        assert list(files.late()) == [("file", "f")]
    loop.pass_(POLL_S)
    assert (reported, list(files.late())) == ([1, 2, 2], []), "its last report may have expired"
    path.unlink()
    loop.pass_(POLL_S)
    assert reported == [1, 2, 2, 0]

    async def end() -> None:
        files.finish()

    loop.run_until_complete(end())
    loop.close()

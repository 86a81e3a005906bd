"""Track files: what number a text is, by keepalived's rules, and every way in which a file changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.model.vrrp import Track, TrackFile, VrrpConfiguration
from pylvs.model.wanted import GlobalSettings
from pylvs.vrrp.helper.files import parse_number
from pylvs.vrrp.helper.link import Configure, FileValue
from tests.unit.vrrp.helper.running_helper import Started, run_helper


@pytest.mark.parametrize(
    ("text", "number"),
    [  # each as keepalived 2.2.7 has it
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
def test_any_text_has_one_or_none(text: bytes) -> None:
    number = parse_number(text)
    assert number is None or -(1 << 31) <= number < 1 << 31


def file(path: Path, name: str = "f", **fields: Any) -> TrackFile:
    return TrackFile(name=name, path=str(path), track=Track(name, 1), **fields)


def configure(*files: TrackFile) -> Configure:
    return Configure(GlobalSettings(), VrrpConfiguration(files=files))


def numbers(one: Started, name: str = "f") -> list[int]:
    return [each.number for each in one.heard if isinstance(each, FileValue) and each.name == name]


def write(path: Path, text: str) -> None:
    """In place, yet never empty in between: one that is may be taken for it where this process is stopped meanwhile."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(descriptor, text.encode())
    os.ftruncate(descriptor, len(text))
    os.close(descriptor)


def test_every_change_is_told(tmp_path: Path) -> None:
    path, folder = tmp_path / "d" / "f", tmp_path / "d"
    folder.mkdir()
    with run_helper(tmp_path) as one:
        one.tell(configure(file(path)))
        one.until(lambda: numbers(one) == [0])
        write(path, "5\n")
        one.until(lambda: numbers(one) == [0, 5])
        write(path, "-7")
        one.until(lambda: numbers(one)[2:] == [-7])
        (tmp_path / "new").write_text("8")
        os.replace(tmp_path / "new", path)
        one.until(lambda: numbers(one)[3:] == [8])
        write(path, "99999999999")
        one.until(lambda: "too great" in one.log.read_text())
        path.unlink()
        one.until(lambda: numbers(one)[4:] == [0])
        path.write_text("9")
        one.until(lambda: numbers(one)[5:] == [9])
        folder.rename(tmp_path / "elsewhere")
        one.until(lambda: numbers(one)[6:] == [0])
        folder.mkdir()
        path.write_text("10")
        one.until(lambda: numbers(one)[7:] == [10])
        path.unlink()
        path.symlink_to(tmp_path / "target")
        one.until(lambda: numbers(one)[8:] == [0])
        (tmp_path / "target").write_text("11")
        one.until(lambda: numbers(one)[9:] == [11])


def test_a_file_that_is_being_written_has_its_old_number(tmp_path: Path) -> None:
    path, folder, aside = tmp_path / "f", tmp_path / "folder", tmp_path / "aside"
    path.write_text("5\n")
    aside.mkdir()
    (aside / "old").write_text("1")
    os.utime(aside / "old", (0, 0))
    with run_helper(tmp_path, constants={"vrrp.helper.files.SETTLED_S": 600}) as one:
        one.tell(configure(file(path), file(folder / "old", "old")))
        one.until(lambda: (numbers(one), numbers(one, "old")) == ([5], [0]))
        with open(path, "w") as out:
            aside.rename(folder)  # which the kernel does not tell of: it is found by looking at them all
            one.until(lambda: numbers(one, "old") == [0, 1])
            out.write("6\n")
        one.until(lambda: numbers(one)[1:] == [6])
        assert numbers(one) == [5, 6]


def test_what_it_begins_with(tmp_path: Path) -> None:
    missing, there, over = (tmp_path / name for name in ("missing", "there", "over"))
    there.write_text("6")
    over.write_text("5")
    with run_helper(tmp_path) as one:
        told = configure(
            file(missing, "missing", initial=10),
            file(there, "there", initial=10),
            file(over, "over", initial=10, overwrite=True),
            file(tmp_path / "no" / "where", "nowhere", initial=3),
        )
        one.tell(told)
        one.until(lambda: len(one.heard) == 4)
        assert [numbers(one, name) for name in ("missing", "there", "over", "nowhere")] == [[10], [6], [10], [0]]
        assert missing.read_text() == "10\n"
        write(over, "7")
        one.until(lambda: numbers(one, "over") == [10, 7])
        one.tell(told)
        write(there, "8")
        one.until(lambda: numbers(one, "there") == [6, 8])
        assert over.read_text() == "7"
    assert "track file nowhere" in one.log.read_text()


def test_what_is_no_file_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with run_helper(tmp_path) as one:
        one.tell(configure(file(tmp_path / "pipe", "pipe"), file(tmp_path, "folder"), file(Path("/dev/zero"), "zero")))
        one.until(lambda: len(one.heard) == 3)
        assert {each.number for each in one.heard} == {0}

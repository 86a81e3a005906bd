"""A file is replaced as a whole."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pylvs.system import files


@pytest.mark.parametrize("durable", [False, True])
def test_the_draft_of_a_process_that_was_killed_is_replaced(tmp_path: Path, durable: bool) -> None:
    (tmp_path / ".name.new").write_text("half")
    files.replace(tmp_path / "name", "whole", 0o600, durable)
    assert [path.name for path in tmp_path.iterdir()] == ["name"]
    assert (tmp_path / "name").read_text() == "whole"
    assert stat.S_IMODE((tmp_path / "name").stat().st_mode) == 0o600


def test_no_link_is_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("important")
    for name in ("name", ".name.new"):
        (tmp_path / name).symlink_to(precious)
    files.replace(tmp_path / "name", "new")
    assert precious.read_text() == "important"
    assert not (tmp_path / "name").is_symlink()


def test_a_failure_leaves_the_former_content_and_no_draft(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError):
        files.replace(tmp_path / "name", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]

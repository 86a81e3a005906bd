"""`pylvs diff`: words, JSON, and diff(1)'s exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pylvs.cli.main import run

SERVICE = """virtual_server 192.0.2.1 80 {{
    lb_algo rr
    lb_kind DR
    protocol TCP
    real_server 10.0.0.2 80 {{
        weight {weight}
    }}
}}
"""


def file(path: Path, name: str, text: str) -> str:
    (path / name).write_text(text)
    return str(path / name)


def test_equal_files_print_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = file(tmp_path, "old", SERVICE.format(weight=1))
    new = file(tmp_path, "new", "# other text\n$W=1\n" + SERVICE.format(weight="$W"))
    assert run(["diff", old, new]) == 0
    assert capsys.readouterr() == ("", "")


def test_differences_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (file(tmp_path, f"{weight}", SERVICE.format(weight=weight)) for weight in (1, 3))
    assert run(["diff", old, new]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "virtual_server 192.0.2.1:80 tcp: real server 10.0.0.2:80: weight 1 -> 3",
        "1 change; 1 service keeps all connections",
    ]


def test_programs_get_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = file(tmp_path, "old", SERVICE.format(weight=1)), file(tmp_path, "new", "global_defs {\n}\n")
    assert run(["diff", "--json", old, new]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [change["change"] for change in found["changes"]] == ["removed"]
    assert found["connections"] == {"touched": [], "untouched": 0}
    assert run(["diff", "--json", old, old]) == 0
    assert json.loads(capsys.readouterr().out)["changes"] == []


def test_lines_of_an_id_are_read_when_it_is_asked_for(tmp_path: Path) -> None:
    old = file(tmp_path, "old", SERVICE.format(weight=1))
    new = file(tmp_path, "new", SERVICE.format(weight="1\n@big weight 9"))
    assert run(["diff", old, new]) == 0
    assert run(["diff", "-i", "big", old, new]) == 1


@pytest.mark.parametrize("text", [None, "a {\n", "includem no.conf\n", "\0"])
def test_a_file_that_cannot_be_read_is_status_2(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = file(tmp_path, "good", SERVICE.format(weight=1)), str(tmp_path / "bad")
    if text is not None:
        file(tmp_path, "bad", text)
    for order in ((good, bad), (bad, good)):
        assert run(["diff", *order]) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert f"{bad}:1:" in error


def test_findings_are_counted_on_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = (
        file(tmp_path, "old", SERVICE.format(weight=1)),
        file(tmp_path, "new", SERVICE.format(weight="1\nwait 3")),
    )
    assert run(["diff", old, new]) == 0
    assert capsys.readouterr().err == f"{new}: 1 finding, which pylvs check {new} names\n"

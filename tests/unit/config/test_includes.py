"""Includes: the files that are read, and findings about the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pylvs.config.compile.document import compile_document, sort_findings
from pylvs.config.language.parser import read
from pylvs.config.language.tree import Severity
from tests.unit.config.trees import outline


def made(folder: Path, **texts: str) -> str:
    """Files of these texts, __ for a slash and _ for the dot; the path of the one named main_conf."""
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder / "main.conf")


def found(path: str) -> list[str]:
    """Return the findings without the directory."""
    folder = os.path.dirname(path) + "/"
    return [str(finding).replace(folder, "") for finding in read(path)[1]]


def test_includes_are_relative_to_their_file(tmp_path: Path) -> None:
    path = made(
        tmp_path,
        main_conf="a {\n include sub/one.conf # here\n}\n$F=two\ninclude sub/${F}.conf",
        sub__one_conf="in_one\ninclude two.conf",
        sub__two_conf="in_two ${_PWD}",
    )
    document, findings = read(path)
    assert not findings
    folder = tmp_path.resolve() / "sub"
    assert outline(document) == ["a {", "  in_one", f"  in_two|{folder}", "}", f"in_two|{folder}"]
    assert document.files == (path, str(tmp_path / "sub/one.conf"), str(tmp_path / "sub/two.conf"))
    assert document.nodes[1].location.file == str(tmp_path / "sub/two.conf")


def test_wildcards_and_braces(tmp_path: Path) -> None:
    path = made(
        tmp_path,
        main_conf="include conf.d/*.conf\ninclude conf.d/{b,a}.conf\ninclude conf.d/[^b].conf\ninclude */.h*\n",
        conf_d__a_conf="a",
        conf_d__b_conf="b",
        conf_d__other="no",
        conf_d___h="hidden",
    )
    document, findings = read(path)
    assert not findings
    assert outline(document) == ["a", "b", "b", "a", "a", "hidden"]


@pytest.mark.parametrize(
    ("line", "finding"),
    [
        (
            "include no.conf",
            "main.conf:1:9: error: 'no.conf' cannot be read: No such file or directory; it is left out; correct",
        ),
        ("  includer no*.conf", "main.conf:1:12: note: no file matches 'no*.conf'; nothing is included"),
        ("includem no*.conf", "main.conf:1:10: note: no file matches 'no*.conf'; nothing is included"),
        ("include no*.conf", "main.conf:1:9: note: no file matches 'no*.conf'; nothing is included"),
        ("includew no*.conf", "main.conf:1:10: error: no file matches 'no*.conf'; make one, or use include"),
        ("includea no*.conf", "main.conf:1:10: error: no file matches 'no*.conf'; make one, or use include"),
        ("include_check +wildcard_match -match\ninclude no*", "main.conf:2:9: error: no file matches 'no*'; make one"),
        ("include_check\ninclude_check -wildcard_match\ninclude no*", "main.conf:3:9: note: no file matches 'no*'"),
        ("include {a,b}.conf", "main.conf:1:9: warning: 'b.conf' cannot be read: No such file or directory; remove"),
        ("includeb {a,b}.conf", "main.conf:1:10: error: 'b.conf' cannot be read: No such file or directory; correct"),
        ('include "a.conf"', 'main.conf:1:9: error: no file is named "a.conf"; write the name without quotes'),
        ("include", "main.conf:1:1: error: include needs a file's name; write it behind"),
        ("include sub", "main.conf:1:9: error: 'sub' is a directory; it is left out; correct the name, or make"),
        ("include su*", "main.conf:1:9: warning: 'sub' is a directory; it is left out; use a pattern such as *.conf"),
        ("include /dev/zero", "main.conf:1:9: error: '/dev/zero' is no file but a device; it is left out; correct"),
        ("include pipe", "main.conf:1:9: error: 'pipe' is no file but a device; it is left out; correct"),
        ("include " + "x" * 5000, "main.conf:1:9: error: include needs a file's name; write it behind"),
        (
            "include " + "x" * 300,
            "main.conf:1:9: error: '" + "x" * 300 + "' cannot be read: File name too long; it is le",
        ),
        ("include main.conf", "main.conf:1:9: error: 'main.conf' includes itself; remove one of the includes"),
        ("include loop.conf", "loop.conf:1:9: error: 'main.conf' includes itself; remove one of the includes"),
        ("include binary", "main.conf:1:9: error: 'binary' is no text: its line 2 holds a NUL character; it is left"),
        ("@no include no.conf", ""),
    ],
)
def test_what_is_not_there(line: str, finding: str, tmp_path: Path) -> None:
    path = made(tmp_path, main_conf=line, a_conf="a", sub__x="x", loop_conf="include main.conf", binary="a\nb\0c")
    os.mkfifo(tmp_path / "pipe")
    texts = found(path)
    if finding:
        assert len(texts) == 1
        assert texts[0].startswith(finding)
    else:
        assert texts == []


@pytest.mark.parametrize(
    ("lines", "fatal"),
    [
        ("include no.conf", False),
        ("includer no.conf", False),
        ("includem no.conf", True),
        ("includea no.conf", True),
        ("include_check +match\ninclude no.conf", True),
        ("include_check +readable\ninclude no.conf", False),
        ("include sub", False),
        ("includer sub", True),
        ("includeb {no,a}.conf", True),
        ("includew no*.conf", True),
    ],
)
def test_a_missing_file_is_fatal_where_it_is_in_keepalived(lines: str, fatal: bool, tmp_path: Path) -> None:
    (finding,) = read(made(tmp_path, main_conf=lines, a_conf="a", sub__x="x"))[1]
    assert finding.severity is Severity.ERROR
    assert finding.fatal is fatal


@pytest.mark.parametrize(
    ("line", "fatal"),
    [("include conf.d/*", False), ("include conf.d/b.sh", False), ("includer conf.d/*", True)],
)
@pytest.mark.parametrize("mode", [0o744, 0o654, 0o645])
def test_an_executable_file_is_not_included(line: str, fatal: bool, mode: int, tmp_path: Path) -> None:
    path = made(tmp_path, main_conf=f"before\n{line}\nafter", conf_d__a_conf="a", conf_d__b_sh="b")
    (tmp_path / "conf.d/b.sh").chmod(mode)
    document, (finding,) = read(path)
    assert "b" not in outline(document)
    assert ("a" in outline(document)) is ("*" in line)
    assert finding.text == f"'{tmp_path}/conf.d/b.sh' is executable" + ("" if fatal else "; it is left out")
    assert (finding.advice, finding.fatal) == ("remove its x bits: chmod a-x", fatal)


def test_the_first_file_may_be_executable(tmp_path: Path) -> None:
    path = made(tmp_path, main_conf="a")
    os.chmod(path, 0o755)
    assert found(path) == []


def test_the_rest_is_read_without_a_missing_file(tmp_path: Path) -> None:
    document, _ = read(made(tmp_path, main_conf="before\ninclude no.conf\nafter"))
    assert outline(document) == ["before", "after"]


def test_files_that_include_each_other_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pylvs.config.language.parser.MAX_FILES", 500)
    texts = {f"f{n}_conf": f"x\ninclude f{n + 1}.conf\ninclude f{n + 1}.conf" for n in range(60)}
    document, findings = read(made(tmp_path, main_conf="include f0.conf", f60_conf="x", **texts))
    assert any("too many files include each other" in finding.text for finding in findings)
    assert len(document.files) == 32


def test_bytes_that_are_not_utf8_matter_in_words_alone(tmp_path: Path) -> None:
    path = tmp_path / "main.conf"
    path.write_bytes(b"# f\xfcr\na \xfcb\n")
    assert found(str(path)) == ["main.conf:2:3: error: these bytes are not UTF-8; save the file as UTF-8"]
    path.write_bytes(b"\xef\xbb\xbfa \xc3\xbc\n")
    assert found(str(path)) == ["main.conf:1:1: warning: a byte order mark begins the file; save it without one"]
    assert outline(read(str(path))[0]) == ["a|ü"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no.conf", "the file cannot be read: No such file or directory"),
        ("sub", "the file is a directory"),
        ("/dev/zero", "the file is no file but a device"),
        ("a\0b", "the file is no name that a file can have"),
        ("\ud800", "the file is no name that a file can have"),
    ],
)
def test_the_first_file_must_be_there(name: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    document, (finding,) = read(os.path.join(tmp_path, name))
    assert not document.nodes
    assert finding.text == why
    assert finding.fatal


def test_the_first_file_may_be_a_pipe(tmp_path: Path) -> None:
    end, write = os.pipe()
    os.write(write, b"a { b }\n")
    os.close(write)
    document, findings = read(f"/dev/fd/{end}")
    os.close(end)
    assert not findings
    assert outline(document) == ["a {", "  b", "}"]


SERVICE = "virtual_server 10.0.0.1 80 {\n protocol TCP\n lb_algo rr\n lb_kind NAT\n real_server 10.0.0.5 80 {\n }\n}\n"


def test_findings_about_two_files_name_both_in_the_order_of_reading(tmp_path: Path) -> None:
    path = made(tmp_path, main_conf="include d/*.conf", d__a_conf=SERVICE, d__b_conf=SERVICE, d__c_conf="foo_c\n")
    document, unread = read(path)
    findings = sort_findings((*unread, *compile_document(document).findings), document)
    folder = str(tmp_path) + "/"
    assert [(each.location.file.removeprefix(folder), each.text.replace(folder, "")) for each in findings] == [
        (
            "d/b.conf",
            "the service was given already, in line 1 of d/a.conf; this block only adds its real servers to it",
        ),
        (
            "d/b.conf",
            "the service has the real server 10.0.0.5 already, in line 5 of d/a.conf; this one is left out",
        ),
        ("d/c.conf", "foo_c is not known outside of all blocks and is ignored"),
    ]
    assert all(each.refuses_reload for each in findings)  # the second server may be another one

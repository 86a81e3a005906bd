"""`pylvs keepalived` reads its words as keepalived 2.2.7 does, by getopt_long(3)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pylvs.cli import keepalived
from pylvs.cli.main import EXIT_USAGE, run
from pylvs.daemon import Options, start
from pylvs.daemon.loading import load


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file in which nothing is wrong, and the current directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "k.conf"
    path.write_text("global_defs {\n router_id x\n}\n")
    return str(path)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Options, start.PidOptions]]:
    """The options of daemons that would have been started, in the foreground or not."""
    found: list[tuple[Options, start.PidOptions]] = []
    monkeypatch.setattr(start, "run", lambda *given: found.append(given))
    monkeypatch.setattr(keepalived, "_to_the_background", lambda: None)
    return found


@pytest.mark.parametrize(
    "words", ["-t other", "--config-test other", "-nt other", "-t -n other", "other -t", "-t -- other"]
)
def test_a_word_behind_config_test_is_reported_and_not_written(words: str, file: str, capfd: Any) -> None:
    other = Path("other")
    other.write_text("kept\n")
    assert run(["keepalived", "-f", file, *words.split()]) == 0
    assert other.read_text() == "kept\n"
    out, err = capfd.readouterr()
    assert out.splitlines()[0] == "Unexpected argument(s): other"
    assert err == ""


@pytest.mark.parametrize("words", ["-tlog", "-ntlog", "--config-test=log", "--config-t=log", "-t -tlog"])
def test_an_attached_value_names_the_file_of_the_findings(
    words: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str] = []
    monkeypatch.setattr(keepalived, "_test", lambda file, ids, log: given.append(log))
    assert run(["keepalived", "-f", file, *words.split()]) == 0
    assert given == ["log"]


def test_findings_are_in_the_named_file_or_in_the_standard_error(file: str) -> None:
    Path(file).write_text("nonsense 1\n")
    script = "from pylvs.cli.main import main; main()"
    for word, log, shown in ("-tlog", True, False), ("-t", False, True):
        Path("log").write_text("before\n")
        words = [sys.executable, "-c", script, "keepalived", "-f", file, word]
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 5
        assert ("nonsense" in Path("log").read_text(), "nonsense" in done.stderr) == (log, shown)
        assert Path("log").read_text().startswith("before\n")


@pytest.mark.parametrize(
    "words",
    [
        "-n -M -p here",
        "-nM -p here",
        "-nMcore.%p -p here",
        "-n --core-dump-pattern --pid here",
        "-n --core-dump-pattern=core --pid=here",
        "--dont-f --pi here",
        "-np here one two",
        "one -nphere",
    ],
)
def test_the_next_word_is_no_value_of_an_option_whose_value_is_optional(
    words: str, file: str, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keepalived", "-f", file, *words.split()]) == 0
    ((_, pids),) = started
    assert pids.daemon == str(Path(file).parent / "here")
    others = " ".join(word for word in words.split() if word in ("one", "two"))
    assert capsys.readouterr().out == (f"Unexpected argument(s): {others}\n" if others else "")


def test_snmp_is_switched_on_for_all_mibs(file: str, started: list[Any]) -> None:
    """As keepalived's `set_default_values` does for -x and -A."""
    Path(file).write_text("global_defs {\n snmp_socket unix:/of/the/file\n}\n")
    seen = []
    for words in "-n", "-n -A unix:/a", "-n --snmp", "-nx --snmp-agent-socket=unix:/a":
        assert run(["keepalived", "-f", file, *words.split()]) == 0
        snmp = load(started.pop()[0]).configuration.settings.snmp
        seen.append((snmp.socket, snmp.vrrp, snmp.checker, snmp.rfc_v2, snmp.rfc_v3, snmp.traps))
    on, off = (True, True, True, True, False), (False,) * 5
    assert seen == [("unix:/of/the/file", *off), ("unix:/a", *off), ("unix:/of/the/file", *on), ("unix:/a", *on)]


@pytest.mark.parametrize(
    ("words", "path"),
    [
        ("-g -l", "/dumps/keepalived.log"),
        ("-lg", "/dumps/keepalived.log"),
        ("--log-file -l", "/dumps/keepalived.log"),
        ("--log-file= -l", "/dumps/keepalived.log"),
        ("-gmine.log -l", "/dumps/mine.log"),
        ("-l --log-file=/var/log/mine.log", "/var/log/mine.log"),
    ],
)
def test_a_log_file_without_a_directory_is_beside_the_dumps(
    words: str, path: str, file: str, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/dumps")
    assert run(["keepalived", "-f", file, *words.split()]) == 0
    assert started[0][0].log_format == f"file:{path}|text"


def test_long_options_may_be_abbreviated(file: str, started: list[Any]) -> None:
    words = f"--use={file} --vr --dont-release-i --all- --config-i=one --checkers c --vrrp_ v".split()
    assert run(["keepalived", *words]) == EXIT_USAGE, "--vr is --vrrp or --vrrp_pid"
    words[1] = "--vrrp"
    assert run(["keepalived", *words]) == 0
    ((options, pids),) = started
    assert (options.file, options.vrrp, options.services, options.keep_table) == (file, True, False, True)
    assert (options.all_includes, options.ids) == (True, ("one",))
    assert [Path(each).name for each in (pids.checkers, pids.vrrp)] == ["c", "v"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--conf", "No such option"),
        ("--log-detail=3", "does not take a value"),
        ("--log-d=3", "No such option"),
        ("-nq", "No such option"),
        ("-n-", "No such option"),
        ("--=x", "No such option"),
        ("-f", "requires an argument"),
        ("-nf", "requires an argument"),
        ("--use-f", "requires an argument"),
        ("--use-file= -n", "requires an argument"),
    ],
)
def test_what_keepalived_refuses_is_refused(
    words: str, message: str, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keepalived", *words.split()]) == EXIT_USAGE
    assert message in capsys.readouterr().err
    assert started == []


def test_any_word_may_be_a_value(started: list[Any]) -> None:
    assert run(["keepalived", "-n", "-i", "--", "-i-n", "--config-id", "-t", "-s", ""]) == 0
    assert started[0][0].ids == ("--", "-n", "-t")


def test_words_that_are_no_option_do_not_hide_a_signal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["keepalived", "--sig", "STOP", "other"]) == 0
    assert capsys.readouterr().out == "15\n"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-n", "--umask=zz"], "--umask: 'zz' is no number: write it as 022"),
        (["-n", "-u", "99999999999999999999"], "--umask 99999999999999999999: must be from 0 to 0777"),
        (["-n", "-u", "-1"], "--umask -1: must be from 0 to 0777"),
        (
            ["-n", "-S", "x"],
            "--log-facility: 'x' is no syslog facility: write 0 to 7, local0 to local7, user or daemon",
        ),
    ],
)
def test_a_bad_value_is_reported_with_its_option(
    words: list[str], text: str, file: str, started: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["keepalived", "-f", file, *words]) == EXIT_USAGE
    assert capsys.readouterr().err == f"pylvs: {text}; see pylvs keepalived --help\n"
    assert started == []

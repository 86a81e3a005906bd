"""The words of global_defs for the process of the checks, in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pylvs.config.compile.document import build
from pylvs.config.language.parser import read_text
from pylvs.daemon.host.services import reload_file
from pylvs.daemon.keepalived import dumps, pid_files
from pylvs.model.wanted import GlobalSettings

APPLY = """
import json, os, sys
from pylvs.config.compile.document import build
from pylvs.config.language.parser import read_text
from pylvs.daemon.host.services import HostServices
from pylvs.system.logs import get_logger, set_up
set_up("json")
configuration, findings = build(read_text(sys.argv[1])[0])
assert not findings, findings
HostServices().configure(configuration)
"""
REPORT = f"""{APPLY}
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
mask = os.umask(0)
print(json.dumps({{
    "name": open("/proc/self/comm").read().strip(), "umask": mask, "cpus": sorted(os.sched_getaffinity(0)),
    "locked": int(status["VmLck"].split()[0]) > 0,
}}))
"""
WARNING = "log_level warning"


def process_with(lines: str) -> dict[str, object]:
    """Return what a process is like after it has applied these lines of global_defs."""
    command = [sys.executable, "-c", REPORT, f"global_defs {{\n{lines}\n}}\n"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_without_words_the_process_stays_as_it_was_started() -> None:
    before = process_with("")
    assert before["name"] != "checks"
    assert not before["locked"]


def test_the_words_have_an_effect() -> None:
    assert process_with("process_name checks\numask 027\nchecker_cpu_affinity 0\nchecker_no_swap") == {
        "name": "checks",
        "umask": 0o027,
        "cpus": [0],
        "locked": True,
    }


@pytest.mark.parametrize(
    ("line", "written"),
    [("", ["info", "warning"]), ("log_level debug", ["debug", "info", "warning"]), (WARNING, ["warning"])],
)
def test_log_level_chooses_the_lines_of_the_log(line: str, written: list[str]) -> None:
    code = f"{APPLY}\nfor level in 'debug', 'info', 'warning': getattr(get_logger(), level)('a line')"
    command = [sys.executable, "-c", code, f"global_defs {{\n{line}\n}}\n"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [json.loads(each)["level"] for each in done.stderr.splitlines()] == written


def test_the_processes_have_the_names_of_the_configuration() -> None:
    document, _ = read_text("global_defs {\nprocess_name one\nvrrp_process_name two\n}\n")
    configuration, findings = build(document)
    assert (configuration.settings.process_name, configuration.vrrp.settings.process_name) == ("one", "two")
    assert findings == ()


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("instance two", ["keepalived.data", "keepalived_check.data"]),
        ("instance two\ndata_use_instance", ["keepalived.two.data", "keepalived_check.two.data"]),
        ("net_namespace one\ndata_use_instance", ["keepalived.one.data", "keepalived_check.one.data"]),
        (
            "net_namespace one\ninstance two\ndata_use_instance",
            ["keepalived.one_two.data", "keepalived_check.one_two.data"],
        ),
    ],
)
def test_data_use_instance_names_the_files_of_a_dump(lines: str, names: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines.splitlines()[:-1])
    settings = build(read_text(f"{text}global_defs {{\n{lines.splitlines()[-1]}\n}}\n")[0])[0].settings
    assert [dumps.data_path(each, settings).name for each in ("", "_check")] == names


@pytest.mark.parametrize(
    ("mask", "value"),
    [("022", 0o022), ("0x12", 0x12), ("18", 18), ("IWGRP|IWOTH", 0o022), ("IWGRP | IWOTH", 0o022), ("IRWXO", 0o007)],
)
def test_a_umask_is_read_as_in_keepalived(mask: str, value: int) -> None:
    configuration, findings = build(read_text(f"global_defs {{\numask {mask}\n}}\n")[0])
    assert (configuration.settings.umask, findings) == (value, ())


@pytest.mark.parametrize("mask", ["foo", "9z", "01000", "IWXXX"])
def test_another_umask_is_an_error(mask: str) -> None:
    configuration, (finding,) = build(read_text(f"global_defs {{\numask {mask}\n}}\n")[0])
    assert mask in finding.text
    assert configuration.settings.umask is None


def test_the_reload_file_exists_while_the_configuration_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pid_files, "RUN", tmp_path)
    configuration, _ = build(read_text("global_defs {\nreload_file\n}\n")[0])
    path = tmp_path / "keepalived.reload"
    path.write_text("touched by the program that writes the configuration")
    with reload_file(configuration.settings):
        assert path.read_bytes() == b""
    assert not path.exists()


def test_the_reload_file_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with reload_file(GlobalSettings(reload_file=str(tmp_path / "link"))):
        pass
    assert (tmp_path / "victim").read_text() == "precious"

"""`pylvs stop --unit` and other commands of a unit find the daemon of that unit."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pylvs.cli import common
from pylvs.cli import stop as stop_module
from pylvs.cli.stop import stop
from pylvs.daemon import units
from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.errors import PylvsError

UNIT = "pylvs.service"
VARIABLES = ("PYLVS_UNIT", "MAINPID", "SERVICE_RESULT", "EXIT_CODE")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of state directories, and give this process no unit."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(units, "STATE_ROOT", tmp_path / "daemon")
    monkeypatch.setattr(units, "UNITS", tmp_path / "units")
    return tmp_path / "daemon"


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, bool]]:
    """Replace the stop; return the state directory of each daemon that is stopped, with `keep`."""
    found: list[tuple[Path, bool]] = []
    monkeypatch.setattr(stop_module, "_stop_daemon", lambda state, keep: found.append((state.path, keep)))
    monkeypatch.setattr(stop_module, "_end_leftovers", lambda *_: None)
    monkeypatch.setattr(stop_module, "_reported_job", lambda _: "restart")
    return found


def daemon(directory: Path, process: int) -> Path:
    """Make the state directory of a daemon."""
    directory.mkdir(parents=True)
    (directory / "pid").write_text(f"{process}\n")
    return directory


def run(*words: str, **environment: str) -> str:
    """Run `pylvs stop`; return what it prints."""
    return CliRunner().invoke(stop, words, env=environment, standalone_mode=False, catch_exceptions=False).output


def test_a_running_daemon_is_found_by_its_process(root: Path, stopped: list[tuple[Path, bool]]) -> None:
    daemon(root / "net1", 4710)
    blue = daemon(root / "net4711-blue", 4711)
    run("--unit", UNIT, MAINPID="4711")
    assert stopped == [(blue, True)]


@pytest.mark.parametrize("environment", [{"MAINPID": "4711"}, {}], ids=["running", "ended"])
def test_a_daemon_is_found_by_the_note_that_it_made(
    root: Path,
    tmp_path: Path,
    stopped: list[tuple[Path, bool]],
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon(root / "net1", 4710)
    elsewhere = daemon(tmp_path / "elsewhere", 4711)
    with monkeypatch.context() as at_start:
        at_start.setenv("PYLVS_UNIT", UNIT)
        units.note(tmp_path / "former")
        units.note(elsewhere)
    run("--unit", UNIT, **environment)
    run("--unit", "pylvs-cleanup.service", PYLVS_UNIT=UNIT, **environment)
    assert stopped == [(elsewhere, True)] * 2


def test_a_stop_of_a_process_without_a_directory_does_nothing(
    root: Path, stopped: list[tuple[Path, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon(root / "net1", 4710)
    text = "pylvs.service: process 4711 has no state directory below"
    for variable in {}, {"PYLVS_UNIT": UNIT}:
        assert run("--unit", UNIT, MAINPID="4711", **variable).startswith(text)
        assert run(f"--unit={UNIT}", MAINPID="4711", **variable).startswith(text)
    monkeypatch.setenv("PYLVS_UNIT", UNIT)
    with pytest.raises(PylvsError, match=re.escape(text)):
        run("--keep", MAINPID="4711")
    monkeypatch.setattr(stop_module, "_reported_job", lambda _: "")
    assert run("--unit", UNIT, MAINPID="4711") == ""  # a crash
    assert stopped == []


def test_a_unit_notes_the_daemon_that_it_started_last(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another daemon may run in the former directory by now: the commands of the unit must not end that."""
    monkeypatch.setenv("PYLVS_UNIT", UNIT)
    running = StateDirectory(root / "net1")
    running.acquire()
    units.note(running.path)
    assert units.former(tmp_path / "other") is None
    units.note(tmp_path / "other")
    assert units.directory_of(UNIT) == tmp_path / "other"
    running.release()


def test_without_a_note_it_is_the_daemon_of_this_network_namespace(
    root: Path, stopped: list[tuple[Path, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = daemon(root / "net1", 4710)
    monkeypatch.setattr("pylvs.daemon.state.directory.default_path", lambda instance="": here)
    run("--unit", UNIT)
    assert stopped == [(here, True)]


def test_options_select_another_daemon(
    root: Path, tmp_path: Path, stopped: list[tuple[Path, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYLVS_UNIT", UNIT)
    units.note(daemon(tmp_path / "noted", 4711))
    red, here = daemon(tmp_path / "red", 4712), daemon(root / "net7", 4713)
    monkeypatch.setattr("pylvs.daemon.state.directory.default_path", lambda instance="": red if instance else here)
    monkeypatch.setattr("pylvs.daemon.keepalived.placement.enter_named", lambda name: None)
    run("--state-dir", str(red))
    run("--instance", "red")
    run("--namespace", "green")
    run()
    assert [path for path, _ in stopped] == [red, red, here, tmp_path / "noted"]


def test_a_reload_of_the_unit_finds_its_daemon(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Path | None] = []

    @click.command()
    @common.state_dir
    def reload(state_dir: Path | None) -> None:
        found.append(state_dir)

    blue = daemon(root / "net4711-blue", 4711)
    monkeypatch.setenv("PYLVS_UNIT", UNIT)
    CliRunner().invoke(reload, env={"MAINPID": "4711"}, catch_exceptions=False)
    assert found == [blue]


def test_a_name_of_a_unit_stays_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYLVS_UNIT", "../../etc/x.service")
    units.note(tmp_path)
    assert [path.name for path in (tmp_path / "units").iterdir()] == ["..-..-etc-x.service"]


def test_without_a_unit_nothing_is_noted(tmp_path: Path) -> None:
    units.note(StateDirectory(tmp_path).path)
    assert not (tmp_path / "units").exists()

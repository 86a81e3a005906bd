"""startup_script before everything, shutdown_script after it, each in bounded time."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from pylvs.config.compile.document import compile_document
from pylvs.config.language.parser import read_text
from pylvs.daemon.host.services import HostServices
from pylvs.model.checks import Script
from pylvs.model.wanted import Configuration, GlobalSettings
from pylvs.system.processes import scripts
from tests.waiting import PATIENCE_S


def script_writing(file: Path, text: str) -> Script:
    return Script(("/bin/sh", "-c", f"echo {text} >>{file}"))


def run(first: GlobalSettings, *later: GlobalSettings, begin: bool = True) -> None:
    async def main() -> None:
        services = HostServices()
        services.configure(Configuration(settings=first))
        if begin:
            await services.run_startup_script()
        for settings in later:
            services.configure(Configuration(settings=settings))
        await services.close()

    asyncio.run(main())


def test_the_last_configuration_names_the_shutdown_script(tmp_path: Path) -> None:
    file = tmp_path / "written"
    settings = [
        GlobalSettings(
            startup_script=script_writing(file, f"start{at}"), shutdown_script=script_writing(file, f"stop{at}")
        )
        for at in (1, 2)
    ]
    run(*settings)
    assert file.read_text().split() == ["start1", "stop2"]


def test_the_shutdown_script_runs_only_after_a_startup(tmp_path: Path) -> None:
    file = tmp_path / "written"
    run(GlobalSettings(shutdown_script=script_writing(file, "stop")), begin=False)
    assert not file.exists()


def test_a_script_that_hangs_is_ended(tmp_path: Path) -> None:
    begin = time.monotonic()
    run(GlobalSettings(startup_script=Script(("/bin/sleep", "600")), startup_script_timeout_s=0.2))
    assert time.monotonic() - begin < 600  # for which it would run


def test_the_shutdown_script_runs_although_processes_of_scripts_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "written"
    monkeypatch.setattr(scripts, "END_S", 0.0)
    monkeypatch.setattr(scripts, "LEASE_S", 5)
    parent, stopped = Script(("/bin/sh", "-c", "echo $PPID")), list[int]()

    async def main() -> None:
        services = HostServices()
        services.configure(Configuration(settings=GlobalSettings(shutdown_script=script_writing(file, "stop"))))
        await services.run_startup_script()
        async with asyncio.timeout(PATIENCE_S):
            stopped.append(int((await services._processes.run(parent, 60.0)).output))
            os.kill(stopped[-1], signal.SIGSTOP)
            await services.close()

    asyncio.run(main())
    assert file.read_text().split() == ["stop"]
    assert [process for process in stopped if Path(f"/proc/{process}").exists()] == []


@pytest.mark.parametrize(("more", "timeout_s"), [("", 10.0), ("startup_script_timeout 7\n", 7.0)])
def test_the_keywords(more: str, timeout_s: float) -> None:
    text = f"global_defs {{\nstartup_script '/bin/true a'\nshutdown_script /bin/false\n{more}}}\n"
    document, _ = read_text(text)
    settings = compile_document(document).configuration.settings
    assert settings.startup_script == Script(("/bin/true", "a"))
    assert settings.shutdown_script == Script(("/bin/false",))
    assert (settings.startup_script_timeout_s, settings.shutdown_script_timeout_s) == (timeout_s, 10.0)

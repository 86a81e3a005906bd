"""The command line, PID files and dumps of `pylvs keepalived`, beside the real keepalived with the same file."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pylvs.daemon.state.directory import default_path
from pylvs.model.vrrp import HIDDEN
from tests.interop import keepalived
from tests.interop.namespaces import ip, on_a_link
from tests.waiting import PATIENCE_S, until

REASON = keepalived.why_not()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

PYLVS = [sys.executable, "-c", "from pylvs.cli.main import main; main()", "keepalived"]
NAMES = ("keepalived.data", "keepalived_parent.data", "keepalived.stats", "keepalived.json")
CONFIGURATION = """\
global_defs {
 router_id LVS1
 script_user root
 enable_script_security
 vrrp_higher_prio_send_advert true
}
vrrp_script works {
 script "/bin/true"
 timeout 60
 weight 5
}
vrrp_instance VI_1 {
 interface eth0
 virtual_router_id 51
 priority 100
 authentication {
  auth_type PASS
  auth_pass s3cr3t
 }
 track_script { works }
 track_interface { eth0 weight 3 }
 virtual_ipaddress {
  192.0.2.16/24
  192.0.2.17/24 dev peer0 label peer0:1
 }
 virtual_ipaddress_excluded { 192.0.2.18/32 }
 virtual_routes { 198.51.100.0/24 via 192.0.2.9 dev eth0 }
 virtual_rules { from 198.51.100.0/24 lookup main priority 1000 }
}
vrrp_instance VI_6 {
 interface eth0
 virtual_router_id 52
 priority 90
 virtual_ipaddress { fe80::1:2/64 preferred_lft forever }
}
vrrp_sync_group G {
 group { VI_6 }
}
"""
# Values that differ between two runs, and one that pylvs names in another way: its scripts keep the configured path.
OF_A_RUN = {"last_transition", "advert_sent"}
PATH = {"'/usr/bin/true'": "'/bin/true'"}


PASSWORD = "s3cr3t"


def number_of(name: str) -> int:
    return int(subprocess.run([*PYLVS, f"--signum={name}"], check=True, capture_output=True, text=True).stdout)


@contextmanager
def running(program: list[str], folder: Path) -> Iterator[Path]:
    """Run virtual routers as a master; return the directory of PID files and dumps."""
    folder.mkdir()
    (folder / "file").write_text(CONFIGURATION)
    words = ["-n", "-l", "-P", "-f", "file", "-p", f"{folder}/pid", "-r", f"{folder}/vrrp", "-c", f"{folder}/checks"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*program, *words], cwd=folder, stderr=log, stdout=log, env=os.environ | {"TMPDIR": str(folder)}
        ) as process,
    ):
        try:
            until(lambda: "192.0.2.18" in ip("addr show dev eth0"), (folder / "log").read_text)
            until(lambda: "fe80::1:2" in ip("addr show dev eth0"), (folder / "log").read_text)
            yield folder
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
    assert process.returncode == 0, (folder / "log").read_text()


def has_text(path: Path) -> bool:
    return path.exists() and bool(path.read_text().strip())


def dumped(folder: Path) -> dict[str, str]:
    """Return the files that the signals write."""
    pid, data = int((folder / "pid").read_text()), number_of("DATA")

    def script_has_succeeded() -> bool:
        (folder / "keepalived.data").unlink(missing_ok=True)
        os.kill(pid, data)
        until(partial(has_text, folder / "keepalived.data"), (folder / "log").read_text)
        return "Status = GOOD" in (folder / "keepalived.data").read_text()

    until(script_has_succeeded, (folder / "log").read_text, pause_s=1.0)
    for name, signals in (("keepalived.data", "DATA"), ("keepalived.stats", "STATS"), ("keepalived.json", "JSON")):
        os.kill(pid, number_of(signals))
        until(partial(has_text, folder / name), (folder / "log").read_text)
    assert {oct((folder / name).stat().st_mode & 0o777) for name in NAMES} == {"0o600"}
    return {name: (folder / name).read_text() for name in NAMES}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], dict[str, str]]:
    """Return the files of keepalived and of pylvs."""
    folder = tmp_path_factory.mktemp("signals")
    with on_a_link("ks"):
        with running([keepalived.PROGRAM], folder / "theirs") as theirs:
            first = dumped(theirs)
        with running(PYLVS, folder / "ours") as ours:
            vrrp = int((ours / "vrrp").read_text())
            assert Path(f"/proc/{vrrp}/comm").read_text() == "pylvs-vrrp\n"
            assert (ours / "checks").read_text() == (ours / "pid").read_text()
            second = dumped(ours)
        shutil.rmtree(default_path())
        assert [(ours / name).exists() for name in ("pid", "vrrp", "checks")] == [False] * 3
    return first, second


def without(values: Any) -> Any:
    """Return JSON without what differs between two runs."""
    if isinstance(values, dict):
        return {name: without(value) for name, value in values.items() if name not in OF_A_RUN}
    return [without(each) for each in values] if isinstance(values, list) else PATH.get(values, values)


def test_the_json_is_that_of_keepalived(both: tuple[dict[str, str], dict[str, str]]) -> None:
    theirs, ours = (json.loads(each["keepalived.json"].replace(PASSWORD, HIDDEN)) for each in both)
    assert [list(each["data"]) for each in ours] == [list(each["data"]) for each in theirs]
    assert [list(each["stats"]) for each in ours] == [list(each["stats"]) for each in theirs]
    assert without(ours) == without(theirs)


def test_the_statistics_are_those_of_keepalived(both: tuple[dict[str, str], dict[str, str]]) -> None:
    theirs, ours = (re.sub(r"(Sent): [1-9]\d*", r"\1: N", each["keepalived.stats"]) for each in both)
    assert ours.split("\n") == [*theirs.strip("\n").split("\n"), ""]


@pytest.mark.parametrize("name", ["keepalived.data", "keepalived_parent.data"])
def test_each_line_of_the_data_is_one_of_keepalived(both: tuple[dict[str, str], dict[str, str]], name: str) -> None:
    def lines(text: str) -> list[str]:
        text = text.replace("/usr/bin/true", "/bin/true").replace(PASSWORD, HIDDEN)
        text = re.sub(r"Email .*|Last transition = .*|Virtual IP \(\d\)|Master down timer = .*", "", text)
        return [line for line in text.splitlines() if line.strip(" :")]

    theirs, ours = (lines(each[name]) for each in both)
    assert [line for line in ours if line not in theirs] == []
    assert "------< Global definitions >------" in ours
    assert name != "keepalived.data" or " VRRP Instance = VI_1" in ours


def test_no_dump_has_a_password(both: tuple[dict[str, str], dict[str, str]]) -> None:
    theirs, ours = ("".join(each.values()) for each in both)
    assert PASSWORD in theirs
    assert PASSWORD not in ours


def test_the_signals_have_the_numbers_of_keepalived() -> None:
    for name in ("STOP", "RELOAD", "DATA", "STATS", "STATS_CLEAR", "JSON"):
        theirs = subprocess.run([keepalived.PROGRAM, f"--signum={name}"], capture_output=True, text=True).stdout
        assert f"{number_of(name)}\n" == theirs

"""Members of the monitor_group read the daemon and the table of a director, without root and byte for byte as root."""

from __future__ import annotations

import grp
import json
import shlex
import subprocess
from pathlib import Path

from pylvs.lab.lab import Lab
from tests.lab.conftest import MakeLab
from tests.lab.daemons import Daemon, daemon
from tests.privileges import AS_ORDINARY_USER
from tests.waiting import until

GROUP = grp.getgrall()[-1]  # any
TEXT = """
global_defs {{
    monitor_group {group}
}}
virtual_server {vip} 80 {{
    lb_algo rr
    lb_kind DR
    protocol TCP
    persistence_timeout 60
    real_server 10.66.0.2 80 {{
        weight 3
    }}
    real_server 10.66.0.3 80 {{
    }}
}}
"""
LISTINGS = (
    "-Ln",
    "-Ln --stats",
    "-Ln --rate",
    "-Ln --thresholds",
    "-Ln --persistent-conn",
    "-Lcn",
    "-L --timeout",
    "-Sn",
)


def run(lab: Lab, words: str, groups: str = "") -> tuple[int, str, str]:
    """Run a command in the director as a user of these groups; return exit status, stdout and stderr."""
    user = [f"--groups={groups}" if groups and each == "--clear-groups" else each for each in AS_ORDINARY_USER]
    done = subprocess.run(
        [*lab.host("director").inside(), *user, *shlex.split(words)], capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_a_member_reads_what_root_reads_and_changes_nothing(make_lab: MakeLab, tmp_path: Path) -> None:
    lab = make_lab("dr", 2)
    lab.sh("director", "ipvsadm -C")
    text = TEXT.format(group=GROUP.gr_name, vip=lab.network.vip)
    state = f"--state-dir {tmp_path / 'state'}"
    with daemon(lab, tmp_path, text) as running:
        until(lambda: run(lab, f"pylvs status {state}", str(GROUP.gr_gid))[0] == 0, "the group's socket is there")
        lab.sh("client", f"curl -s http://{lab.network.vip}/ >/dev/null || true")
        for words in LISTINGS:
            until(lambda words=words: is_the_same(lab, f"ipvsadm {words}"), words)  # type: ignore[misc]
        as_json = [json.loads(lab.sh("director", "pylvs show --json"))]
        as_json.append(json.loads(run(lab, "pylvs show --json", str(GROUP.gr_gid))[1]))
        assert as_json[0]["devices"][0].keys() == as_json[1]["devices"][0].keys()
        assert as_json[0].keys() == as_json[1].keys()
        drops = [json.loads(lab.sh("director", "pylvs drops --json"))]
        drops.append(json.loads(run(lab, "pylvs drops --json", str(GROUP.gr_gid))[1]))
        by_root, by_member = ([reason["reason"] for reason in found["reasons"]] for found in drops)
        assert by_root == by_member
        assert drops[0]["devices"][0].keys() == drops[1]["devices"][0].keys()
        for command in ("status --check", "events", "history 10.66.0.2", "metrics"):
            status, out, err = run(lab, f"pylvs {command} {state}", str(GROUP.gr_gid))
            assert (status <= 1, err) == (True, ""), (command, out)
            assert out or command.startswith("history"), command  # the server has no event yet
        edits = running.edition()
        for command in (f"pylvs reload {state}", f"pylvs disable 10.66.0.2 {state}", "ipvsadm -C", "pylvs down"):
            status, _, err = run(lab, command, str(GROUP.gr_gid))
            assert status, command
            assert "Traceback" not in err
        assert running.edition() == edits
        refused(lab, running, state)
    assert run(lab, "ipvsadm -Ln", str(GROUP.gr_gid))[2].startswith("Can't initialize ipvs: Permission denied")


def refused(lab: Lab, running: Daemon, state: str) -> None:
    """Assert that other users get one line, from `ipvsadm` with a hint."""
    for command in ("ipvsadm -Ln --hint", "pylvs show", "pylvs drops", f"pylvs status {state}"):
        status, out, err = run(lab, command)
        assert (status > 0, out) == (True, ""), command
        assert len(err.splitlines()) == (3 if "ipvsadm" in command else 1)
        assert "needs root, or the group pylvs and a running pylvs run" in err
    assert running.process is not None


def is_the_same(lab: Lab, words: str) -> bool:
    """Return whether both listings are equal: counters change every two seconds, and times each second."""
    return lab.sh("director", words).strip() == run(lab, words, str(GROUP.gr_gid))[1].strip()

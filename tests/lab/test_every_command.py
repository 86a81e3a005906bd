"""Every row of docs/reference/who.md: each command, as root and as another user, with and without a daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE_S
from tests.who import ROWS, expected

ROOT = Path(__file__).parents[2]
# Rows that another test runs as root.
ELSEWHERE = {"pylvs lab demo": ("tests/lab/test_demo.py", '[*PYLVS, "lab", "demo", *words]')}


ISOLATED = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def test_each_command_answers_each_user_as_the_page_documents() -> None:
    done = subprocess.run(
        [*ISOLATED, sys.executable, "-m", "tests.lab.every_command"],
        input=json.dumps({"commands": list(ROWS), "not_as_root": list(ELSEWHERE)}),
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        timeout=4 * PATIENCE_S,
        check=True,
    )
    wrong = []
    for state, users in json.loads(done.stdout).items():
        for user, answers in users.items():
            for command, (status, output) in answers.items():
                wanted, pattern = expected(command, user, state)
                bug = "Traceback" in output or "this is a bug" in output
                if bug or status != wanted or not pattern.fullmatch(output):
                    wrong.append(f"{command}, {user}, {state}: {status} {output!r}, not {wanted} {pattern.pattern!r}")
    assert not wrong, "\n".join(wrong)


def test_another_test_runs_the_rows_that_this_one_leaves_out() -> None:
    for command, (path, text) in ELSEWHERE.items():
        assert command in ROWS
        assert text in (ROOT / path).read_text()

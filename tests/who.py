"""The tables of docs/reference/who.md: each command's answers to root and to another user."""

from __future__ import annotations

import re
from pathlib import Path

from pylvs.system.unix_http import NEEDS

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "who.md").read_text()
COLUMNS = (  # of a row, behind the command: user, and where a daemon runs
    ("root", "without"),
    ("root", "elsewhere"),
    ("root", "here"),
    ("other", "without"),
    ("other", "here"),
)
_PLACEHOLDERS = {"SOCKET": r"/\S+", "DIRECTORY": r"/\S+", "NAMESPACE": r"\S+", "PROCESS": r"\d+"}


def _rows(title: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its head."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[1:]]


ANSWERS = {name: (int(status), line) for name, status, line in _rows("Answers")}
ROWS = {words.strip("`"): cells for title in ("ipvsadm", "pylvs") for words, *cells in _rows(title)}


def expected(command: str, user: str, state: str) -> tuple[int, re.Pattern[str]]:
    """Return exit status and the whole output of a command; what `done` prints is not on the page."""
    state = "without" if (user, state) == ("other", "elsewhere") else state
    cell = ROWS[command][COLUMNS.index((user, state))]
    text, number = re.fullmatch(r"(.*?)(?: \((\d+)\))?", cell).groups()  # type: ignore[union-attr]  # it matches any
    status, line = (1, text) if text.startswith("`") else ANSWERS[text]
    if number:
        status = int(number)
    if text == "done":
        return status, re.compile(".*", re.DOTALL)
    if text == "root":
        return status, re.compile(r"[^\n]*run (it )?as root\n")
    if text == "member":
        return status, re.compile(rf"[^\n]*{NEEDS}\n")
    pattern = r"\n".join(re.escape(each.strip("`")) for each in line.split(" ⏎ "))
    for word, value in _PLACEHOLDERS.items():
        pattern = pattern.replace(word, value)
    return status, re.compile(rf"(?:(?:pylvs|PYLVS [A-Z]+): )?{pattern}\n")

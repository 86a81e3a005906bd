"""Documents whose commands are run: which blocks they have, on which host of which lab, and what each must print.

| in a document | meaning |
|---|---|
| ``Lab: `pylvs lab up nat` `` in the text, or `<!-- lab: pylvs lab up nat -->` | the lab of the page |
| a block `console` | lines with a prompt are commands, and the lines below one are its output |
| the prompt `rs1# ` | the command runs on this host; `# ` is the machine that runs the lab |
| a block `sh` | a script for the director, or for the host in `<!-- host: rs1 -->` above it |
| `<!-- file: director /etc/FILE -->` above a block | the block is the content of this file |
| `<!-- exits: 28 -->` above a block | the exit status of its last command |
| `<!-- not run: REASON -->` above a block | the block cannot be run in a lab |
| `…` in an output | anything; alone in its line, any number of lines, as `...` |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
WITHOUT_A_LAB = {"install.md", "web-pictures.md"}  # the first installs packages: tested with the package
MACHINE = ""  # in place of a host: the machine that runs the lab
LAB = re.compile(r"(?:Lab:\s+`|<!-- lab: )(pylvs lab up [^`]*?)(?:`| -->)")
BLOCK = re.compile(
    r"^(?:<!-- (?P<kind>not run|host|file|exits): (?P<value>[^>]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PROMPT = re.compile(r"^(\w*)# (.*)$")
ANY_LINES = ("...", "…")
# Values that differ from run to run.
VARIES = re.compile(
    r"process \d+, .* ms late|since (?:\d+|…) (?:s|min)\b|\d+ sent, \d+ received|\d{4}-\d\d-\d\d [\d:]{8}[+-]\d\d:\d\d"
)


@dataclass(frozen=True, slots=True)
class Step:
    """A command, or a file to write; `printed` is its output on the page, `None` if the page has none."""

    host: str
    command: str
    printed: Sequence[str] = ()
    status: int = 0
    file: str = ""


@dataclass(slots=True)
class Page:
    """A document: the command that makes its lab, its steps in order, and its blocks that are not run, by reason."""

    path: Path
    lab: str = ""
    steps: list[Step] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return the document's name for tests."""
        return str(self.path.relative_to(ROOT)) if self.path.is_relative_to(ROOT) else str(self.path)


def read(path: Path, text: str | None = None) -> Page:
    """Read a document. Raises ValueError for a block that no test can follow."""
    text = path.read_text() if text is None else text
    found = LAB.search(text)
    page = Page(path, found[1] if found else "")
    for block in BLOCK.finditer(text):
        kind, value = block["kind"], block["value"]
        if kind == "file":
            host, _, name = value.partition(" ")
            page.steps.append(Step(host, block["text"], file=name))
        elif block["language"] not in ("console", "sh"):
            if kind:
                raise ValueError(f"{page.name}: {kind}: {value}: no block of commands follows")
        elif kind == "not run":
            page.not_run.append(value)
        elif block["language"] == "sh":
            page.steps.append(Step(value if kind == "host" else "director", block["text"]))
        else:
            steps = list(_commands(page, block["text"]))
            if kind == "exits":
                steps[-1] = Step(steps[-1].host, steps[-1].command, steps[-1].printed, int(value))
            page.steps += steps
    return page


def _commands(page: Page, text: str) -> Iterator[Step]:
    """Yield the commands of a block `console` with their outputs."""
    host = command = None
    printed: list[str] = []
    for line in text.splitlines():
        if found := PROMPT.match(line):
            if command is not None and host is not None:
                yield Step(host, command, printed)
            host, command = found[1], found[2]
            printed = []
        elif command is None:
            raise ValueError(f"{page.name}: a block does not begin with a prompt: {line}")
        elif command.endswith("\\") and not printed:
            command = f"{command}\n{line}"
        else:
            printed.append(line)
    if command is not None and host is not None:
        yield Step(host, command, printed)


def agree(on_page: Sequence[str], now: Sequence[str]) -> bool:
    """Return whether an output is as on the page, except for blanks at line ends, what varies, and what it elides."""
    lines = [_pattern(line) for line in on_page]
    text = "".join(f"{VARIES.sub('', line).rstrip()}\n" for line in now)
    return re.fullmatch("".join(lines), text) is not None


def _pattern(line: str) -> str:
    if line.strip() in ANY_LINES:
        return r"(?:.*\n)*?"
    parts = VARIES.sub("", line).rstrip().split("…")
    if len(parts) == 1:
        return re.escape(parts[0]) + "\n"
    # Columns are as wide as what is elided.
    return ".*".join(" +".join(re.escape(word) for word in re.split(" +", part)) for part in parts) + "\n"

"""Compare `keepalived -t` and `pylvs check` on keepalived's sample configurations, for a page of the reference.

`python -m tests.interop.samples`, as root, prints the page. The samples are those of keepalived's package.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pylvs.cli.configuration import exit_status
from pylvs.config.compile.document import compile_document, sort_findings
from pylvs.config.language.parser import read
from pylvs.config.language.tree import Finding
from tests.interop import keepalived
from tests.interop.namespaces import DEVICES, on_four_devices

FOLDER = Path("/usr/share/doc/keepalived/samples")
PREFIX = "keepalived.conf."

# Samples for which pylvs has another exit status on purpose.
MISSING = "pylvs reports that a check has no program; without it the server is always up"
OTHERWISE = {
    "vrrp": "pylvs reports an address that occurs twice in one virtual router",
    "misc_check": MISSING,
    "misc_check_arg": MISSING,
}

HEAD = f"""\
# keepalived's samples
Compare `pylvs check` with `keepalived -t` (2.2.7) on the {{count}} sample configurations of keepalived's package. Both
run on the same machine, with {", ".join(DEVICES)}, and none of the samples' scripts but `killall`.
Exit status 0 is no finding, 5 findings, 6 insecure scripts. Notes are about the machine alone.

Made by `python -m tests.interop.samples > docs/reference/keepalived-samples.md`, as root.

| sample | keepalived | pylvs | findings of pylvs |
|---|---|---|---|
"""


@dataclass(frozen=True, slots=True)
class Judged:
    """A sample, both exit statuses, and the findings of pylvs."""

    name: str
    theirs: int
    ours: int
    findings: tuple[Finding, ...]

    @property
    def agreed(self) -> bool:
        """Return whether the statuses are the same, or differ for a reason that still holds."""
        return (self.theirs != self.ours) == (self.name in OTHERWISE)


@contextmanager
def one_program() -> Iterator[None]:
    """Provide `killall`, which the samples name, on a machine without it."""
    path = os.environ.get("PATH", "")
    with TemporaryDirectory() as folder:
        program = Path(folder, "killall")
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        Path(folder).chmod(0o755)
        os.environ["PATH"] = f"{folder}:{path}"
        try:
            yield
        finally:
            os.environ["PATH"] = path


def judged() -> list[Judged]:
    """Return every sample in the order of their names."""
    found = []
    with on_four_devices(), one_program():
        for path in sorted(FOLDER.glob(f"{PREFIX}*")):
            document, unread = read(str(path))
            findings = sort_findings((*unread, *compile_document(document).findings), document)
            name = path.name.removeprefix(PREFIX)
            found.append(Judged(name, keepalived.status_of(path), exit_status(findings), findings))
    return found


def page(samples: list[Judged]) -> str:
    """Return the page with its table."""
    return HEAD.format(count=len(samples)) + "".join(f"{_row(each)}\n" for each in samples)


def _row(sample: Judged) -> str:
    words = [f"line {each.location.line}: {each.severity.value}: {each.text}" for each in sample.findings]
    if sample.name in OTHERWISE:
        words.append(f"*{OTHERWISE[sample.name]}; keepalived accepts it*")
    text = "<br>".join(words).replace("|", "\\|")
    return f"| {sample.name} | {sample.theirs} | {sample.ours} | {text} |"


if __name__ == "__main__":
    print(page(judged()), end="")

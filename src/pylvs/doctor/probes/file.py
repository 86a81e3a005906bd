"""The configuration file: how it differs on disk from what the daemon runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from pylvs.doctor.commands import named
from pylvs.doctor.facts import Facts
from pylvs.doctor.finding import HERE, Finding, Layer, Severity
from pylvs.doctor.running import Status, status_of

_LARGE = 1 << 20  # bytes of files that are compared only after they were written
_WRITTEN = "was written after it was read: pylvs reload"


def findings(facts: Facts) -> Iterator[Finding]:
    """Yield how the files differ from the configuration in force; the daemon itself compares them."""
    status = status_of(facts)
    if status is None:
        return
    from pylvs.daemon.api.client import Client  # late: only hosts with a daemon

    yield from of_unreadable(status)
    written = any(each.endswith(_WRITTEN) for each in status["differs"])
    with suppress(OSError):
        if written or _size(status["files"]) < _LARGE:
            yield from of_reload(*Client(facts.state_dir).ask("POST", "/v1/reload", {"dry_run": True}))


def _size(files: Iterable[str]) -> int:
    return sum(os.stat(each).st_size for each in files)


def of_unreadable(status: Status) -> Iterator[Finding]:
    """Yield the files of the configuration that cannot be read any more."""
    for text in status["differs"]:
        if "cannot be read" in text:
            yield Finding(
                id="file_unreadable",
                severity=Severity.WARNING,
                layer=Layer.HOST,
                title=text,
                evidence=f"pylvs status: {text}",
                why="The daemon continues with what it has read. A restart or reboot fails.",
                fix="Restore the file.",
            )


def of_reload(code: int, reply: Any) -> Iterator[Finding]:
    """Yield what a reload would change, or why it would be refused."""
    if code == 200 and isinstance(reply, dict) and reply.get("differences"):
        changes = reply["differences"]
        yield Finding(
            id="file_not_loaded",
            severity=Severity.WARNING,
            layer=Layer.HOST,
            title="the configuration was edited and not reloaded",
            evidence=f"a reload would change: {named(changes, 'setting')}",
            why="pylvs run works by the former file. The change takes effect at the next restart or reboot.",
            fix="Reload it.",
            fix_command="pylvs reload",
            fix_host=HERE,
        )
    elif code == 409 and isinstance(reply, dict):
        yield Finding(
            id="file_refused",
            severity=Severity.WARNING,
            layer=Layer.HOST,
            title="the configuration on disk has errors, and pylvs run works by the former one",
            evidence=str(reply.get("error", "")),
            why="A reload is refused, and a restart or reboot leaves out what is wrong, or fails.",
            fix="Correct the line: pylvs check names it.",
        )

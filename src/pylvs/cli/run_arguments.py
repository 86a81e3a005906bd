"""The command line of `pylvs run`, parsed without click: importing that would delay the first advertisement.

Only what a start needs is parsed here. For help, and for what is wrong, `parse` returns None, and click's command of
`pylvs.cli.daemon` prints it. A test compares both.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pylvs.daemon import DEFAULT_FILE, Options

# late: `pylvs run` imports what its options need; the parser is for other commands, too

VALUES = {  # option -> argument of `start`
    **dict.fromkeys(("-f", "--use-file"), "file"),
    **dict.fromkeys(("-i", "--config-id"), "ids"),
    "--log-format": "log_format",
    "--log-level": "log_level",
    **dict.fromkeys(("-s", "--namespace"), "namespace"),
    **dict.fromkeys(("-p", "--pid"), "pid"),
    **dict.fromkeys(("-c", "--checkers-pid"), "checkers_pid"),
    **dict.fromkeys(("-r", "--vrrp-pid"), "vrrp_pid"),
    **dict.fromkeys(("-S", "--log-facility"), "log_facility"),
    "--state-dir": "state_dir",
}
FLAGS = {
    "--strict": "strict",
    "--no-vrrp": "no_vrrp",
    "--no-checks": "no_checks",
    **dict.fromkeys(("-I", "--dont-release-ipvs"), "keep_table"),
}
FORMATS = ("text", "json")
LEVELS = ("debug", "info", "warning", "error")


def parse(words: Sequence[str]) -> dict[str, Any] | None:
    """Return the arguments of `start`; None for what this function does not understand."""
    given: dict[str, Any] = {}
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.partition("=")
        if word in FLAGS:
            given[FLAGS[word]] = True
            continue
        if not word.startswith("--") and word[:2] in VALUES and len(word) > 2:
            name, equals, value = word[:2], "=", word[2:]
        if name not in VALUES or (equals and len(name) == 2 and word[2:] != value):
            return None
        if not equals:
            if not waiting:
                return None
            value = waiting.pop(0)
        if name in ("-i", "--config-id"):
            given["ids"] = (*given.get("ids", ()), value)
        else:
            given[VALUES[name]] = value
    return _checked(given)


def _checked(given: dict[str, Any]) -> dict[str, Any] | None:
    if given.get("log_format", "text") not in FORMATS or given.get("log_level", "info") not in LEVELS:
        return None
    if "log_facility" in given:
        from pylvs.system.syslog import facility_of  # late: rarely used

        try:
            facility_of(given["log_facility"])
        except ValueError:
            return None
    if "state_dir" in given:
        path = given["state_dir"] = Path(given["state_dir"])
        if os.path.exists(path) and not os.path.isdir(path):  # a path that cannot be searched is no error yet
            return None
    return given


def start(
    *,
    file: str = DEFAULT_FILE,
    ids: tuple[str, ...] = (),
    strict: bool = False,
    no_vrrp: bool = False,
    no_checks: bool = False,
    keep_table: bool = False,
    log_format: str = "text",
    log_level: Any = None,
    namespace: str = "",
    pid: str = "",
    checkers_pid: str = "",
    vrrp_pid: str = "",
    log_facility: str = "",
    state_dir: Path | None = None,
) -> None:
    """Run the daemon with these options, which are valid. Raises PylvsError."""
    from pylvs.daemon import start

    if log_level is not None:
        from pylvs.system import logs

        logs.fix_level(log_level)
    log = log_format
    if log_facility:
        from pylvs.system.syslog import facility_of

        log = f"syslog:{facility_of(log_facility)}:"
    options = Options(file, ids, strict, not no_checks, not no_vrrp, keep_table, state_dir, log, namespace=namespace)
    start.run(options, start.PidOptions(pid, checkers_pid, vrrp_pid))

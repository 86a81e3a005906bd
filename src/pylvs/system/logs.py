"""Logs to stderr: lines of text, or JSON objects for programs; and texts made fit to print.

A process that others wait for writes in the background (`pylvs.system.log_writer`).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from datetime import datetime

    from pylvs.system.log_writer import BackgroundWriter

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]
Write = Callable[[str, dict[str, Any]], None]  # a level and fields, `event` among them
_JOURNAL = "JOURNAL_STREAM"  # device and inode of the stream that systemd's journal reads; the journal adds the time
TIME = "event_time"  # a field: the Unix time of an event that is written later
FLUSH_S = 2.0  # at the end; a reader that takes longer loses the rest
_LEVEL = "PYLVS_LOG_LEVEL"  # of the command line, for the processes that the daemon starts
_RANKS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}  # as in Python's logging
_DEFAULT_LEVEL = "info"
_SEVERITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}  # of syslog, before a line: sd-daemon(3)


class Logger:
    """Log events with fields; all loggers write to the stream of the last `set_up`, at its level and above."""

    def debug(self, event: str, **fields: Any) -> None:
        """Log a detail, such as the output of a check's script."""
        _log("debug", {**fields, "event": event})

    def info(self, event: str, **fields: Any) -> None:
        """Log a normal event."""
        _log("info", {**fields, "event": event})

    def warning(self, event: str, **fields: Any) -> None:
        """Log an event that may need an operator's action."""
        _log("warning", {**fields, "event": event})

    def error(self, event: str, **fields: Any) -> None:
        """Log a failure."""
        _log("error", {**fields, "event": event})

    def exception(self, event: str, **fields: Any) -> None:
        """Log a failure with the traceback of the current exception."""
        _log("error", {**fields, "event": event, "exception": _trace(sys.exc_info()[1])})

    def log(self, level: str, event: str, **fields: Any) -> None:
        """Log at a level by name."""
        _log(level, {**fields, "event": event})


def visible(text: str) -> str:
    """Make a text safe to print on a terminal: replace control and other unprintable characters except tabs."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() or character == "\t" else "\ufffd" for character in text)


def one_line(text: str) -> str:
    """Make a text visible, and replace all white space by single blanks."""
    return visible(" ".join(text.split()))


def get_logger() -> Logger:
    return _LOGGER


def set_up(
    form: str,
    stream: TextIO | None = None,
    environment: Mapping[str, str] | None = None,
    background: bool = False,
    process: str = "healthcheckers",
) -> None:
    """Write all logs in this form, those of libraries that use `logging` included.

    Under systemd's journal each line begins with its level, as sd-daemon(3) asks. With `background` no call waits for
    the reader of the stream; call `flush` before the end of the process. `form` may name several destinations
    (`pylvs.system.syslog`), where `process` distinguishes processes. Raises OSError.
    """
    _background.clear()
    given = os.environ if environment is None else environment
    out = (sys.stderr or io.StringIO()) if stream is None else stream  # None: started with stderr closed
    journal = _is_journal(out, given)
    writers = [_destination(word, out, journal, background, process) for word in form.split("|")]
    write_with(writers[0] if len(writers) == 1 else partial(_to_all, writers))
    _receive_from_libraries()
    _set_level(given.get(_LEVEL, _DEFAULT_LEVEL))


def _to_all(writers: list[Write], level: str, fields: dict[str, Any]) -> None:
    for write in writers:
        write(level, dict(fields))


def _destination(form: str, out: TextIO, journal: bool, background: bool, process: str) -> Write:
    if form not in ("text", "json"):
        from pylvs.system import syslog  # late: other processes do not need it

        if form.startswith(syslog.SYSLOG):
            daemon = syslog.Syslog(form, process)  # it never waits
            return lambda level, fields: daemon.write(_SEVERITIES.get(level, 6), _words(level, fields))
        out, journal = syslog.opened(form, process), False
    line = _json if form == "json" else _words if journal else _line
    put: Callable[[str], None] = partial(_put, out)
    if background:
        from pylvs.system.log_writer import BackgroundWriter  # late: commands do not need it

        _background.append(BackgroundWriter(put))
        put = _background[-1].put
    return lambda level, fields: put(_for_journal(level, line(level, fields)) if journal else line(level, fields))


def fix_level(level: Level) -> None:
    """Log at this level and above, here and in the processes that this one starts, and ignore the configuration's."""
    os.environ[_LEVEL] = level
    _set_level(level)


def use_level(level: str) -> None:
    """Log at the configuration's level and above, "" for the default; without effect after `fix_level`."""
    _set_level(os.environ.get(_LEVEL) or level or _DEFAULT_LEVEL)


def _set_level(level: str) -> None:
    import logging  # late: commands need other functions of this module only

    global _least
    _least = _RANKS.get(level, _RANKS[_DEFAULT_LEVEL])
    logging.getLogger("pylvs").setLevel(min(_least, logging.WARNING))


def _log(level: str, fields: dict[str, Any]) -> None:
    if _RANKS.get(level, _least) >= _least:
        _write(level, fields)


def flush() -> None:
    """Wait until the lines in the background are written, for FLUSH_S at most."""
    for each in _background:
        each.flush(FLUSH_S)


def write_with(write: Write) -> Write:
    """Pass all further logs to this function; return the one that received them before."""
    global _write
    former, _write = _write, write
    return former


def _is_journal(out: TextIO, given: Mapping[str, str]) -> bool:
    try:
        there = os.fstat(out.fileno())
    except (OSError, ValueError):
        return False
    return given.get(_JOURNAL) == f"{there.st_dev}:{there.st_ino}"


def _json(level: str, fields: dict[str, Any]) -> str:
    import json  # late: commands need other functions of this module only
    from datetime import UTC

    trace = {name: fields.pop(name) for name in ("exception",) if name in fields}
    when = _time_of(fields).astimezone(UTC).isoformat().replace("+00:00", "Z")
    fields |= {"level": level, "time": when, **trace}
    return json.dumps(fields, default=str, ensure_ascii=False)


def _line(level: str, fields: dict[str, Any]) -> str:
    """`2026-01-31T12:00:00.123456+01:00 info: server down (service=..., reason=...)`."""
    return f"{_time_of(fields).astimezone().isoformat(timespec='microseconds')} {_words(level, fields)}"


def _time_of(fields: dict[str, Any]) -> datetime:
    """Remove and return the time of the event; now, if it has none."""
    from datetime import datetime  # late: commands need other functions of this module only

    at = fields.pop(TIME, None)
    return datetime.now() if at is None else datetime.fromtimestamp(at)


def _for_journal(level: str, text: str) -> str:
    """Prefix each line: the journal takes a traceback's lines for separate ones."""
    return "\n".join(f"<{_SEVERITIES.get(level, 6)}>{line}" for line in text.split("\n"))


def _words(level: str, fields: dict[str, Any]) -> str:
    hidden = ("event", "exception", TIME)
    more = ", ".join(f"{name}={value}" for name, value in fields.items() if name not in hidden)
    line = one_line(f"{level}: {fields['event']}{f' ({more})' if more else ''}")
    trace = fields.get("exception")
    return f"{line}\n{trace}" if trace else line


def _put(out: TextIO, line: str) -> None:
    """Ignore errors: a closed reader must not end the process."""
    try:
        out.write(line + "\n")
        out.flush()
    except (OSError, ValueError):
        pass


def _trace(error: BaseException | None) -> str:
    import traceback  # late: only failures have one

    return "".join(traceback.format_exception(error)).rstrip("\n") if error else ""


def _receive_from_libraries() -> None:
    """Receive the logs of asyncio and other libraries."""
    import logging  # late: commands need other functions of this module only

    class FromLibraries(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            fields: dict[str, Any] = {"logger": record.name, "event": record.getMessage()}
            if record.exc_info and record.exc_info[1]:
                fields["exception"] = _trace(record.exc_info[1])
            _log(record.levelname.lower(), fields)

    logging.basicConfig(handlers=[FromLibraries()], level=logging.WARNING, force=True)


_LOGGER = Logger()
_background: list[BackgroundWriter] = []
_least = _RANKS[_DEFAULT_LEVEL]
_write: Write = lambda level, fields: _put(sys.stderr or io.StringIO(), _line(level, fields))  # noqa: E731

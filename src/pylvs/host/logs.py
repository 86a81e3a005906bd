"""Logs to stderr: lines for people, or one JSON object each for programs."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

from pylvs.model.printing import one_line

Format = Literal["text", "json"]
Fields = MutableMapping[str, Any]
_JOURNAL = "JOURNAL_STREAM"  # device and inode of the stream that systemd's journal reads; it notes the time itself
_SEVERITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}  # of syslog, before a line: sd-daemon(3)


def set_up(form: Format, stream: TextIO | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Let all logs come out in this form: structlog's, and those that libraries write through `logging`."""
    out = (sys.stderr or io.StringIO()) if stream is None else stream  # there is none where it was closed
    journal = form == "text" and _is_journal(out, os.environ if environment is None else environment)
    steps: list[Any] = [structlog.processors.add_log_level]
    if not journal:
        steps.append(structlog.processors.TimeStamper("iso", utc=form == "json", key="time"))
    steps.append(structlog.processors.format_exc_info)
    if form == "json":
        steps.append(structlog.processors.JSONRenderer(default=str, ensure_ascii=False))
    else:
        steps.append(_journal_line if journal else _line)
    structlog.configure(
        processors=steps,
        logger_factory=lambda *_: _Output(out),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_FromLibraries()], level=logging.WARNING, force=True)


def _is_journal(out: TextIO, given: Mapping[str, str]) -> bool:
    try:
        there = os.fstat(out.fileno())
    except (OSError, ValueError):
        return False
    return given.get(_JOURNAL) == f"{there.st_dev}:{there.st_ino}"


def _line(_logger: object, _method: str, fields: Fields) -> str:
    """`2026-01-31T12:00:00.123456 info: server down (service=..., reason=...)`."""
    return f"{fields.pop('time')} {_words(fields)}"


def _journal_line(_logger: object, _method: str, fields: Fields) -> str:
    return f"<{_SEVERITIES.get(fields['level'], 6)}>{_words(fields)}"


def _words(fields: Fields) -> str:
    level, event, trace = fields.pop("level"), fields.pop("event"), fields.pop("exception", "")
    more = ", ".join(f"{name}={value}" for name, value in fields.items())
    line = one_line(f"{level}: {event}{f' ({more})' if more else ''}")
    return f"{line}\n{trace}" if trace else line


class _Output:
    """Where lines go. That nobody reads them is no reason to end."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def msg(self, line: str) -> None:
        try:
            self._out.write(line + "\n")
            self._out.flush()
        except (OSError, ValueError):
            pass

    debug = info = warning = error = critical = exception = msg


class _FromLibraries(logging.Handler):
    """What aiohttp, asyncio and others have to say."""

    def emit(self, record: logging.LogRecord) -> None:
        trace = record.exc_info if record.exc_info and record.exc_info[0] else None
        log = structlog.get_logger()
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=trace)

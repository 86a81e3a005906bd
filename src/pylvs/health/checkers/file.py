"""FILE_CHECK: a number in a file changes the weight, or with weight 0 means up or down."""

from __future__ import annotations

import os
import re

from pylvs.health.probes import CheckContext, Outcome, Probe, errno_text
from pylvs.model.checks import FileCheck
from pylvs.model.service import MAX_WEIGHT
from pylvs.system.syscalls import SHORTAGES

_NUMBER = re.compile(rb"\s*([+-]?)(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")  # strtol(3) with base 0
_READ_BYTES = 64
_LOWEST, _HIGHEST = -(1 << 31), (1 << 31) - 1


def probe(check: FileCheck, context: CheckContext) -> Probe:
    """Return a probe that reads the file. It blocks the event loop, so the file must be on a local disk.

    As in keepalived, a file that cannot be read counts as 0. If this host lacks descriptors or memory, the outcome is
    inconclusive.
    """

    async def ask() -> Outcome:
        try:
            text = _read(check.path)
        except OSError as error:
            if error.errno in SHORTAGES:
                return Outcome(False, f"{errno_text(error.errno or 0)}: {check.path} is not read", inconclusive=True)
            text, read_error = b"", f"{errno_text(error.errno or 0)}: {check.path} counts as 0"
        else:
            read_error = ""
        number = number_in(text)
        if not _LOWEST <= number <= _HIGHEST:
            return Outcome(False, f"{number} in {check.path} is out of range and is ignored", inconclusive=True)
        outcome = judge_number(number, check, context.weight)
        return Outcome(outcome.ok, read_error, outcome.weight) if read_error else outcome

    return ask


def _read(path: str) -> bytes:
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(number, _READ_BYTES)
    finally:
        os.close(number)


def number_in(text: bytes) -> int:
    """Return the number at the beginning, 0 if there is none."""
    found = _NUMBER.match(text)
    if not found:
        return 0
    digits = found[2].decode()
    octal = digits.startswith("0") and digits[1:].isdigit()
    return int(found[1].decode() + digits, 8 if octal else 0)


def judge_number(number: int, check: FileCheck, configured: int) -> Outcome:
    """Return the outcome of a number for a server of this configured weight."""
    if not check.weight:
        good = (number == 0) is not check.reverse
        return Outcome(good, f"{number} in {check.path}")
    change = number * (-check.weight if check.reverse else check.weight)
    if change <= _LOWEST:
        return Outcome(False, f"{number} in {check.path} is a fault")
    weight = min(max(configured + change, 0), MAX_WEIGHT)
    return Outcome(True, f"{number} in {check.path}: weight {weight}", weight if change else None)

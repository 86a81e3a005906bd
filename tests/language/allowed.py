"""The number of findings that each directory may have. Their sum only falls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.language.reading import ROOT
from tests.language.rules import Finding

ALLOWED = ROOT / "tests" / "language" / "allowed.txt"


def folder_of(path: str) -> str:
    """Return the folder that counts a file's findings: a package of pylvs or of the unit tests, or a top folder."""
    parts = path.split("/")[:-1]
    if parts[:1] == ["bpf"]:
        return "bpf"
    return "/".join(parts[:3] if parts[:2] in (["src", "pylvs"], ["tests", "unit"]) else parts[:2]) or "."


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """Count the findings of each folder."""
    return dict(Counter(folder_of(finding.path) for finding in findings))


def read_allowed(path: Path = ALLOWED) -> dict[str, int]:
    """Read the table: a number and a folder on each line."""
    rows = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return {folder: int(count) for count, folder in rows}


def write_allowed(allowed: Mapping[str, int], path: Path = ALLOWED) -> None:
    """Write the table; a folder that may have none has no row."""
    path.write_text("".join(f"{count} {folder}\n" for folder, count in sorted(allowed.items()) if count))


def exceeded(found: Mapping[str, int], allowed: Mapping[str, int]) -> list[str]:
    """Return a line for each directory with more findings than it may have."""
    wrong = [
        f"{folder}: {count} findings, {allowed[folder]} allowed; run python -m tests.language {folder}"
        for folder, count in sorted(found.items())
        if count > allowed.get(folder, count)
    ]
    total, most = sum(found.values()), sum(allowed.values())
    if total > most:
        new = [folder for folder in sorted(found) if folder not in allowed]
        wrong.append(f"all directories: {total} findings, {most} allowed; without a row: {', '.join(new) or 'none'}")
    return wrong


def lowered(found: Mapping[str, int], allowed: Mapping[str, int]) -> dict[str, int]:
    """Return the new table: what was found, unless that is more than all rows allow together.

    A directory may get a higher number, because files move between directories. The sum never rises.
    """
    if allowed and sum(found.values()) > sum(allowed.values()):
        return {folder: min(count, found.get(folder, 0)) for folder, count in allowed.items()}
    return dict(found)

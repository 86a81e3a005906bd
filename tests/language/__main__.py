"""Print where the language of the tree breaks a rule: `python -m tests.language [PATH...] [--write] [--counts]`."""

from __future__ import annotations

import argparse
import sys

from tests.language.allowed import ALLOWED, counts, exceeded, lowered, read_allowed, write_allowed
from tests.language.reading import ROOT
from tests.language.rules import find


def main(arguments: list[str] | None = None) -> int:
    """Print findings and counts; return 1 if a directory has more than it may have."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.language", description="check names and prose by docs/glossary.md"
    )
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="files and directories below the project's root (default: all)"
    )
    parser.add_argument("--counts", action="store_true", help="print the counts alone")
    parser.add_argument("--rule", help="apply one rule: words, length, docstring, plural, start")
    parser.add_argument("--write", action="store_true", help=f"lower {ALLOWED.relative_to(ROOT)} to what is found")
    options = parser.parse_args(arguments)
    if options.write and (options.paths or options.rule):
        parser.error("--write needs the whole tree: give it neither a path nor a rule")
    findings = list(find(options.paths, options.rule or ""))
    if not options.counts and not options.write:
        for finding in findings:
            print(finding)
    found, allowed = counts(findings), read_allowed()
    for folder, count in sorted(found.items()):
        print(f"{count:5} {folder} (allowed: {allowed.get(folder, 0)})", file=sys.stderr)
    print(f"{len(findings):5} in all", file=sys.stderr)
    if options.write:
        allowed = lowered(found, allowed)
        write_allowed(allowed)
    wrong = [] if options.paths or options.rule else exceeded(found, allowed)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

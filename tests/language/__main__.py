"""Print where the language of the tree breaks a rule: `python -m tests.language [PATH...] [--rule RULE]`."""

from __future__ import annotations

import argparse
import sys

from tests.language.rules import find


def main(arguments: list[str] | None = None) -> int:
    """Print the findings; return 1 if there are any."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.language", description="check names and prose by docs/glossary.md"
    )
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="files and directories below the project's root (default: all)"
    )
    parser.add_argument("--rule", help="apply one rule: words, length, docstring, plural, each, start")
    options = parser.parse_args(arguments)
    findings = list(find(options.paths, options.rule or ""))
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

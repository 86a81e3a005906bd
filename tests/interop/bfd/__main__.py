"""`python -m tests.interop.bfd [NAME]...`: play the cells whose names contain these words, and print the table."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from tests.interop.bfd.cell import CELLS, Result, play

AT_ONCE = 4


def table(results: list[Result]) -> str:
    """Return a Markdown table with the steps of each cell."""
    lines = ["| neighbor | steps |", "|---|---|"]
    for result in results:
        text = f"✗ {result.error.splitlines()[0]}" if result.error else f"✓ {', '.join(result.steps)}"
        lines.append(f"| {result.cell.name} | {text} |")
    return "".join(f"{line}\n" for line in lines)


def main(words: list[str]) -> int:
    """Play the cells, several at once; return the exit status."""
    cells = [cell for cell in CELLS if all(word.lower() in cell.name.lower() for word in words)]
    if not cells:
        print(f"no cell has {' and '.join(words)} in its name", file=sys.stderr)
        return 2
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(play, cells))
    print(table(results), end="")
    failed = [each for each in results if each.error]
    for each in failed:
        print(f"{each.cell.name}: {each.error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

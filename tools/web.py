"""Build the web page's files from web/, by Node.js. They are committed: neither a clone nor a wheel needs it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "web"
BUILT = ROOT / "src/pylvs/web/static"
DIGEST = BUILT / "sources.txt"  # of the sources that the files were built from
_NOT_SOURCES = ("node_modules",)


def digest() -> str:
    """Return the digest of the page's sources."""
    found = hashlib.sha256()
    for path in sorted(SOURCES.rglob("*")):
        name = path.relative_to(SOURCES)
        if path.is_file() and name.parts[0] not in _NOT_SOURCES:
            found.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def main() -> int:
    """Build, and note the digest of the sources."""
    if not shutil.which("npm"):
        print("web: npm is not installed: apt install nodejs npm", file=sys.stderr)
        return 1
    commands = [["npm", "run", "build"]]
    if not (SOURCES / "node_modules").exists():
        commands.insert(0, ["npm", "ci", "--no-audit", "--no-fund"])
    for command in commands:
        if subprocess.run(command, cwd=SOURCES, check=False).returncode:
            print(f"web: {' '.join(command)} failed", file=sys.stderr)
            return 1
    DIGEST.write_text(digest() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

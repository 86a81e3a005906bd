"""README's first commands in a bare root: the demonstration, its last line, and undo, which leaves nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.package.roots import PACKAGES, root_of

# How this machine reaches pip's index; the file of PIP_CERT is copied.
_OF_NETWORK = ("PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "http_proxy", "https_proxy", "no_proxy")
REPOSITORY = Path(__file__).parents[2]
Check = Callable[[object, str], None]
# Without what the other tests' machines have, and with tzdata: every machine has it, and its removal takes
# /etc/localtime along.
_BARE = f"""set -e
apt-get -qq update
apt-get -qq install -y tzdata
apt-get -qq purge -y {PACKAGES}
apt-get -qq autoremove -y --purge
rm -rf /var/lib/apt/lists/* ~root/.cache
"""
_COMMANDS = """
cd /srv/pylvs
(time -p ./dev demo) >/srv/demo 2>&1 || { tail -n 20 /srv/demo; exit 1; }
line=$(grep -B 1 '^real' /srv/demo | head -n 1)
echo "the last line: $line"
eval "$line" 2>&1 | tail -n 3
[ "${PIPESTATUS[0]}" = 0 ]
./dev run pylvs lab down --all
./dev undo
"""


def play(suite: str, folder: Path, check: Check) -> None:
    """Run the commands in one suite. Raises Failed."""
    with root_of(suite, folder) as root:
        root.run(_BARE)
        root.write("/etc/hosts", "127.0.0.1 localhost\n")  # netbase makes it where it is missing, and leaves it
        clone = root.path / "srv/pylvs"
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", REPOSITORY, clone], check=True)
        settings = {name: os.environ[name] for name in _OF_NETWORK if name in os.environ}
        if authorities := os.environ.get("PIP_CERT"):
            settings["PIP_CERT"] = "/srv/authorities.crt"
            shutil.copy(authorities, root.path / "srv/authorities.crt")
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
        before = root.files(with_home=True)
        begin = time.monotonic()
        output = root.run_as_machine(f"bash -c {shlex.quote(exports + _COMMANDS)}")
        print(*(f"    {line}" for line in output.rstrip().splitlines()), sep="\n")
        shown = (root.path / "srv/demo").read_text().splitlines()
        check("downloads" in shown[0], f"the first line: {shown[0]}")
        elapsed = next(line.split()[1] for line in shown if line.startswith("real"))
        print(f"  {suite}: ./dev demo in a bare root took {elapsed} s; all of it {time.monotonic() - begin:.0f} s")
        after = root.files(with_home=True)
        for pair in sorted(set(before.items()) ^ set(after.items())):
            print(f"    differs: {pair}")
        check(before == after, "undo leaves nothing: the list of files is the same")
        check(not (clone / ".venv").exists() and not (clone / ".cache").exists(), "neither .venv nor .cache is left")

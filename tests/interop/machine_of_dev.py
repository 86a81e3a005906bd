"""A machine for `./dev`: a clone with stand-ins for Python, pip, apt-get and dpkg, so that each case is fast.

Every run of `./dev test` tests the real ones.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.privileges import AS_ORDINARY_USER, ORDINARY_USER

REPOSITORY = Path(__file__).parents[2]
TOOLS = [
    "sh",
    "cat",
    "find",
    "sort",
    "tr",
    "xargs",
    "sha256sum",
    "cut",
    "mkdir",
    "rm",
    "mv",
    "cp",
    "chmod",
    "chown",
    "stat",
    "dirname",
    "grep",
    "tail",
    "head",
    "printf",
    "id",
    "flock",
    "touch",
    "env",
    "setpriv",
    "sed",
    "umount",
    "rmdir",
    "uname",
]

# Makes .venv like python3 -m venv, prints what `dev` reads, and logs each call of pip. The real Python runs tools/dev.
PYTHON = """\
#!/bin/sh
version=$(cat "$STAGE/version")
# As hatch_build.py does, which records the digest of what it has compiled.
compile() {
    [ ! -e "$STAGE/build-breaks" ] || exit 1
    mkdir -p src/pylvs/bpf/objects
    find bpf hatch_build.py src/pylvs/bpf/abi.py src/pylvs/bpf/btf.py tools/layout.py tools/elf.py -type f 2>/dev/null |
        LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-64 >src/pylvs/bpf/objects/sources.sha256
}
case "$*" in
    *'-m tools.dev '*) exec "$REAL_PYTHON" "$@" ;;
    *'-m venv '*)
        for folder; do :; done
        mkdir -p "$folder/bin"
        [ ! -e "$STAGE/venv-breaks" ] || { : >"$folder/bin/python"; exit 1; }
        cp "$0" "$folder/bin/python"
        printf '#!/bin/sh\\necho "ran $*"\\n' >"$folder/bin/pylvs"
        chmod 755 "$folder/bin/pylvs"
        for tool in ruff mypy; do cp "$folder/bin/pylvs" "$folder/bin/$tool"; done
        echo "venv of $version" >>"$STAGE/log" ;;
    *ensurepip*) [ ! -e "$STAGE/candidate" ] || exit 1 ;;
    *'import pip'*) shift 2; echo "$1 $version" ;;
    *'-m pip'*)
        echo "pip $*" >>"$STAGE/log"
        [ ! -w "$HOME" ] || mkdir -p "$HOME/.cache/pip/wheels"
        [ ! -e "$STAGE/pip-prints" ] || { cat "$STAGE/pip-prints"; exit 1; }
        case "$*" in *' -e .'*) compile ;; esac ;;
    *'-m tests.gate'*) echo "$*" >>"$STAGE/log" ;;
    hatch_build.py) echo "compiled" >>"$STAGE/log"; compile ;;
esac
"""
APT_GET = """\
#!/bin/sh
echo "apt-get $*" >>"$STAGE/log"
case "$*" in
    *update)
        locks=$(cat "$STAGE/locks")
        [ "$locks" -gt 0 ] || exit 0
        echo $((locks - 1)) >"$STAGE/locks"
        echo "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 1" >&2
        exit 100 ;;
    *' -s '*python3-venv) printf '%s\\n' 'Inst python3 (3.11.2-1 Debian:12)' 'Inst libc6 [2.35] (2.36 Debian:12)' ;;
    *' -s '*) printf '%s\\n' 'Inst nginx (1.22.1-9 Debian:12)' 'Inst libc6 [2.35] (2.36 Debian:12)' ;;
    *--print-uris*) printf '%s\\n' "'http://a/n' nginx.deb 1600000 SHA256:0" "'http://a/l' libc6.deb 900000 SHA256:0" ;;
    *install*python3-venv)
        [ ! -e "$STAGE/apt-prints" ] || { cat "$STAGE/apt-prints"; exit 100; }
        cp "$STAGE/python3" "$STAGE/bin/python3" ;;
    *install*)
        [ ! -e "$STAGE/apt-prints" ] || { cat "$STAGE/apt-prints"; exit 100; }
        if [ -e "$STAGE/apt-hangs" ]; then echo hanging >"$STAGE/pipe"; read -r _ <"$STAGE/never"; fi ;;
esac
"""


# dpkg-query knows nginx and python3 from their installation to their removal, and curl always.
DPKG_QUERY = """\
#!/bin/sh
for name; do :; done
case $name in
    curl) echo installed ;;
    python3) [ -e "$STAGE/purged" ] || [ ! -e "$STAGE/bin/python3" ] || echo installed ;;
    nginx) [ -e "$STAGE/purged" ] || if [ -e "$STAGE/configured" ]; then echo config-files; else echo installed; fi ;;
esac
"""
DPKG = """\
#!/bin/sh
echo "dpkg $*" >>"$STAGE/log"
case "$*" in
    --compare-versions*) exit 1 ;;
    --purge*)
        case "$*" in *python3*) rm "$STAGE/bin/python3" ;; esac
        [ ! -e "$STAGE/dpkg-prints" ] || { cat "$STAGE/dpkg-prints"; exit 2; }
        : >"$STAGE/purged" ;;
esac
"""
# Waits in a test for the reader of the pipe.
SLEEP = """\
#!/bin/sh
echo "sleep $*" >>"$STAGE/log"
[ ! -e "$STAGE/sleep-waits" ] || { rm "$STAGE/sleep-waits"; echo slept >"$STAGE/pipe"; read -r _ <"$STAGE/never"; }
"""

OWN_FOLDERS = """\
/bin/mount --bind "$STAGE/sbin" /usr/sbin
/bin/mount --bind "$STAGE/run" /run
/bin/mount --bind "$STAGE/lib" /var/lib
if [ -e "$STAGE/system-python" ]; then # it may cover the real one, which needs another name then
    : >"$STAGE/real-python"
    /bin/mount --bind "$REAL_PYTHON" "$STAGE/real-python"
    export REAL_PYTHON="$STAGE/real-python"
    /bin/mount --bind "$STAGE/system-python" /usr/bin/python3
fi
exec "$@"
"""
OTHER_USER = ORDINARY_USER


class Clone:
    """A tree with `dev` and little else, on a machine that lacks packages."""

    def __init__(self, stage: Path, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self.policy = stage / "sbin" / "policy-rc.d"  # the clone sees this file as /usr/sbin/policy-rc.d
        self.environment = {
            "PATH": str(stage / "bin"),
            "STAGE": str(stage),
            "HOME": str(stage / "home"),
            "REAL_PYTHON": os.path.realpath(sys.executable),
        }

    def begin(self, *arguments: str, uid: int = 0) -> subprocess.Popen[str]:
        """Start ./dev."""
        become = AS_ORDINARY_USER if uid else ()
        return subprocess.Popen(
            [
                "/usr/bin/unshare",
                "--mount",
                "/bin/sh",
                "-ec",
                OWN_FOLDERS,
                "own",
                *become,
                self.folder / "dev",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=self.environment,
            cwd="/",
        )

    def dev(self, *arguments: str, uid: int = 0) -> tuple[int, str, list[str]]:
        """Run ./dev to its end; return status, output, and the lines of its errors."""
        process = self.begin(*arguments, uid=uid)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err.splitlines()

    def remove_python(self) -> None:
        """Let this be a machine without Python. apt-get can install it."""
        (self.stage / "bin/python3").rename(self.stage / "python3")

    def log(self, word: str) -> list[str]:
        """Return the lines of the stand-ins that contain a word, and delete all lines."""
        lines = (self.stage / "log").read_text().splitlines()
        (self.stage / "log").write_text("")
        return [line for line in lines if word in line]


@contextmanager
def new_clone() -> Iterator[Clone]:
    """Yield a new clone in a directory whose name has a blank."""
    with tempfile.TemporaryDirectory(prefix="pylvs dev.") as name:
        stage = Path(name)
        stage.chmod(0o755)
        for folder in (
            "bin",
            "sbin",
            "run",
            "lib",
            "lib/dpkg",
            "home",
            "clone",
            "clone/bpf",
            "clone/man",
            "clone/src/pylvs/bpf",
        ):
            (stage / folder).mkdir(parents=True, exist_ok=True)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (stage / "bin" / tool).symlink_to(found)
        for tool, text in {
            "python3": PYTHON,
            "apt-get": APT_GET,
            "dpkg": DPKG,
            "dpkg-query": DPKG_QUERY,
            "ldconfig": "#!/bin/sh\n",
            "apt-cache": '#!/bin/sh\nsed "s/^/  Candidate: /" "$STAGE/candidate"\n',
            "sleep": SLEEP,
        }.items():
            path = stage / "bin" / tool
            path.write_text(text)
            path.chmod(0o755)
        for pipe in "pipe", "never":
            os.mkfifo(stage / pipe)
        (stage / "log").write_text("")
        (stage / "log").chmod(0o666)
        (stage / "locks").write_text("0\n")
        (stage / "version").write_text("3 11 7 23.0\n")
        for file in "dev", "pyproject.toml", "constraints.txt", "hatch_build.py":
            shutil.copy(REPOSITORY / file, stage / "clone")
        shutil.copytree(REPOSITORY / "tools" / "dev", stage / "clone" / "tools" / "dev")
        for file in "bpf/a.c", "man/a.8", "src/pylvs/__init__.py", "tools/layout.py":
            (stage / "clone" / file).write_text("")
        yield Clone(stage, stage / "clone")


@contextmanager
def dpkg_in_use(clone: Clone) -> Iterator[None]:
    """Hold dpkg's lock, as apt-get in another terminal does."""
    with (clone.stage / "lib/dpkg/lock-frontend").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield

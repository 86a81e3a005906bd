""".venv: Python's packages, pylvs in editable form, and the compiled objects, each made again only if it must be.

Each step has a stamp in .venv, with a value that changes if the step must be done again.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import hatch_build
from tools.dev import dpkg, record
from tools.dev.record import CACHE, HERE, VENV
from tools.dev.report import Stopped, run_logged, say

RUN, COMPILE, TEST = "run", "compile", "test"  # what .venv is for: pylvs alone, the compiler too, or all of the tests
WRITTEN = (HERE / ".venv", HERE / ".cache", HERE / hatch_build.OBJECTS)
PYTHON = VENV / "bin" / "python"
LOG = CACHE / "pip.log"
PIP = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input")
SETTINGS = ("pyproject.toml", "constraints.txt")
CONSTRAINED = ("-c", "constraints.txt")
_ORIGIN = "import sys; print(sys.base_prefix, *sys.version_info[:3])"
# Where .venv was made, and by which Python: its scripts and the path to src/ are of that place alone.
_IDENTITY = "import pip, sys; print(sys.argv[1], *sys.version_info[:3], pip.__version__)"


@dataclass(frozen=True, slots=True)
class Steps:
    """The values that each step should be stamped with; "" for an environment that must be made anew."""

    venv: str
    tools: str
    with_compiler: bool
    extra: str
    is_built: bool

    @classmethod
    def of(cls, purpose: str) -> Steps:
        """Look at the tree and at .venv."""
        identity = _output(str(PYTHON), _IDENTITY, str(HERE))
        chosen = os.environ.get("PYTHON")
        if chosen and _output(chosen, _ORIGIN) != _output(str(PYTHON), _ORIGIN):
            identity = ""
        tools = tomllib.loads((HERE / "pyproject.toml").read_text())["build-system"]["requires"]
        is_built = hatch_build.is_built(HERE)
        # Objects of unchanged sources are in the clone: then only tests and measurements need the compiler.
        with_compiler = not is_built or purpose != RUN or _stamp("with-compiler").exists()
        if with_compiler:
            tools = [*tools, hatch_build.COMPILER]
        extra = "[test]" if purpose == TEST or _stamp("with-tests").exists() else ""
        return cls(identity, " ".join(tools), with_compiler, extra, is_built)

    def stamps(self) -> dict[str, str]:
        """Return the value of each stamp."""
        project = _digest(*(HERE / name for name in (*SETTINGS, "src/pylvs/__init__.py")), *(HERE / "man").rglob("*"))
        tools = f"{self.tools} {_digest(HERE / 'constraints.txt')}"
        return {"venv": self.venv, "tools": tools, "project": f"{project}{self.extra}"}

    def pending(self) -> list[str]:
        """Return the steps that are to be done, of: venv, tools, project, object."""
        names = [name for name, value in self.stamps().items() if not value or _stamped(name) != value]
        return names if self.is_built else [*names, "object"]


def prepare(purpose: str, python: str) -> None:
    """Let .venv be complete for a purpose. Raises Stopped."""
    if not _may_write():
        _check_that_of_another_user(purpose)
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with dpkg.locked(CACHE / "lock"):
        steps = Steps.of(purpose)
        if steps.pending():
            _do(steps, purpose, python)
            _give_to_owner()


def _do(steps: Steps, purpose: str, python: str) -> None:
    if "venv" in steps.pending():
        _make_venv(python)
        steps = Steps.of(purpose)
    pending = steps.pending()
    # The tools that build are named in one place, pyproject.toml; once here, a changed bpf/ is compiled in seconds.
    if "tools" in pending:
        say(f"installing into .venv: pip {steps.tools}")
        # Python's own pip may be old, and write scripts that import re: half as much again as Python's start.
        _pip("install", *CONSTRAINED, "--upgrade", "pip", *steps.tools.split())
        _write_stamp("venv", _output(str(PYTHON), _IDENTITY, str(HERE)))
        _write_stamp("tools", steps.stamps()["tools"])
        if steps.with_compiler:
            _stamp("with-compiler").touch()
    if steps.extra:
        _stamp("with-tests").touch()
    if "project" in pending:
        say(f"installing into .venv: pylvs{steps.extra} and what it needs")
        _pip("install", *CONSTRAINED, "--no-build-isolation", "-e", f".{steps.extra}")  # which compiles bpf/, too
        _write_stamp("project", steps.stamps()["project"])
    elif "object" in pending:
        _compile()


def _make_venv(python: str) -> None:
    say("making .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    done = subprocess.run([python, "-m", "venv", VENV], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise Stopped(f"{python} -m venv failed: {((done.stdout + done.stderr).strip().splitlines() or [''])[-1]}")
    identity = _output(str(PYTHON), _IDENTITY, str(HERE))
    if not identity:
        raise Stopped(f"{python} -m venv made a .venv without pip; is python3-venv whole?")
    _write_stamp("venv", identity)


def _compile() -> None:
    say("compiling bpf/")
    done = subprocess.run([PYTHON, "hatch_build.py"], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, sep="", end="", file=sys.stderr, flush=True)
        raise Stopped("bpf/ does not compile")


def _pip(*arguments: str) -> None:
    record.note_caches(os.environ.get("PIP_CACHE_DIR") or f"{record.cache_home()}/pip")
    LOG.write_text("")
    command = [*PIP, *arguments, "--progress-bar", "off"]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}  # hatch_build.py must not be compiled into the tree
    if not run_logged(command, LOG, ("Collecting", "  Downloading", "Installing collected"), environment):
        return
    log = LOG.read_text(errors="replace")
    if "Retry(total=0" in log:
        causes = re.findall(r"^WARNING: Retrying.*connection broken by '(.*)': ", log, re.MULTILINE)
        print(*causes[-1:], sep="\n", file=sys.stderr)
        cause = "pip cannot reach its index of packages: check network, proxy and certificates"
    else:
        errors = re.findall(r"^ *(?:[A-Za-z.]*Error|ERROR|error):.*", log, re.MULTILINE)
        print(*errors[-3:], sep="\n", file=sys.stderr)
        cause = f"pip could not finish: {arguments[0]}"
    raise Stopped(f"{cause} (whole log: .cache/dev/pip.log)")


def _output(python: str, text: str, *arguments: str) -> str:
    """Return what a Python prints; "" if it is missing or fails."""
    try:
        done = subprocess.run([python, "-c", text, *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.strip()


def _digest(*paths: Path) -> str:
    """Return a digest of the names and texts of files."""
    found = hashlib.sha256()
    for path in sorted(path for path in paths if path.is_file()):
        found.update(f"{path.relative_to(HERE)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


# --- stamps and users ----------------------------------------------------------------------------------------------


def _stamp(name: str) -> Path:
    return VENV / f"stamp-{name}"


def _stamped(name: str) -> str:
    try:
        return _stamp(name).read_text().strip()
    except OSError:
        return ""


def _write_stamp(name: str, value: str) -> None:
    """Write a stamp: whole or not at all."""
    fresh = _stamp(f"{name}.new")
    fresh.write_text(f"{value}\n")
    fresh.replace(_stamp(name))


def _may_write() -> bool:
    """Return whether this user may write what the steps write."""
    written = [each if each.exists() else each.parent for each in WRITTEN]
    written += [each for each in (CACHE, CACHE / "lock") if each.exists()]
    return all(os.access(each, os.W_OK) for each in written)


def _check_that_of_another_user(purpose: str) -> None:
    """Use what another user has made, if it is up to date. Raises Stopped."""
    if Steps.of(purpose).pending():
        owner = _name_of((HERE / ".cache" if (HERE / ".cache").exists() else HERE).stat().st_uid)
        raise Stopped(
            f"{owner} owns .cache and .venv of this clone, and they are out of date or out of this user's reach; "
            f"run sudo ./dev lint, or sudo chown -R {_name_of(os.geteuid())} '{HERE}'"
        )


def _name_of(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def _give_to_owner() -> None:
    """Give files that root creates in another user's clone to that user, who continues without root."""
    owner = HERE.stat()
    if os.geteuid() != 0 or (owner.st_uid, owner.st_gid) == (0, 0):
        return
    for top in WRITTEN:
        for folder, _, files in os.walk(top):
            for path in (folder, *(os.path.join(folder, name) for name in files)):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def enter() -> None:
    """Let the programs that this process starts find .venv, and keep caches where this user may write."""
    folder = CACHE / f"user-{os.geteuid()}"  # each user has caches of their own: root's could not be replaced
    if not os.access(CACHE, os.W_OK):  # another user's clone, up to date
        folder = Path(os.environ.get("TMPDIR") or "/tmp", f"pylvs-dev-{os.geteuid()}")
    # A start of pylvs takes half as long again without compiled modules; they stand with the other caches.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ |= {
        "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
        "RUFF_CACHE_DIR": f"{folder}/ruff",
        "MYPY_CACHE_DIR": f"{folder}/mypy",
        "HYPOTHESIS_STORAGE_DIRECTORY": f"{folder}/hypothesis",
        "PYTEST_ADDOPTS": f"-o 'cache_dir={folder}/pytest'",
        "PYTHONPYCACHEPREFIX": f"{folder}/pycache",
        # git answers root in a clone that another user owns, too.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": str(HERE),
    }

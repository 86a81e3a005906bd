"""`./dev` on unusual machines: other processes hold apt's locks, runs were killed, a clone was copied.

Python, pip and apt-get are small stand-ins, so that each case is fast. Every run of `./dev test` tests the real ones.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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

# Makes .venv like python3 -m venv, prints what `dev` reads, and logs each call of pip.
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
    *'-m venv '*)
        for folder; do :; done
        mkdir -p "$folder/bin"
        [ ! -e "$STAGE/venv-breaks" ] || { : >"$folder/bin/python"; exit 1; }
        cp "$0" "$folder/bin/python"
        printf '#!/bin/sh\\necho "ran $*"\\n' >"$folder/bin/pylvs"
        chmod 755 "$folder/bin/pylvs"
        for tool in ruff mypy; do cp "$folder/bin/pylvs" "$folder/bin/$tool"; done
        echo "venv of $version" >>"$STAGE/log" ;;
    *tomllib*) echo hatchling ;;
    *ensurepip*) [ ! -e "$STAGE/candidate" ] || exit 1 ;;
    *'import pip'*) shift 2; echo "$1 $version" ;;
    *'-m pip'*)
        echo "pip $*" >>"$STAGE/log"
        [ ! -w "$HOME" ] || mkdir -p "$HOME/.cache/pip/wheels"
        [ ! -e "$STAGE/pip-prints" ] || { cat "$STAGE/pip-prints"; exit 1; }
        case "$*" in *' -e .'*) compile ;; esac ;;
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
    *' -s '*) printf '%s\\n' 'Inst nginx (1.22.1-9 Debian:12)' 'Inst libc6 [2.35] (2.36 Debian:12)' ;;
    *--print-uris*) printf '%s\\n' "'http://a/n' nginx.deb 1600000 SHA256:0" "'http://a/l' libc6.deb 900000 SHA256:0" ;;
    *install*)
        [ ! -e "$STAGE/apt-prints" ] || { cat "$STAGE/apt-prints"; exit 100; }
        if [ -e "$STAGE/apt-hangs" ]; then echo hanging >"$STAGE/pipe"; read -r _ <"$STAGE/never"; fi ;;
esac
"""


# dpkg-query knows nginx from its installation to its removal, and curl always.
DPKG_QUERY = """\
#!/bin/sh
for name; do :; done
case $name in
    curl) echo installed ;;
    nginx) [ -e "$STAGE/purged" ] || echo installed ;;
esac
"""
DPKG = """\
#!/bin/sh
echo "dpkg $*" >>"$STAGE/log"
case "$*" in
    --compare-versions*) exit 1 ;;
    --purge*)
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
exec "$@"
"""
OTHER_USER = 65534


class Clone:
    """A tree with `dev` and little else, on a machine that lacks packages."""

    def __init__(self, stage: Path, folder: Path) -> None:
        self.stage, self.folder = stage, folder
        self.policy = stage / "sbin" / "policy-rc.d"  # the clone sees this file as /usr/sbin/policy-rc.d

    def begin(self, *arguments: str, uid: int = 0) -> subprocess.Popen[str]:
        """Start ./dev."""
        become = ["setpriv", f"--reuid={uid}", "--clear-groups"] if uid else []
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
            env={"PATH": f"{self.stage / 'bin'}", "STAGE": str(self.stage), "HOME": str(self.stage / "home")},
            cwd="/",
        )

    def dev(self, *arguments: str, uid: int = 0) -> tuple[int, str, list[str]]:
        """Run ./dev to its end; return status, output, and the lines of its errors."""
        process = self.begin(*arguments, uid=uid)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err.splitlines()

    def log(self, word: str) -> list[str]:
        """Return the lines of the stand-ins that contain a word, and delete all lines."""
        lines = (self.stage / "log").read_text().splitlines()
        (self.stage / "log").write_text("")
        return [line for line in lines if word in line]


@pytest.fixture
def clone() -> Iterator[Clone]:
    """Return a new clone in a directory whose name has a blank."""
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
        for file in "dev", "pyproject.toml", "constraints.txt":
            shutil.copy(REPOSITORY / file, stage / "clone")
        (stage / "clone" / "tools").mkdir()
        for file in "hatch_build.py", "bpf/a.c", "man/a.8", "src/pylvs/__init__.py", "tools/layout.py":
            (stage / "clone" / file).write_text("")
        yield Clone(stage, stage / "clone")


@pytest.mark.parametrize("former", [None, "#!/bin/sh\nexit 0\n"])
def test_the_next_run_removes_the_policy_of_a_killed_run(clone: Clone, former: str | None) -> None:
    if former:
        clone.policy.write_text(former)
    (clone.stage / "apt-hangs").touch()
    process = clone.begin("demo")
    assert (clone.stage / "pipe").read_text() == "hanging\n"  # a pipe: waits until apt-get installs
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert "exit 101" in clone.policy.read_text()

    (clone.stage / "apt-hangs").unlink()
    assert clone.dev("demo")[:2] == (0, "ran lab demo dr\n")
    assert (clone.policy.read_text() if clone.policy.exists() else None) == former
    assert [path.name for path in clone.policy.parent.iterdir()] == ([clone.policy.name] if former else [])


def test_an_interrupted_run_restores_the_policy(clone: Clone) -> None:
    clone.policy.write_text("#!/bin/sh\nexit 0\n")
    (clone.stage / "apt-hangs").touch()
    process = clone.begin("demo")
    assert (clone.stage / "pipe").read_text() == "hanging\n"
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert clone.policy.read_text() == "#!/bin/sh\nexit 0\n"


def test_dev_waits_for_other_users_of_apt(clone: Clone) -> None:
    (clone.stage / "locks").write_text("2\n")
    status, _, errors = clone.dev("demo")
    assert status == 0
    assert errors.count("dev: waiting for another apt-get") == 1
    calls = clone.log("apt-get")
    assert [call.split()[-1] for call in calls[:3]] == ["update"] * 3
    assert ["-s" in call.split() for call in calls[3:]] == [True, False, False]
    assert "DPkg::Lock::Timeout=600" in calls[-1]
    assert "Acquire::Retries=3" in calls[-1]
    assert "dev: apt: 1 packages, 3 MB to download" in errors


@contextmanager
def dpkg_in_use(clone: Clone) -> Iterator[None]:
    """Hold dpkg's lock, as apt-get in another terminal does."""
    with (clone.stage / "lib/dpkg/lock-frontend").open("w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def test_dev_waits_for_dpkg_and_names_the_process(clone: Clone) -> None:
    (clone.stage / "sleep-waits").touch()
    with dpkg_in_use(clone):
        process = clone.begin("demo")
        assert (clone.stage / "pipe").read_text() == "slept\n"
    (clone.stage / "never").write_text("go on\n")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (0, "ran lab demo dr\n")
    assert err.splitlines().count(f"dev: waiting for process {os.getpid()}, which uses dpkg") == 1


def test_dpkg_in_use_for_long_ends_the_run(clone: Clone) -> None:
    with dpkg_in_use(clone):
        status, out, errors = clone.dev("demo")
    assert (status, out) == (1, "")
    assert errors[-1] == f"dev: process {os.getpid()} has used dpkg for 600 s; try again when it has ended"
    assert not (clone.stage / "lib/pylvs-dev/packages").exists()


@pytest.mark.parametrize(
    ("printed", "cause"),
    [
        (
            "W: Failed to fetch http://a  Temporary failure resolving 'a'\nE: Unable to locate package nginx\n",
            "apt-get cannot reach its archive: check network and proxy",
        ),
        (
            "E: Failed to fetch http://a/n  Could not connect to a:80\n",
            "apt-get cannot reach its archive: check network and proxy",
        ),
        (
            "E: You don't have enough free space in /var/cache/apt/archives/.\n",
            "apt-get could not install: {}: You don't have enough free space in /var/cache/apt/archives/.",
        ),
    ],
)
def test_one_line_says_why_apt_failed(clone: Clone, printed: str, cause: str) -> None:
    (clone.stage / "apt-prints").write_text(printed)
    status, out, errors = clone.dev("demo")
    assert (status, out) == (1, "")
    missing = next(line for line in errors if line.startswith("dev: installing by apt: ")).rpartition(": ")[2]
    assert errors[-1] == f"dev: {cause.format(missing)} (whole log: .cache/dev/apt.log)"
    assert [line for line in errors if not line.startswith("dev: ")] == []


def test_an_old_python_ends_the_run_before_anything_is_installed(clone: Clone) -> None:
    (clone.stage / "candidate").write_text("3.10.6-1~22.04\n")
    status, out, errors = clone.dev("demo")
    assert (status, out) == (1, "")
    assert errors[-1] == "dev: python3 of this system is 3.10.6-1~22.04; pylvs needs 3.11 or newer"
    assert [call for call in clone.log("apt-get") if "install" in call] == []


@pytest.mark.parametrize(
    ("kernel", "machine", "line"),
    [
        ("5.15.0-91-generic", "x86_64", "Linux 5.15.0-91-generic is too old: pylvs needs 6.1 or newer"),
        ("6.0.19", "x86_64", "Linux 6.0.19 is too old: pylvs needs 6.1 or newer"),
        ("6.12.1+deb13", "aarch64", "this machine is aarch64: pylvs needs x86_64"),
    ],
)
def test_an_unsuitable_machine_ends_the_run_at_once(clone: Clone, kernel: str, machine: str, line: str) -> None:
    uname = clone.stage / "bin/uname"
    uname.unlink()
    uname.write_text(f"#!/bin/sh\ncase $1 in -r) echo '{kernel}' ;; -m) echo {machine} ;; esac\n")
    uname.chmod(0o755)
    assert clone.dev("demo") == (1, "", [f"dev: {line}"])
    assert clone.log("") == []


def test_demo_without_root_says_what_to_run(clone: Clone) -> None:
    status, out, errors = clone.dev("demo", uid=OTHER_USER)
    assert (status, out) == (1, "")
    assert errors == ["dev: demo needs root, for network namespaces and BPF: run sudo ./dev demo"]


def test_the_first_line_names_the_download_and_the_last_one_can_be_pasted(clone: Clone) -> None:
    status, _, errors = clone.dev("demo")
    assert status == 0
    assert "downloads" in errors[0]
    assert f"{clone.folder}/dev' undo" in errors[0]  # quoted: the directory's name has a blank


def test_undo_removes_what_dev_has_installed_and_nothing_else(clone: Clone) -> None:
    assert clone.dev("demo")[0] == 0
    record = clone.stage / "lib/pylvs-dev"
    assert (record / "packages").read_text() == "nginx\n"  # libc6 was upgraded: it was there before
    assert (record / "lists").exists()
    (clone.stage / "run/netns").mkdir()  # the demonstration's; the record says that it was not there
    (clone.stage / "run/other").mkdir()
    clone.log("")
    status, _, errors = clone.dev("undo")
    assert (status, errors[0]) == (0, "dev: removing 1 packages: nginx")
    assert clone.log("dpkg") == ["dpkg --purge nginx"]
    assert not record.exists()
    assert not (clone.stage / "run/netns").exists()
    assert (clone.stage / "run/other").exists()
    assert not (clone.folder / ".venv").exists()
    assert not (clone.folder / ".cache").exists()
    assert clone.dev("undo")[0] == 0
    assert clone.log("dpkg") == []


def test_undo_removes_the_caches_that_dev_made(clone: Clone) -> None:
    assert clone.dev("demo")[0] == 0
    assert (clone.stage / "home/.cache/pip/wheels").exists()
    assert clone.dev("undo")[0] == 0
    assert list((clone.stage / "home").iterdir()) == []


def test_undo_keeps_the_caches_that_were_there(clone: Clone) -> None:
    (clone.stage / "home/.cache/pip").mkdir(parents=True)
    assert clone.dev("demo")[0] == 0
    assert clone.dev("undo")[0] == 0
    assert (clone.stage / "home/.cache/pip/wheels").exists()


def test_undo_forgets_nothing_while_another_process_uses_dpkg(clone: Clone) -> None:
    assert clone.dev("demo")[0] == 0
    record = clone.stage / "lib/pylvs-dev"
    with dpkg_in_use(clone):
        status, _, errors = clone.dev("undo")
    assert (status, errors[-1].startswith(f"dev: process {os.getpid()} has used dpkg")) == (1, True)
    assert (record / "packages").read_text() == "nginx\n"
    # Likewise if that process begins behind the look.
    (clone.stage / "dpkg-prints").write_text("dpkg: error: dpkg frontend lock was locked by another process\n")
    status, _, errors = clone.dev("undo")
    assert (status, errors[-1]) == (1, "dev: another process uses dpkg; try again when it has ended")
    assert (record / "packages").read_text() == "nginx\n"
    assert (clone.folder / ".venv").exists()
    (clone.stage / "dpkg-prints").unlink()
    assert clone.dev("undo")[0] == 0
    assert not record.exists()
    assert not (clone.folder / ".venv").exists()


def test_undo_remembers_packages_that_others_need(clone: Clone) -> None:
    assert clone.dev("demo")[0] == 0
    record = clone.stage / "lib/pylvs-dev"
    (clone.stage / "dpkg-prints").write_text("dpkg: dependency problems prevent removal of nginx\n")
    status, _, errors = clone.dev("undo")
    kept = (
        "kept, because other packages need them or dpkg could not remove them: nginx (log: /var/lib/pylvs-dev/undo.log)"
    )
    assert (status, errors[1]) == (0, f"dev: {kept}")
    (clone.stage / "dpkg-prints").unlink()
    status, _, errors = clone.dev("undo")
    assert (status, errors[0]) == (0, "dev: removing 1 packages: nginx")
    assert not record.exists()


def test_undo_keeps_folders_that_are_in_use_or_were_there(clone: Clone) -> None:
    (clone.stage / "run/pylvs").mkdir()
    assert clone.dev("demo")[0] == 0
    (clone.stage / "run/netns").mkdir()
    (clone.stage / "run/netns/of-another-program").touch()
    status, _, errors = clone.dev("undo")
    assert status == 0
    assert "dev: kept /run/netns: it is in use" in errors
    assert (clone.stage / "run/netns/of-another-program").exists()
    assert (clone.stage / "run/pylvs").exists()


def test_undo_waits_for_labs_and_tables(clone: Clone) -> None:
    assert clone.dev("demo")[0] == 0
    lab = clone.stage / "run/pylvs/lab/d1"
    lab.mkdir(parents=True)
    status, _, errors = clone.dev("undo")
    assert (status, (clone.folder / ".venv").exists()) == (1, True)
    assert errors[-1].startswith("dev: labs are up: d1; first run ")
    shutil.rmtree(clone.stage / "run/pylvs")
    pin = clone.stage / "run/pylvs/bpf/net1/services"
    pin.parent.mkdir(parents=True)
    pin.touch()
    status, _, errors = clone.dev("undo")
    assert (status, (clone.folder / ".venv").exists()) == (1, True)
    assert errors[-1].startswith("dev: pylvs has tables on this machine; first run ")


def test_a_copied_clone_makes_its_own_venv(clone: Clone) -> None:
    assert clone.dev("run", "pylvs")[0] == 0
    assert len(clone.log("venv of")) == 1
    assert clone.dev("run", "pylvs")[0] == 0
    assert clone.log("") == []  # no step runs twice
    other = Clone(clone.stage, clone.folder.with_name("the copy"))
    shutil.copytree(clone.folder, other.folder, symlinks=True)
    assert other.dev("run", "pylvs")[0] == 0
    done = other.log("")
    assert done[0].startswith("venv of")
    assert any("install" in line and "-e ." in line for line in done)


def test_another_python_makes_another_venv(clone: Clone) -> None:
    assert clone.dev("run", "pylvs")[0] == 0
    clone.log("")
    (clone.stage / "version").write_text("3 13 1 25.0\n")
    assert clone.dev("run", "pylvs")[0] == 0
    assert clone.log("venv of") == ["venv of 3 13 1 25.0"]


def test_an_interrupted_installation_is_repeated(clone: Clone) -> None:
    (clone.stage / "venv-breaks").touch()
    assert clone.dev("run", "pylvs")[0] == 1
    (clone.stage / "venv-breaks").unlink()
    assert clone.dev("run", "pylvs")[0] == 0
    assert len(clone.log("venv of")) == 1


def test_packages_are_installed_in_the_pinned_versions(clone: Clone) -> None:
    clone.dev("run", "pylvs")
    calls = clone.log("pip")
    assert calls
    assert all("-c constraints.txt" in call for call in calls)


@pytest.mark.parametrize("command", ["lint", "docs", "test"])
def test_a_failed_step_ends_the_run(clone: Clone, command: str) -> None:
    assert clone.dev("lint")[0] == 0
    (clone.stage / "build-breaks").touch()
    (clone.folder / "bpf/a.c").write_text("changed")
    status, out, errors = clone.dev(command)
    assert (status, out) == (1, "")
    assert errors[-1] == "dev: bpf/ does not compile"


def test_without_a_network_the_cause_is_named(clone: Clone) -> None:
    cause = "NewConnectionError('<HTTPSConnection>: Failed to establish a new connection: [Errno 101] unreachable')"
    retry = "WARNING: Retrying (Retry(total={}, connect=None)) after connection broken by '{}': /simple/pip/\n"
    end = "ERROR: Cannot install pip because these package versions have conflicting dependencies.\n"
    (clone.stage / "pip-prints").write_text(retry.format(1, cause) + retry.format(0, cause) + end)
    status, out, errors = clone.dev("run", "pylvs")
    assert (status, out) == (1, "")
    reach = "dev: pip cannot reach its index of packages: check network, proxy and certificates"
    assert errors[-2:] == [cause, f"{reach} (whole log: .cache/dev/pip.log)"]


def test_a_user_without_root_uses_the_environment_of_root(clone: Clone) -> None:
    assert clone.dev("run", "pylvs")[0] == 0
    assert clone.dev("run", "pylvs", uid=OTHER_USER)[:2] == (0, "ran \n")
    (clone.folder / "bpf/a.c").write_text("changed")
    status, out, errors = clone.dev("run", "pylvs", uid=OTHER_USER)
    assert (status, out) == (1, "")
    advice = f"run sudo ./dev lint, or sudo chown -R nobody '{clone.folder}'"
    problem = "root owns .cache and .venv of this clone, and they are out of date or out of this user's reach"
    assert errors == [f"dev: {problem}; {advice}"]


def test_what_root_makes_in_a_clone_belongs_to_the_owner_of_the_clone(clone: Clone) -> None:
    for path in [clone.folder, *clone.folder.rglob("*")]:
        os.chown(path, OTHER_USER, OTHER_USER)
    assert clone.dev("run", "pylvs")[0] == 0
    assert {path.stat().st_uid for path in clone.folder.rglob("*")} == {OTHER_USER}
    (clone.folder / "bpf/a.c").write_text("changed")
    assert clone.dev("run", "pylvs", uid=OTHER_USER)[0] == 0
    assert clone.log("compiled") == ["compiled"]

"""`./dev` on unusual machines: other processes hold apt's locks, runs were killed, a clone was copied."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests import waiting
from tests.interop.machine_of_dev import OTHER_USER, PYTHON, Clone, dpkg_in_use
from tools.dev import packages


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
def test_one_line_names_the_reason_why_apt_failed(clone: Clone, printed: str, cause: str) -> None:
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


def test_python_is_installed_on_a_machine_without_it(clone: Clone) -> None:
    clone.remove_python()
    status, out, errors = clone.dev("demo")
    assert (status, out) == (0, "ran lab demo dr\n")
    assert "this downloads up to 36 MB" in errors[0]
    assert errors[1].startswith("dev: installing by apt: python3 python3-venv (")
    assert [line for line in errors[2:] if "downloads" in line] == []
    calls = clone.log("apt-get")
    first = next(call.split() for call in calls if "install" in call.split())
    assert ("-s" in first, first[-1]) == (True, "python3-venv")
    assert len([call for call in calls if call.endswith("update")]) == 1
    assert (clone.stage / "lib/pylvs-dev/packages").read_text() == "python3\nnginx\n"


def test_without_python_and_network_the_cause_is_named(clone: Clone) -> None:
    clone.remove_python()
    printed = "Err:1 http://a  Temporary failure resolving 'a'\nE: Unable to locate package python3\n"
    (clone.stage / "apt-prints").write_text(printed)
    (clone.stage / "locks").write_text("1\n")
    status, out, errors = clone.dev("run", "pylvs")
    assert (status, out) == (1, "")
    assert errors[1:] == [
        "dev: waiting for another apt-get",
        "dev: apt-get cannot reach its archive: check network and proxy (whole log: .cache/dev/apt.log)",
    ]


def test_without_python_and_root_the_packages_are_named(clone: Clone) -> None:
    clone.remove_python()
    line = "dev: missing: python3 python3-venv; install these packages, or run sudo ./dev once"
    assert clone.dev("run", "pylvs", uid=OTHER_USER) == (1, "", [line])
    assert clone.log("") == []


def test_without_python_there_is_help(clone: Clone) -> None:
    clone.remove_python()
    status, out, errors = clone.dev()
    assert (status, errors) == (0, [])
    for words in ("  demo [dr|nat|tun|ha] ", "  build, wheel ", "  lint "):
        assert words in out
    for word in "moon", "d.mo":
        assert clone.dev(word) == (1, "", [f"dev: no command {word}; ./dev help lists them"])
    assert clone.log("") == []


def test_the_help_of_a_command_installs_nothing(clone: Clone) -> None:
    module = clone.folder / "tools/deb.py"
    module.write_text("import sys\nprint('usage of deb', *sys.argv[1:])\n")
    for word in "-h", "--help":
        assert clone.dev("deb", word) == (0, "usage of deb --help\n", [])
    assert clone.log("") == []
    module.write_text("import not_installed\n")
    clone.dev("deb", "--help")
    assert clone.log("apt-get") != []


def test_run_ends_with_the_status_of_its_command(clone: Clone) -> None:
    assert clone.dev("run", "sh", "-c", "exit 7")[0] == 7
    assert clone.dev("run", "sh", "-c", "kill -PIPE $$; echo ignored")[:2] == (-signal.SIGPIPE, "")
    assert clone.dev("run", "no-such-program") == (127, "", ["dev: no-such-program: No such file or directory"])
    assert clone.dev("run", "/usr") == (126, "", ["dev: /usr: Permission denied"])
    assert clone.dev("run") == (0, "", [])


def test_the_callers_settings_of_python_do_not_count(clone: Clone) -> None:
    clone.environment |= {"PYTHONHOME": "/nonexistent", "PYTHONSAFEPATH": "1"}
    assert clone.dev("run", "sh", "-c", "exit 7")[0] == 7


def test_a_folder_that_cannot_be_made_is_one_line(clone: Clone) -> None:
    (clone.folder / ".cache").write_text("a file")
    assert clone.dev("run", "true") == (1, "", [f"dev: {clone.folder}/.cache/dev: Not a directory"])


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


def test_demo_without_root_prints_what_to_run(clone: Clone) -> None:
    status, out, errors = clone.dev("demo", uid=OTHER_USER)
    assert (status, out) == (1, "")
    assert errors == ["dev: demo needs root, for network namespaces and BPF: run sudo ./dev demo"]


def test_the_first_line_names_the_download_and_the_last_one_can_be_pasted(clone: Clone) -> None:
    status, _, errors = clone.dev("demo")
    assert status == 0
    assert "downloads" in errors[0]
    assert f"{clone.folder}/dev' undo" in errors[0]  # quoted: the directory's name has a blank


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


@pytest.mark.parametrize(("chosen", "version"), [(False, "3 11 2 23.0"), (True, "3 11 7 23.0")])
def test_the_systems_python_comes_before_others(clone: Clone, chosen: bool, version: str) -> None:
    (clone.stage / "version").write_text("3 11 7 23.0\n")
    own = clone.stage / "system-python"
    own.write_text(PYTHON.replace('$(cat "$STAGE/version")', "'3 11 2 23.0'"))
    own.chmod(0o755)
    clone.environment["PATH"] += ":/usr/bin"
    if chosen:
        clone.environment["PYTHON"] = f"{clone.stage}/bin/python3"  # whose directory's name has a blank
    assert clone.dev("run", "pylvs")[0] == 0
    assert clone.log("venv of") == [f"venv of {version}"]


def test_a_python_that_does_not_exist_is_named_and_nothing_is_installed(clone: Clone) -> None:
    clone.environment["PYTHON"] = "python9"
    line = "dev: python9 is not found; pylvs needs Python 3.11 or newer, with venv"
    assert clone.dev("run", "pylvs") == (1, "", [line])
    assert clone.log("") == []


def test_an_interrupted_installation_is_repeated(clone: Clone) -> None:
    (clone.stage / "venv-breaks").touch()
    assert clone.dev("run", "pylvs")[0] == 1
    (clone.stage / "venv-breaks").unlink()
    assert clone.dev("run", "pylvs")[0] == 0
    assert len(clone.log("venv of")) == 1


def test_a_folder_that_a_removed_package_left_is_not_the_package(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    pairs = [(f"{tmp_path}/{name}", f"package-of-{name}") for name in ("folder", "file", "nothing")]
    assert packages.missing([("sh", "dash"), *pairs]) == ["package-of-folder", "package-of-nothing"]
    for needed in packages.TEST, packages.DEB, packages.ROOTS:
        assert [path for path, _ in needed if path.startswith("/") and Path(path).is_dir()] == []


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


def test_lint_has_shellcheck_where_it_is_installed(clone: Clone) -> None:
    assert clone.dev("lint")[0] == 0
    program = clone.stage / "bin/shellcheck"
    program.write_text('#!/bin/sh\necho "shellcheck $*" >>"$STAGE/log"\nexit 1\n')
    program.chmod(0o755)
    status, _, errors = clone.dev("lint")
    assert (status, errors[-1]) == (1, "dev: failed: shellcheck")
    assert clone.log("shellcheck") == ["shellcheck dev"]


def test_test_all_hands_its_arguments_to_the_gate(clone: Clone) -> None:
    assert clone.dev("test-all", "--only", "lint,real clock busy 1")[0] == 0
    assert clone.log("tests.gate") == ["-m tests.gate --everything --only lint,real clock busy 1"]


def test_python_is_installed_while_apt_installs(clone: Clone) -> None:
    (clone.stage / "apt-hangs").touch()
    process = clone.begin("test")
    assert (clone.stage / "pipe").read_text() == "hanging\n"
    waiting.until(lambda: "-e .[test]" in (clone.stage / "log").read_text())
    (clone.stage / "never").write_text("go on\n")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert errors.splitlines()[-1] == "dev: apt: 1 packages, 3 MB to download"
    assert not clone.policy.exists()
    (clone.stage / "apt-hangs").unlink()
    clone.log("")
    (clone.folder / "bpf/a.c").write_text("changed")
    (clone.stage / "build-breaks").touch()
    status, _, lines = clone.dev("test")  # the stand-ins installed nothing: apt-get runs again
    assert (status, lines[-1]) == (1, "dev: bpf/ does not compile")
    assert [call for call in clone.log("apt-get") if "install" in call.split()] != []


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

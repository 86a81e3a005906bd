"""The unit files: systemd accepts them, and rates how restricted they are. The Debian package agrees with the wheel."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pylvs.cli.group import COMMANDS
from pylvs.daemon.loading import Refused
from pylvs.ipvsadm.options import OPTIONS
from tests.privileges import assert_unprivileged
from tools import completion, manual, sbom, wheel
from tools.source import commit_time, version

UNITS = {
    "pylvs.service": 6.0,
    "pylvs-watch.service": 4.0,
    "pylvs-restore.service": 4.0,
    "pylvs-cleanup.service": 4.0,
}  # and the highest exposure level
WITHOUT = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")


def analyze(*words: str, units: Path | None = None, around: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, by the command `around` it; `units` is the only folder whose units it reads."""
    environment = {"PATH": "/usr/bin:/bin"} | ({"SYSTEMD_UNIT_PATH": str(units)} if units else {})
    command = [*around, "systemd-analyze", "--no-pager", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.fixture
def units(repository: Path, tmp_path: Path) -> Path:
    """Return a folder with our units and what they require: those of the machine may have errors of their own."""
    for unit in UNITS:
        text = re.sub(r"=/usr/(sbin|lib/pylvs)/[a-z-]+", "=/bin/true", (repository / "packaging" / unit).read_text())
        (tmp_path / unit).write_text(text)  # verify looks for the program
    (tmp_path / "sysinit.target").write_text("[Unit]\n")
    return tmp_path


@pytest.mark.may_be_skipped
@WITHOUT
@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_unit(unit: str, units: Path) -> None:
    installed = units / unit
    done = analyze("verify", "--man=no", "--recursive-errors=one", str(installed), units=units)
    assert (done.returncode, done.stderr) == (0, "")
    installed.write_text(f"{installed.read_text()}ProtectEverything=yes\n")
    assert "ProtectEverything" in analyze("verify", "--man=no", str(installed), units=units).stderr, "it finds errors"


@pytest.mark.may_be_skipped
@WITHOUT
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount another folder of units")
def test_units_of_the_machine_are_not_verified(units: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    machine = tmp_path_factory.mktemp("units")
    (machine / "multi-user.target.wants").mkdir()
    (machine / "multi-user.target.wants" / "unsafe.service").symlink_to("../unsafe.service")
    (machine / "unsafe.service").write_text("[Service]\nExecStart=/bin/true\nKillMode=none\n")
    mounted = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/systemd/system && exec "$@"', str(machine)]
    words = ("verify", "--man=no", "--recursive-errors=one", str(units / "pylvs.service"))
    assert "unsafe.service" in analyze(*words, around=mounted).stderr, "the machine's units have this error"
    assert analyze(*words, around=mounted, units=units).stderr == ""


@pytest.mark.may_be_skipped
@WITHOUT
@pytest.mark.parametrize(("unit", "most"), UNITS.items())
def test_the_unit_is_restricted(unit: str, most: float, repository: Path) -> None:
    assert_rating(repository / "packaging" / unit, most, repository)


@pytest.mark.may_be_skipped
@WITHOUT
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root has privileges to give up")
def test_the_process_of_the_checks_is_restricted_further(repository: Path, tmp_path: Path) -> None:
    """It has the unit's restrictions, and what `confine` adds has settings of systemd with the same effect."""
    code = "from pylvs.system.sandbox import confine; confine(64, 1 << 30); print(flush=True); input()"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        assert_unprivileged(process.pid)
        process.communicate(b"\n")
    unit = tmp_path / "checks.service"
    same = "User=pylvs\nCapabilityBoundingSet=\nNoNewPrivileges=yes\n"
    unit.write_text(f"{(repository / 'packaging/pylvs.service').read_text()}[Service]\n{same}")
    assert_rating(unit, 4.0, repository)


def assert_rating(unit: Path, most: float, repository: Path) -> None:
    done = analyze("security", "--offline=yes", str(unit))
    levels = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert len(levels) == 1, done.stdout + done.stderr
    assert float(levels[0]) <= most
    page = (repository / "docs/reference/run.md").read_text()
    assert re.search(rf"\b{re.escape(levels[0])}\b", page), "the page has the rating"


def test_a_refused_configuration_is_not_started_again(repository: Path) -> None:
    unit = (repository / "packaging/pylvs.service").read_text().splitlines()
    assert f"RestartPreventExitStatus={Refused.exit_status}" in unit


def test_the_unit_lets_scripts_use_sudo(repository: Path) -> None:
    """sudo and PAM change the user, and report that to the kernel's audit; they fail if they cannot."""
    text = (repository / "packaging" / "pylvs.service").read_text()
    bounds = " ".join(re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)).split()
    assert {"CAP_SETUID", "CAP_SETGID", "CAP_AUDIT_WRITE"} <= set(bounds)
    assert not re.search(r"^NoNewPrivileges=", text, re.MULTILINE)


def project(repository: Path) -> dict[str, Any]:
    return dict(tomllib.loads((repository / "pyproject.toml").read_text())["project"])


def test_the_package_depends_on_the_versions_that_the_wheel_needs(repository: Path) -> None:
    control = (repository / "debian/control").read_text()
    needed, _, suggested = control.partition("\nPackage: ")[2].partition("\nSuggests:")
    for text, requirements in (
        (needed, project(repository)["dependencies"]),
        (suggested, [each for name in ("dbus", "top") for each in project(repository)["optional-dependencies"][name]]),
    ):
        packages = dict(re.findall(r"^ python3-([a-z0-9-]+) \(>= ([0-9.]+)\),$", text, re.MULTILINE))
        assert packages == dict(each.split(">=") for each in requirements)
    assert f"python3 (>= {project(repository)['requires-python'].removeprefix('>=')})" in control


def test_the_package_has_the_programs_of_the_wheel(repository: Path) -> None:
    texts = {path.name: path.read_text() for path in (repository / "packaging/bin").iterdir()}
    for name, entry in project(repository)["scripts"].items():
        module, function = entry.split(":")
        assert texts.pop(name) == f"#!/usr/bin/python3 -I\nfrom {module} import {function}\n\n{function}()\n"
    assert not texts


def test_the_units_find_the_programs_of_a_wheel(repository: Path, tmp_path: Path) -> None:
    """By the commands of the page, which link the programs and change the units' paths."""
    page = (repository / "docs/how-to/install.md").read_text()
    (copied,) = re.findall(r"^# cp (packaging/\S+) /etc/systemd/system/$", page, re.MULTILINE)
    (change,) = re.findall(r"^# sed -i -E '(.+)' /etc/systemd/system/pylvs\*\.service$", page, re.MULTILINE)
    (links,) = re.findall(r"^# ln -s (.*) (/usr/local/sbin)/$", page, re.MULTILINE)
    linked = [Path(each).name for each in links[0].split()]
    units = sorted(repository.glob(copied))
    assert {each.name for each in units} == set(UNITS)
    for unit in units:
        changed = tmp_path / unit.name
        shutil.copy(unit, changed)
        subprocess.run(["sed", "-i", "-E", change, changed], check=True)
        programs = re.findall(r"^Exec\w+=(\S+)", changed.read_text(), re.MULTILINE)
        assert programs
        for program in map(Path, programs):
            assert str(program.parent) == links[1]
            assert program.name in project(repository)["scripts"]
            assert any(program.match(each) for each in linked), program


def test_what_a_wheel_leaves_on_the_machine_is_removed(repository: Path) -> None:
    """Each target of a command that installs the wheel, its units, policy and user is in a command that removes it."""
    page = (repository / "docs/how-to/install.md").read_text()
    installs, removes = (page.partition(f"\n## {each}\n")[2].partition("\n## ")[0] for each in ("Wheel", "Remove"))
    targets = [
        re.sub(r"/$", "", line.split()[-1])
        for line in re.findall(r"^# (?:cp|ln|useradd|python3 -m venv) .*$", installs, re.MULTILINE)
    ]
    assert len(targets) == 5
    commands = "\n".join(re.findall(r"^# (?:rm|userdel) .*$", removes, re.MULTILINE))
    for target in targets:
        assert re.search(rf"{re.escape(target)}\b", commands), target


def test_the_page_has_the_size_of_the_objects(repository: Path) -> None:
    (size,) = re.findall(r"compiled objects in git, ([0-9.]+) MB", (repository / "docs/architecture.md").read_text())
    octets = sum(path.stat().st_size for path in (repository / "src/pylvs/bpf/objects").glob("*.o"))
    assert float(size) == pytest.approx(octets / 1e6, rel=0.1)


def test_the_package_has_the_version_of_the_program(repository: Path) -> None:
    assert (repository / "debian/changelog").read_text().startswith(f"pylvs ({version()}) ")


@pytest.mark.parametrize("script", ["preinst", "postinst", "prerm", "postrm"])
def test_maintainer_scripts_are_posix_shell(script: str, repository: Path) -> None:
    path = repository / f"debian/pylvs.{script}"
    assert "#DEBHELPER#" in path.read_text()
    assert subprocess.run(["sh", "-n", path], capture_output=True, text=True).stderr == ""


def test_each_command_has_a_page_with_each_of_its_options(tmp_path: Path) -> None:
    pages = {path.stem: path.read_text() for path in manual.write(tmp_path)}
    assert {f"pylvs-{name}" for name in COMMANDS} <= set(pages)
    assert r".B \-\-for" in pages["pylvs-vrrp-yield"]
    assert ".B pylvs vrrp stop" in pages["pylvs"]
    for name, text in pages.items():
        if name.startswith("pylvs-"):
            assert f".SH NAME\n{name.replace('-', chr(92) + '-')} " in text
            assert ".SH OPTIONS" in text


@pytest.mark.may_be_skipped
@pytest.mark.skipif(shutil.which("man") is None, reason="no man here")
def test_pages_have_no_error_of_troff(tmp_path: Path) -> None:
    manual.write(tmp_path)
    for name in ("pylvs.8", "pylvs-vrrp-yield.8", "pylvs-run.8", "pylvs-lab.8"):
        done = subprocess.run(["man", "--warnings", "-l", tmp_path / name], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), name


def test_each_option_of_ipvsadm_is_on_its_page_and_is_completed(repository: Path) -> None:
    page = (repository / "man/ipvsadm.8").read_text()
    scripts = {shell: completion.of_ipvsadm(shell) for shell in completion.FILES}
    words = set(re.findall(r"(?<![\w-])--?[\w-]+", re.sub(r"\\-", "-", re.sub(r"\\f[A-Z]", " ", page))))
    expected = {f"--{each.long}" for each in OPTIONS} | {f"-{each.short}" for each in OPTIONS if each.short}
    assert expected <= words
    assert {each for each in words if each.startswith("--")} <= expected
    for option in OPTIONS:
        assert f"-l {option.long} " in scripts["fish"]
        assert f"--{option.long}[" in scripts["zsh"]
        assert f"--{option.long}" in scripts["bash"]


def test_bash_completes_values_and_options(tmp_path: Path) -> None:
    completion.write(tmp_path)
    script = tmp_path / "bash-completion/completions/ipvsadm"
    complete = "COMP_WORDS=(ipvsadm $1 $2) COMP_CWORD=2; _ipvsadm; echo ${COMPREPLY[*]}"
    for words, found in ((("-s", "wl"), "wlc"), (("-A", "--sch"), "--scheduler --sched-flags"), (("-t", ""), "")):
        command = ["bash", "-c", f". {script}; {complete}", "bash", *words]
        assert subprocess.run(command, capture_output=True, text=True).stdout == f"{found}\n"


@pytest.mark.parametrize(("program", "option"), [("ipvsadm-save", "-n"), ("ipvsadm-restore", "--hint")])
def test_save_and_restore_have_completions(program: str, option: str, tmp_path: Path) -> None:
    completion.write(tmp_path)
    command = ["bash", "-c", f". {tmp_path}/bash-completion/completions/{program}; complete -p {program}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"complete -o default -W '{option}' {program}\n", "")
    for shell in "zsh", "fish":
        text = (tmp_path / completion.FILES[shell].format(program)).read_text()
        assert program in text
        assert option.lstrip("-") in text
        assert re.search(r"[\['][a-z]+ [a-z]+", text), "the option is explained"


def test_all_programs_have_completions(repository: Path, tmp_path: Path) -> None:
    names = {str(path.relative_to(tmp_path)) for path in completion.write(tmp_path)}
    assert names == {
        pattern.format(name) for pattern in completion.FILES.values() for name in project(repository)["scripts"]
    }


@pytest.fixture
def program(repository: Path, tmp_path: Path) -> Path:
    """Return `pylvs` as a program of the tree."""
    path = tmp_path / "pylvs"
    path.write_text(
        f"#!/bin/sh\nexec env PYTHONPATH={shlex.quote(f'{repository}/src')} {shlex.quote(sys.executable)} -c"
        ' "from pylvs.cli.main import main; main()" "$@"\n'
    )
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("words", "found"),
    [("pylvs st", "stop status"), ("pylvs vrrp w", "why"), ("pylvs attach --mode n", "native"), ("pylvs no-such-", "")],
)
def test_bash_asks_pylvs_for_completions(program: Path, words: str, found: str) -> None:
    script = f"{completion.of_pylvs('bash')}\n_pylvs_completion {program}; echo ${{COMPREPLY[*]}}"
    setting = f"COMP_WORDS=({words}); COMP_CWORD={words.count(' ')}"
    done = subprocess.run(["bash", "-c", f"{setting}\n{script}"], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (f"{found}\n", "")


@pytest.mark.parametrize(("shell", "word"), [("zsh", "1"), ("fish", "st")])
def test_other_shells_ask_pylvs_for_completions(program: Path, shell: str, word: str) -> None:
    """Their scripts pass the same variables, whose reply names command and meaning."""
    script = completion.of_pylvs(shell)
    asking = {"COMP_WORDS": "pylvs st", "COMP_CWORD": word, "_PYLVS_COMPLETE": f"{shell}_complete"}
    assert all(each in script for each in ("COMP_WORDS=", "COMP_CWORD=", asking["_PYLVS_COMPLETE"]))
    done = subprocess.run([program], env=os.environ | asking, capture_output=True, text=True)
    assert {"stop", "status"} <= set(re.split(r"[\s,]+", done.stdout))
    assert "Show the state of services" in done.stdout


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["h11>=0.14", "Typing_Extensions>=4; python_version < '3.13'"], ["h11"]),
        (["attrs >= 17", "brotli; extra == 'speedups'", "yarl<2,>=1.17"], ["attrs", "yarl"]),
    ],
)
def test_a_bill_leaves_out_what_is_not_installed(lines: list[str], names: list[str]) -> None:
    assert sbom._requirements(lines) == names


def test_the_source_archive_makes_the_same_wheel(tmp_path: Path) -> None:
    archive, built = wheel.build_sdist(tmp_path), wheel.build(tmp_path)
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    (tree,) = (tmp_path / "unpacked").iterdir()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")]
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(commit_time())}
    subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True)
    assert (tmp_path / "again" / built.name).read_bytes() == built.read_bytes()

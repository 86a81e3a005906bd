"""`./dev undo` removes what `./dev` has brought to a machine, and nothing else."""

from __future__ import annotations

import os
import shutil

from tests.interop.machine_of_dev import Clone, dpkg_in_use


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


def test_undo_removes_the_python_that_runs_it(clone: Clone) -> None:
    clone.remove_python()
    assert clone.dev("demo")[0] == 0
    clone.log("")
    status, _, errors = clone.dev("undo")
    assert (status, errors[0]) == (0, "dev: removing 2 packages: nginx python3")
    assert clone.log("dpkg") == ["dpkg --purge nginx python3"]
    assert not (clone.stage / "bin/python3").exists()
    assert not (clone.stage / "lib/pylvs-dev").exists()
    assert not (clone.folder / ".venv").exists()


def test_undo_installs_no_python_where_dev_has_brought_nothing(clone: Clone) -> None:
    clone.remove_python()
    (clone.folder / ".cache").mkdir()
    status, _, errors = clone.dev("undo")
    assert (status, [line.partition(" of this clone")[0] for line in errors]) == (0, ["dev: removed .venv and .cache"])
    assert not (clone.folder / ".cache").exists()
    assert clone.log("") == []


def test_undo_forgets_packages_that_were_removed_by_hand(clone: Clone) -> None:
    """Else a later one would remove what the user has installed since."""
    assert clone.dev("demo")[0] == 0
    (clone.stage / "purged").touch()
    assert clone.dev("undo")[0] == 0
    assert not (clone.stage / "lib/pylvs-dev").exists()


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


def test_undo_keeps_the_folder_of_caches_that_was_there(clone: Clone) -> None:
    (clone.stage / "home/.cache").mkdir()
    assert clone.dev("demo")[0] == 0
    assert clone.dev("undo")[0] == 0
    assert list((clone.stage / "home").rglob("*")) == [clone.stage / "home/.cache"]


def test_undo_remembers_packages_whose_configuration_was_there(clone: Clone) -> None:
    """They return to that state: to be removed, but not purged."""
    assert clone.dev("demo")[0] == 0
    record = clone.stage / "lib/pylvs-dev"
    (record / "configured").write_text("nginx\n")
    status, _, errors = clone.dev("undo")
    assert (status, errors[1].startswith("dev: kept, because other packages need them")) == (0, True)
    assert (record / "packages").read_text() == (record / "configured").read_text() == "nginx\n"
    (clone.stage / "configured").touch()
    status, _, errors = clone.dev("undo")
    assert (status, errors[0]) == (0, "dev: removing 1 packages: nginx")
    assert not record.exists()


def test_undo_forgets_nothing_while_another_process_uses_dpkg(clone: Clone) -> None:
    assert clone.dev("demo")[0] == 0
    record = clone.stage / "lib/pylvs-dev"
    with dpkg_in_use(clone):
        status, _, errors = clone.dev("undo")
    assert (status, errors[-1].startswith(f"dev: process {os.getpid()} has used dpkg")) == (1, True)
    assert (record / "packages").read_text() == "nginx\n"
    # The same message, if that process begins after undo has checked the lock.
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

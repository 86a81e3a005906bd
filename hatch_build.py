"""Compile the eBPF objects if their sources have changed; `python hatch_build.py` compiles them in place in any case.

A wheel also gets manual pages and completions, which `tools` makes from the commands.

The objects are in the source tree, with the digest of their sources. So a clone or a wheel of unchanged sources needs
no compiler. The compiler is the clang inside PyPI's ziglang. Builds are reproducible: the same sources give the same
bytes on every machine.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class BuildHookInterface:
        """The part of hatchling's interface that is used here."""

        root: str

else:
    try:
        from hatchling.builders.hooks.plugin.interface import BuildHookInterface
    except ImportError:  # run by hand, where hatchling is not needed
        BuildHookInterface = object

COMPILER = "ziglang==0.17.0"  # pinned, so that the same source gives the same bytes everywhere; ./dev reads this line
SUFFIX = ".bpf.c"
OBJECTS = Path("src/pylvs/bpf/objects")
# Files and folders that decide the bytes of the objects, and the file with their digest, which ./dev computes, too.
SOURCES = ("bpf", "hatch_build.py", "src/pylvs/bpf/abi.py", "src/pylvs/bpf/btf.py", "tools/layout.py", "tools/elf.py")
DIGEST = "sources.sha256"
REASONS, VERDICTS = "bpf/abi/base.h", "forwarded|passed|dropped|held|note"
DIRECTOR, SCHEDULERS = f"director{SUFFIX}", "lb/schedulers"  # in bpf/: the object with the schedulers, and their files
FLAGS = (
    "--target=bpfel-freestanding",
    "-mcpu=v3",
    "-O2",
    "-g",  # the source of BTF
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",  # callbacks of bpf_loop have fixed signatures
    "-Wno-address-of-packed-member",  # packet headers are 2-aligned
    "-Werror",
    "-nostdinc",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fdebug-compilation-dir=.",
)


class BuildError(Exception):
    """A source does not compile or cannot be described; the text is the compiler's message."""


def reasons(root: Path) -> str:
    """Return name, verdict and sentence of what becomes of packets, a line each, as `enum reason` declares them.

    Raises BuildError for a line of it without verdict or sentence.
    """
    text = (root / REASONS).read_text()
    lines = []
    for name, comment in re.findall(r"^\tREASON_(?!NONE,)(\w+),(.*)$", text, re.MULTILINE):
        found = re.fullmatch(rf" /\* ({VERDICTS}): (.*) \*/", comment)
        if found is None:
            raise BuildError(f"{REASONS}: REASON_{name} needs a comment on its line: /* VERDICT: sentence */")
        lines.append(f"{name.lower()} {found[1]} {found[2]}\n")
    return "".join(lines)


def toolchain() -> Path:
    """Return the directory of ziglang. Raises BuildError without ziglang."""
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        raise BuildError(f"ziglang is not installed: pip install {COMPILER}")
    return Path(found.origin).parent


def schedulers(root: Path) -> list[tuple[int, str, str]]:
    """Return number, name and flags of each scheduler, as its file declares them: `SCHEDULER(rr, 1, 0)`.

    Raises BuildError.
    """
    found = []
    for path in (root / "bpf" / SCHEDULERS).glob("*.h"):
        declared = re.search(rf"^SCHEDULER\({path.stem}, (\d+), ([\w |]+)\)$", path.read_text(), re.MULTILINE)
        if declared is None:
            raise BuildError(f"{path.relative_to(root)} needs the line SCHEDULER({path.stem}, NUMBER, FLAGS)")
        found.append((int(declared[1]), path.stem, declared[2]))
    numbers = sorted(number for number, *_ in found)
    if numbers != list(range(1, len(found) + 1)):
        raise BuildError(f"bpf/{SCHEDULERS}: the numbers of SCHEDULER are {numbers}; they must count from 1")
    return sorted(found)


def compiler(root: Path) -> list[str]:
    """Return the command that compiles for eBPF, without the names of sources. Raises BuildError without ziglang."""
    zig = toolchain()
    headers = zig / "lib" / "libc" / "include"
    listed = " ".join(f"X({name.upper()}, {number}, {flags})" for number, name, flags in schedulers(root))
    return [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        *FLAGS,
        f"-DSCHEDULER_LIST(X)={listed}",
        f"-ffile-prefix-map={root}=.",
        f"-ffile-prefix-map={zig}=zig",
        "-I",
        str(root / "bpf"),
        "-isystem",
        str(headers / "any-linux-any"),
        "-isystem",
        str(headers / "x86-linux-any"),  # types only; the same on every build machine, so that the bytes are too
    ]


def run_compiler(command: list[str], folder: Path) -> str:
    """Run the compiler in a folder. Return its messages if it failed, else an empty string."""
    unwanted = {"CPATH", "C_INCLUDE_PATH", "CFLAGS", "SOURCE_DATE_EPOCH"}  # which would change the bytes
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    with tempfile.TemporaryDirectory(prefix="pylvs-zig-") as cache:  # zig insists on a cache, and never shrinks it
        done = subprocess.run(
            command,
            cwd=folder,
            env={**environment, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    return (done.stderr.strip() or "the compiler failed") if done.returncode else ""


def compile_object(source: Path, target: Path, root: Path) -> None:
    """Compile one source. Raises BuildError with the compiler's message."""
    name = source.relative_to(root)
    headers = [f"{SCHEDULERS}/{each}.h" for _, each, _ in schedulers(root)] if source.name == DIRECTOR else []
    included = [word for header in headers for word in ("-include", header)]
    if errors := run_compiler([*compiler(root), *included, "-c", str(name), "-o", str(target)], root):
        raise BuildError(f"{name} does not compile:\n{errors}")


def digest(root: Path) -> str:
    """Return the SHA-256 of the names and digests of all files that decide the bytes of the objects."""
    paths = [
        path for name in SOURCES for path in ((root / name).rglob("*") if (root / name).is_dir() else [root / name])
    ]
    names = sorted(str(path.relative_to(root)) for path in paths if path.is_file() and path.suffix != ".pyc")
    lines = (f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_built(root: Path) -> bool:
    """Return whether the objects in the tree are those of its sources."""
    record = root / OBJECTS / DIGEST
    return record.is_file() and record.read_text().strip() == digest(root)


def build(root: Path, sources: Path | None = None, objects: Path | None = None) -> list[Path]:
    """Compile every `*.bpf.c`; describe the objects in `abi.json`, `abi.txt`, and their reasons in `reasons.txt`.

    Return the paths of all files.

    Each file of the directory is replaced only after all of them have been built. Raises BuildError.
    """
    root = root.resolve()
    described = digest(root) if sources is None else ""
    sources = sources or root / "bpf"
    objects = objects or root / OBJECTS
    objects.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pylvs-objects-") as name:
        made = Path(name)
        for source in sorted(sources.glob(f"*{SUFFIX}")):
            compile_object(source, made / f"{source.name.removesuffix(SUFFIX)}.bpf.o", root)
        _finish(root, made)
        if described and (root / REASONS).is_file():
            (made / "reasons.txt").write_text(reasons(root))
            (made / DIGEST).write_text(f"{described}\n")
        objects.mkdir(exist_ok=True)
        for old in objects.iterdir():
            if not (made / old.name).exists():
                old.unlink()
        for path in sorted(made.iterdir()):
            fresh = objects / f".{path.name}.new"
            shutil.copyfile(path, fresh)
            fresh.replace(objects / path.name)
    return sorted(objects.iterdir())


@contextmanager
def _importable(root: Path) -> Iterator[None]:
    """Let `tools` and `pylvs` of this tree be imported within the block."""
    paths = [str(root), str(root / "src")]
    sys.path[:0] = paths
    try:
        yield
    finally:
        del sys.path[: len(paths)]


def _finish(root: Path, objects: Path) -> None:
    """Remove the debugger's sections from the objects, and describe the objects."""
    with _importable(root):
        from tools import elf, layout

        try:
            for path in objects.glob("*.o"):
                path.write_bytes(elf.without_debug(path.read_bytes()))
            layout.write(objects)
        except ValueError as error:
            raise BuildError(f"the objects cannot be described: {error}") from error


def _write_share(root: Path, share: Path) -> list[Path]:
    """Write what is installed below share/, and return the paths."""
    with _importable(root):
        from tools import completion, manual

        return [*manual.write(share / "man" / "man8"), *completion.write(share)]


class CustomBuildHook(BuildHookInterface):
    """The hook that hatchling calls before it packs a wheel."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return what a build needs beside hatchling: the compiler, if the objects are older than their sources."""
        return [] if is_built(Path(self.root)) else [COMPILER]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the objects in the tree, unless they are up to date; and pages and completions in build/."""
        root = Path(self.root)
        if not is_built(root):
            build(root)
        if version != "editable":
            share = root / "build" / "share"
            for path in _write_share(root, share):
                build_data["shared_data"][str(path)] = f"share/{path.relative_to(share)}"


def main() -> int:
    """Build in place. Return 0, or 1 after printing the compiler's message to stderr."""
    try:
        for path in build(Path(__file__).parent):
            print(path.relative_to(Path(__file__).parent.resolve()))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

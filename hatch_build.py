"""Compile the eBPF objects when the wheel is built; `python hatch_build.py` compiles them in place.

A wheel also gets manual pages and completions, which `tools` makes from the commands.

The compiler is the clang inside PyPI's ziglang, so hosts that run pylvs need none. Builds are reproducible: the same
sources give the same bytes on every machine.
"""

from __future__ import annotations

import importlib.util
import os
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

SUFFIX = ".bpf.c"
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


def toolchain() -> Path:
    """Return the directory of ziglang. Raises BuildError without ziglang."""
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        raise BuildError("ziglang is not installed: pip install ziglang==0.17.0")
    return Path(found.origin).parent


def compiler(root: Path) -> list[str]:
    """Return the command that compiles for eBPF, without the names of sources. Raises BuildError without ziglang."""
    zig = toolchain()
    headers = zig / "lib" / "libc" / "include"
    return [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        *FLAGS,
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
    if errors := run_compiler([*compiler(root), "-c", str(name), "-o", str(target)], root):
        raise BuildError(f"{name} does not compile:\n{errors}")


def build(root: Path, sources: Path | None = None, objects: Path | None = None) -> list[Path]:
    """Compile every `*.bpf.c` and describe the objects in `abi.json` and `abi.txt`. Return the paths of all files.

    Each file of the directory is replaced only after all of them have been built. Raises BuildError.
    """
    root = root.resolve()
    sources = sources or root / "bpf"
    objects = objects or root / "src" / "pylvs" / "bpf" / "objects"
    objects.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pylvs-objects-") as name:
        made = Path(name)
        for source in sorted(sources.glob(f"*{SUFFIX}")):
            compile_object(source, made / f"{source.name.removesuffix(SUFFIX)}.bpf.o", root)
        _describe(root, made)
        objects.mkdir(exist_ok=True)
        for old in objects.iterdir():
            if not (made / old.name).exists():
                old.unlink()
        for each in sorted(made.iterdir()):
            fresh = objects / f".{each.name}.new"
            shutil.copyfile(each, fresh)
            fresh.replace(objects / each.name)
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


def _describe(root: Path, objects: Path) -> None:
    with _importable(root):
        from tools import layout

        try:
            layout.write(objects)
        except ValueError as error:
            raise BuildError(f"the objects cannot be described: {error}") from error


def _write_share(root: Path, share: Path) -> list[Path]:
    """Write what is installed below share/, and return the paths."""
    with _importable(root):
        from tools import completion, manual

        return [*manual.write(share / "man" / "man8"), *completion.write(share)]


class CustomBuildHook(BuildHookInterface):
    """The hook that hatchling calls before it packs a wheel; a source distribution has no objects."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the objects in the tree, where the wheel includes them from; and pages and completions in build/."""
        root = Path(self.root)
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

"""Compiles the eBPF objects when the wheel is built; `python hatch_build.py` builds them in place for a developer.

The compiler is the clang inside PyPI's ziglang, so no machine that runs pylvs needs one. The same sources give the
same bytes wherever and whenever they are compiled.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class BuildHookInterface:
        """What hatchling gives a hook to build on."""

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
    "-g",  # BTF is made from it
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",  # both hooks share one set of functions; callbacks have signatures
    "-Wno-address-of-packed-member",  # headers in frames are 2-aligned, and BPF loads them as they are
    "-Werror",
    "-nostdinc",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fdebug-compilation-dir=.",
)


class BuildError(Exception):
    """A source does not compile or cannot be described; the text is the compiler's."""


def _toolchain() -> Path:
    """Where ziglang is installed. Raises BuildError when it is not."""
    found = importlib.util.find_spec("ziglang")
    if found is None or found.origin is None:
        raise BuildError("ziglang is not installed: pip install ziglang==0.17.0")
    return Path(found.origin).parent


def compiler(root: Path) -> list[str]:
    """Return the command that compiles for eBPF, without the names of sources. Raises BuildError without ziglang."""
    zig = _toolchain()
    headers = zig / "lib" / "libc" / "include"
    include = root / "bpf" / "include"
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
        *(("-isystem", str(include)) if include.is_dir() else ()),
        "-isystem",
        str(headers / "any-linux-any"),
        "-isystem",
        str(headers / "x86-linux-any"),  # types only; the same on every build machine, so that the bytes are too
    ]


def compile_object(source: Path, target: Path, root: Path) -> None:
    """Compile one source. Raises BuildError with the compiler's words."""
    unwanted = {"CPATH", "C_INCLUDE_PATH", "CFLAGS", "SOURCE_DATE_EPOCH"}  # nothing outside the tree has a say
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    command = [*compiler(root), "-c", str(source.relative_to(root)), "-o", str(target)]
    with tempfile.TemporaryDirectory(prefix="pylvs-zig-") as cache:  # which zig must have; kept, it only grows
        done = subprocess.run(
            command,
            cwd=root,
            env={**environment, "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise BuildError(f"{source.relative_to(root)} does not compile:\n{done.stderr.strip()}")


def build(root: Path, sources: Path | None = None, objects: Path | None = None) -> list[Path]:
    """Compile every `*.bpf.c` and describe the objects in `abi.json` and `abi.txt`; the paths of what was made.

    Nothing half-made is left: the directory is replaced as a whole once everything is ready. Raises BuildError.
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


def _describe(root: Path, objects: Path) -> None:
    paths = [str(root), str(root / "src")]
    sys.path[:0] = paths
    try:
        from tools import layout

        layout.write(objects)
    except ValueError as error:
        raise BuildError(f"the objects cannot be described: {error}") from error
    finally:
        del sys.path[: len(paths)]


class CustomBuildHook(BuildHookInterface):
    """hatchling calls this before it packs a wheel; a source distribution carries the sources alone."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the objects into the tree, from where the wheel takes them."""
        build(Path(self.root))


def main() -> int:
    """Build in place; 0, or 1 with the compiler's words on stderr."""
    try:
        for path in build(Path(__file__).parent):
            print(path.relative_to(Path(__file__).parent.resolve()))
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

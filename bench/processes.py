"""Run and compile other programs, and read what a process uses."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pylvs.model.errors import Unsupported

_COMPILERS = (["cc"], [sys.executable, "-m", "ziglang", "cc"])
_COMPILING_S = 240
_TICKS = os.sysconf("SC_CLK_TCK")


def run(*words: str, text: str = "") -> str:
    """Return the output of a command. Raises Unsupported with its error."""
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Unsupported(f"there is no {words[0]} command; install it") from None
    if done.returncode:
        raise Unsupported(f"{' '.join(words)}: {done.stderr.strip() or 'failed'}")
    return done.stdout


def ip_batch(*lines: str) -> None:
    """Run lines of ip(8). Raises Unsupported."""
    run("ip", "-batch", "-", text="".join(f"{line}\n" for line in lines))


def compile_c(source: Path, made: Path, *options: str) -> Path:
    """Compile a file, and return what was made. Raises Unsupported."""
    errors = ""
    for compiler in _COMPILERS:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            words = [*compiler, *options, "-O2", "-o", str(made), str(source)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=_COMPILING_S, check=False)
            if not done.returncode:
                return made
            errors = f": {done.stderr.strip()}"
    raise Unsupported(f"no compiler for {source.name}: neither cc nor ziglang's{errors}")


@contextlib.contextmanager
def python_beside(code: str, *words: str) -> Iterator[list[str]]:
    """Run a Python program beside the block: from its first line of output until its input ends.

    The list gets the words of its last line.
    """
    command = [sys.executable, "-c", code, *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found: list[str] = []
        try:
            process.stdout.readline()
            yield found
            found += process.communicate()[0].split()
        finally:
            process.kill()


def processor_s(process: int, *, ended_children: bool = False) -> float:
    """Return the processor time of a process, also of its children that have ended. Raises OSError."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11 : 15 if ended_children else 13]) / _TICKS


def memory_kib(process: int) -> dict[str, int]:
    """Return the sizes in /proc/PID/status by name (VmRSS, VmHWM ...); none of a process that has ended."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    return {name: int(text.split()[0]) for name, _, text in (line.partition(":") for line in lines) if "kB" in text}


def used_by_process_s(number: int) -> float:
    """Return the time of a process's main thread, in ns if the kernel has scheduling statistics, else in ticks."""
    try:
        return int(Path(f"/proc/{number}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return processor_s(number)

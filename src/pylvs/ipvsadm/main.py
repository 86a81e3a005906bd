"""Entry points of `ipvsadm`, `ipvsadm-save` and `ipvsadm-restore`.

All other imports happen after the garbage collector is disabled: it would traverse their objects several times.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys

from pylvs.model.errors import NotPermitted, PylvsError

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import IO, NoReturn

    from pylvs.ipvsadm.commands import Session
    from pylvs.model.director import Director

# late: each command imports what it runs, so that the others start sooner: scripts call ipvsadm for each change

EXIT_BROKEN_PIPE = 128 + 13  # as if ended by SIGPIPE
EXIT_INTERRUPTED = 128 + 2  # as if ended by SIGINT
EXIT_SAVE_HELP = 1
SAVE_HELP = (
    "ipvsadm-save: Script to save the IPVS table to stdout.\n"
    "   With the -n option, prints out the table in numeric format."
)


def run(words: Sequence[str], session: Session) -> int:
    """Run `ipvsadm` with these arguments (without the program's name); return the exit status."""
    return session.run(words).status


def run_save(words: Sequence[str], session: Session) -> int:
    """Run `ipvsadm-save [-n]`: print the table as rules. Other options print help; operands are ignored."""
    if _asks_for_help(words):
        return _help_of_save(session.stderr)
    return session.run(["-S", *(["-n"] if "-n" in words else [])]).status


def _asks_for_help(words: Sequence[str]) -> bool:
    return any(word.startswith("-") and word != "-n" for word in words)


def _help_of_save(stderr: IO[str]) -> int:
    print(SAVE_HELP, file=stderr)
    return EXIT_SAVE_HELP


def run_restore(words: Sequence[str], session: Session) -> int:
    """Run `ipvsadm-restore`: replace the table with the rules on stdin, without comment lines.

    Like the real script it ignores arguments, but for `--hint`. The real one deletes all services if `<` is forgotten
    before a file's name; this one changes nothing then.
    """
    from pylvs.ipvsadm.options import EXIT_ARGUMENTS, HINT

    file = next((word for word in words if word and not word.startswith("-")), "")
    if session.stdin.isatty() and not file:
        session.hint(words, "type the rules, then ctrl-D: they replace the table; from a file: ipvsadm-restore <FILE")
    text = "" if file and session.stdin.isatty() else session.stdin.read()
    if file and not text.strip():
        print(
            f"ipvsadm-restore: no rules on standard input; nothing is changed, {file} is not read", file=session.stderr
        )
        session.hint(words, f"ipvsadm-restore reads standard input: ipvsadm-restore <{file}")
        return EXIT_ARGUMENTS
    lines = text.split("\n")
    # An empty line for each comment: hints name a line by its number.
    session.stdin = io.StringIO("\n".join("" if line.startswith("#") else line for line in lines))
    session.run(["-C"])
    return session.run(["-R", *(word for word in words if word == HINT)]).status


def main() -> int:
    """Run `ipvsadm` as this process."""
    return _as_program(run, _lists)


def save() -> int:
    """Run `ipvsadm-save` as this process. Like the real script, it checks its options before it opens the tables."""
    return _help_of_save(sys.stderr) if _asks_for_help(sys.argv[1:]) else _as_program(run_save, lambda _: True)


def restore() -> int:
    """Run `ipvsadm-restore` as this process."""
    return _as_program(run_restore)


def _script(program: Callable[[], int]) -> Callable[[], NoReturn]:
    """Return a console script. It exits without the interpreter's finalization, which takes 1 ms to free memory."""

    def run_and_exit() -> NoReturn:
        status = program()
        for stream in sys.stdout, sys.stderr:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)

    return run_and_exit


ipvsadm_script, save_script, restore_script = _script(main), _script(save), _script(restore)


def open_director() -> Director:
    """Open the tables of this network namespace. Raises NotPermitted, Unsupported, NoSpace."""
    from pylvs.dataplane.director import open_director as open_tables

    return open_tables()


def _director_for(changes_nothing: Callable[[], bool]) -> Director:
    """Return the tables; without the privilege to open them, as the daemon reads them, for a listing.

    Raises as `open_director`, and NotReadable.
    """
    try:
        return open_director()
    except NotPermitted:
        if os.geteuid() == 0 or not changes_nothing():
            raise
    from pylvs.ipvsadm.remote import reading_director

    return reading_director()


def _lists(words: Sequence[str]) -> bool:
    """Return whether these arguments of `ipvsadm` change nothing."""
    from pylvs.ipvsadm.options import Command, OptionError
    from pylvs.ipvsadm.parsing import Names, parse

    try:
        return parse(words, Names()).command in (Command.LIST, Command.SAVE)
    except OptionError:
        return False


def _as_program(
    command: Callable[[Sequence[str], Session], int], lists: Callable[[Sequence[str]], bool] = lambda _: False
) -> int:
    """Run a command as this process; turn every error into an exit status and a few lines."""
    gc.disable()  # the process ends before a collection would pay off
    from pylvs.ipvsadm.options import EXIT_ARGUMENTS, EXIT_LISTING

    _take_bytes_as_they_are()
    try:
        director = _director_for(lambda: lists(sys.argv[1:]))
    except PylvsError as error:
        from pylvs.ipvsadm.commands import cannot_open, hints_wanted

        print(cannot_open(error), file=sys.stderr)
        if hints_wanted(sys.argv[1:], sys.stderr) and str(error) not in cannot_open(error):
            print(f"hint: {error}", file=sys.stderr)
        return EXIT_ARGUMENTS
    try:
        from pylvs.ipvsadm.commands import Session

        status = command(sys.argv[1:], Session(director, sys.stdin, sys.stdout, sys.stderr))
        sys.stdout.flush()
        if director.device_problems():
            from pylvs.model.rows import warnings  # late: most edits attach every device

            for line in warnings(director):
                print(f"ipvsadm: warning: {line}", file=sys.stderr)
    except BrokenPipeError:
        _forget_output()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except PylvsError as error:
        print(f"ipvsadm: {error}", file=sys.stderr)
        return EXIT_LISTING
    except OSError as error:
        _forget_output()
        what = f" {error.filename}" if error.filename else ""
        print(f"ipvsadm: cannot read or write{what}: {error.strerror or error}", file=sys.stderr)
        return EXIT_LISTING
    return status


def _take_bytes_as_they_are() -> None:
    """Let the streams pass any bytes unchanged in every locale, and replace closed streams with empty ones."""
    encoding = sys.getfilesystemencoding()
    for name in "stdin", "stdout", "stderr":
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.StringIO())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="surrogateescape", newline="\n")


def _forget_output() -> None:
    """Drop unwritten output; otherwise the interpreter would write it again at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        sys.stdout.flush()

"""`pylvs`: finds the subcommand, and is the one place where errors become a line on stderr and an exit status.

Exit status: 0 done, 1 it could not be done, 2 wrong usage, 78 `pylvs run` refuses its file, 130 interrupted.

`pylvs run` starts without click, whose import would delay the first advertisement of virtual routers.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pylvs.cli import run_arguments
from pylvs.model.errors import NO_MEMORY, PylvsError, os_text
from pylvs.system.logs import one_line

if TYPE_CHECKING:
    from typing import IO

    import click

# late: `pylvs run` starts without click, and most commands have no bug

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "PYLVS_DEBUG"
_RED, _PLAIN = "\x1b[1;31m", "\x1b[0m"


def red(text: str, stream: IO[str] | None) -> str:
    """Return the text in red if the stream is a terminal and NO_COLOR is not set."""
    colours = stream is not None and stream.isatty() and not os.environ.get("NO_COLOR")
    return f"{_RED}{text}{_PLAIN}" if colours else text


def _complain(text: str) -> None:
    """Print the text on stderr, as one line."""
    with contextlib.suppress(OSError):  # with stderr closed, the exit status alone reports the failure
        print(f"{red('pylvs:', sys.stderr)} {one_line(text)}", file=sys.stderr)


def _usage(error: click.UsageError, words: Sequence[str]) -> str:
    """Return the error, and the command that prints the help."""
    text = error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx else _command_of(words)
    return f"{text}; see {path} --help"


def _command_of(words: Sequence[str]) -> str:
    """Return the command that words begin with. click does not tell it for an option without a value."""
    import click

    from pylvs.cli.group import pylvs

    path = ["pylvs"]
    command: click.Group = pylvs
    for word in words:
        found = command.get_command(click.Context(command), word)
        if found is None:
            break
        path.append(word)
        if not isinstance(found, click.Group):
            break
        command = found
    return " ".join(path)


def _quiet_stdout() -> None:
    """Keep the interpreter from reporting, at its exit, that the reader of stdout has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; each exception becomes one line on stderr."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    return _guarded(lambda: _dispatch(words))


def _dispatch(words: Sequence[str]) -> object:
    given = run_arguments.parse(words[1:]) if words[:1] == ["run"] else None
    if given is None:
        return _by_click(words)
    gc.disable()  # until virtual routers have started: collections take a twentieth of the time of imports
    run_arguments.start(**given)
    return None


def _guarded(command: Callable[[], object]) -> int:
    """Call a command and return its exit status; turn exceptions except click's into a line."""
    try:
        result = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BrokenPipeError:
        _quiet_stdout()
        return EXIT_FAILED
    except PylvsError as error:
        return _failed(error, str(error), error.exit_status)
    except ModuleNotFoundError as error:
        missing = f"Python has no module {error.name}: pylvs is installed in part"
        return _failed(error, f"{missing}; install it again, or run apt install -f")
    except OSError as error:
        return _failed(error, os_text(error))
    except MemoryError as error:
        return _failed(error, NO_MEMORY)
    except Exception as error:
        name = type(error).__name__
        return _failed(error, f"{name}: {error}: this is a bug; run with {DEBUG_VARIABLE}=1 for the trace")
    return result if isinstance(result, int) else 0


def _by_click(words: Sequence[str]) -> object:
    """Run the subcommand; turn click's exceptions into a line and an exit status."""
    import click

    from pylvs.cli.group import pylvs

    try:
        return pylvs.main(args=words, prog_name="pylvs", standalone_mode=False)
    except getattr(click.exceptions, "NoArgsIsHelpError", ()) as error:  # not in click 8.1, of Debian 12
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        _complain(_usage(error, words))
        return EXIT_USAGE
    except click.ClickException as error:
        _complain(error.format_message())
        return EXIT_FAILED
    except click.Abort:
        return EXIT_INTERRUPTED


def _failed(error: Exception, text: str, status: int = EXIT_FAILED) -> int:
    """Print the text, and the trace too if the user asked for traces; return the exit status."""
    _complain(text)
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exception(error)
    return status


def main() -> None:
    """Entry point of the `pylvs` command."""
    sys.exit(run())

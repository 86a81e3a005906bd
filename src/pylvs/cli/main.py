"""`pylvs`: finds the subcommand, and is the one place where errors become a line on stderr and an exit status.

Exit status: 0 done, 1 it could not be done, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

import click

from pylvs import __version__
from pylvs.model.errors import PylvsError
from pylvs.system.logs import one_line

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
DEBUG_VARIABLE = "PYLVS_DEBUG"

# name -> (module, attribute, line in the help). A module is imported when its command is run, so that
# `pylvs --help` and every other command do not wait for it.
COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "show": ("pylvs.cli.director", "show", "Show which device runs what, and why."),
    "attach": ("pylvs.cli.director", "attach", "Run the packet path on a device, in a mode of your choice."),
    "detach": ("pylvs.cli.director", "detach", "Take the packet path off a device."),
    "watch": ("pylvs.cli.director", "watch", "Attach devices that appear, on machines without pylvs run."),
    "down": ("pylvs.cli.director", "down", "Remove the tables and everything that was attached."),
    "sysctl": ("pylvs.cli.director", "sysctl", "Read and set the net.ipv4.vs settings."),
    "mark": ("pylvs.cli.mark", "mark", "Give packets firewall marks, for services of ipvsadm -f."),
    "realserver": ("pylvs.cli.realserver", "realserver", "Make this machine a real server, or end that."),
    "simulate": ("pylvs.cli.simulate", "simulate", "Show which server each of these clients would get."),
    "check": ("pylvs.cli.configuration", "check", "Print what is wrong with a keepalived.conf."),
    "diff": ("pylvs.cli.configuration", "diff", "Print what differs between two keepalived.conf."),
    "run": ("pylvs.cli.daemon", "run", "Keep the table as a keepalived.conf and its health checks want it."),
    "stop": ("pylvs.cli.stop", "stop", "End the daemon, and what it or a killed one left."),
    "keepalived": ("pylvs.cli.keepalived", "keepalived", "Do the same, with keepalived's command line."),
    "reload": ("pylvs.cli.daemon", "reload", "Let the daemon read its configuration again."),
    "status": ("pylvs.cli.daemon", "status", "Show the state of services, servers and checks."),
    "vrrp": ("pylvs.cli.vrrp", "vrrp", "Virtual routers: show, explain, yield, resume, stop."),
    "drain": ("pylvs.cli.servers", "drain", "Give a server no new connections; take it out of the table when unused."),
    "enable": ("pylvs.cli.servers", "enable", "Undo drain and disable."),
    "disable": ("pylvs.cli.servers", "disable", "Take a server out of the table."),
    "weight": ("pylvs.cli.servers", "weight", "Give a server a weight, or let its checks decide again."),
    "check-now": ("pylvs.cli.servers", "check_now", "Run checks at once."),
    "history": ("pylvs.cli.servers", "history", "Print what happened to a server, and why."),
    "events": ("pylvs.cli.daemon", "events", "Print what happened last, or happens from now on."),
    "metrics": ("pylvs.cli.daemon", "metrics", "Print the metrics, in Prometheus's text format."),
    "bench": ("pylvs.cli.bench", "bench", "Measure what real packets on a device cost this machine."),
    "lab": ("pylvs.cli.lab", "lab", "Build clients, routers, directors and real servers on one machine."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported at their first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command of this name; None if there is none."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Print the table's lines, without importing any command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The tables are edited with ipvsadm; see ipvsadm --help. Manual: man pylvs.",
)
@click.version_option(__version__, "-V", "--version", prog_name="pylvs", message="%(prog)s %(version)s")
def pylvs() -> None:
    """The Linux Virtual Server with an eBPF data plane."""


def _complain(text: str) -> None:
    """Print the text on stderr, as one line."""
    with contextlib.suppress(OSError):  # with stderr closed, the exit status alone reports the failure
        print(f"pylvs: {one_line(text)}", file=sys.stderr)


def _usage(error: click.UsageError) -> str:
    """Return the error, and the command that prints the help."""
    text = error.format_message().rstrip(".")
    path = error.ctx.command_path if error.ctx else "pylvs"
    return f"{text}; see {path} --help"


def _quiet_stdout() -> None:
    """Keep the interpreter from reporting, at its exit, that the reader of stdout has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; each exception becomes one line on stderr."""
    try:
        result = pylvs.main(args=arguments, prog_name="pylvs", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        _complain(_usage(error))
        return EXIT_USAGE
    except click.ClickException as error:
        _complain(error.format_message())
        return EXIT_FAILED
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BrokenPipeError:
        _quiet_stdout()
        return EXIT_FAILED
    except PylvsError as error:
        return _failed(error, str(error))
    except OSError as error:
        return _failed(error, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:
        name = type(error).__name__
        return _failed(error, f"{name}: {error}: this is a bug; run with {DEBUG_VARIABLE}=1 for the trace")
    return result if isinstance(result, int) else 0


def _failed(error: Exception, text: str) -> int:
    """Print the text, and the trace too if the user asked for traces."""
    _complain(text)
    if os.environ.get(DEBUG_VARIABLE):
        import traceback

        traceback.print_exception(error)
    return EXIT_FAILED


def main() -> None:
    """Entry point of the `pylvs` command."""
    sys.exit(run())

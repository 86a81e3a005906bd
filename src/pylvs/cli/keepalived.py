"""`pylvs keepalived`: keepalived's command line, for units and scripts that name its options."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from pylvs import __version__
from pylvs.cli.common import facility
from pylvs.daemon import DEFAULT_FILE, Options
from pylvs.model.errors import PylvsError
from pylvs.system.logs import visible

# late: each command imports what it runs, so that the others start sooner

IGNORED = (  # options without an effect here, and whether they have a value; docs/reference/run.md gives the reasons
    ("-B", "--no_bfd", False),
    ("", "--all", False),
    ("-D", "--log-detail", False),
    ("", "--flush-log-file", False),
    ("-X", "--release-vips", False),
    ("-R", "--dont-respawn", False),
    ("-d", "--dump-conf", False),
    ("-b", "--bfd_pid", True),
    ("-a", "--address-monitoring", False),
    ("-m", "--core-dump", False),
    ("-M", "--core-dump-pattern", True),
    ("", "--no-mem-check", False),
)
REFUSED = {
    "dont_release_vrrp": "-V would leave addresses that no virtual router advertises; leave out -V",
    "genhash": "-T: run genhash, or take the digest that pylvs check-now prints",
}
OPTIONAL = ("-g", "--log-file", "-M", "--core-dump-pattern", "-t", "--config-test")  # a value must be attached
MOST_BITS = 0o777  # of a mask of permissions
FLAG, VALUE, OPTIONAL_VALUE = "", ":", "::"  # as getopt(3) writes them


def ignored(command: Any) -> Any:
    """Add the options without an effect."""
    for short, long, has_value in IGNORED:
        names = [short, long] if short else [long]
        metavar = "[VALUE]" if long in OPTIONAL else "VALUE"
        option = {"metavar": metavar} if has_value else {"is_flag": True}
        command = click.option(*names, expose_value=False, help="accepted, without effect", **option)(command)
    return command


class Command(click.Command):
    """A command that reads its words as keepalived does, by getopt_long(3)."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words. Those that are no option are left in `ctx.args`. Raises click.UsageError."""
        takes = {
            name: FLAG if option.is_flag else OPTIONAL_VALUE if name in OPTIONAL else VALUE
            for option in self.get_params(ctx)
            if isinstance(option, click.Option)
            for name in option.opts
        }
        return super().parse_args(ctx, spelled_out(args, takes))


def spelled_out(words: Iterable[str], takes: Mapping[str, str]) -> list[str]:
    """Return the words as click reads them: each option with its value behind it, other words behind `--`.

    `takes` has each spelling of an option, with FLAG, VALUE or OPTIONAL_VALUE. Words that getopt_long(3) refuses are
    returned in a form that click refuses, too.
    """
    options: list[str] = []
    others: list[str] = []
    waiting = iter(words)
    for word in waiting:
        if word == "--":
            others += waiting
        elif word == "-" or not word.startswith("-"):
            others.append(word)
        else:
            for name, value in _long(word, takes) if word.startswith("--") else _bundle(word, takes):
                if takes.get(name) == VALUE and value is None:
                    value = next(waiting, None)
                if takes.get(name) == VALUE and not value and (value is None or name.startswith("--")):
                    return [*options, name]  # keepalived refuses an empty value of a long option, too
                options += [name] if value is None else [name, value]
    return [*options, "--", *others]


def _long(word: str, takes: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Return a long option, which may be abbreviated, and the value attached to it."""
    start, equals, value = word.partition("=")
    names = [start] if start in takes else [name for name in takes if name.startswith(start)]
    if len(names) != 1 or (equals and takes[names[0]] == FLAG):
        return [(word, None)]
    return [(names[0], value if equals else "" if takes[names[0]] == OPTIONAL_VALUE else None)]


def _bundle(word: str, takes: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Return the options of a bundle such as `-nlf`, the last one with the value attached to it."""
    found: list[tuple[str, str | None]] = []
    for at, letter in enumerate(word[1:], 2):
        name = f"-{letter}"
        if name not in takes:
            return [(word, None)]
        if takes[name] != FLAG:
            return [*found, (name, word[at:] or ("" if takes[name] == OPTIONAL_VALUE else None))]
        found.append((name, None))
    return found


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"], "allow_extra_args": True})
@click.option("-f", "--use-file", "file", default=DEFAULT_FILE, show_default=True, metavar="FILE", help="configuration")
@click.option("-P", "--vrrp", "only_vrrp", is_flag=True, help="virtual routers alone")
@click.option("-C", "--check", "only_checks", is_flag=True, help="services and checks alone")
@click.option("-l", "--log-console", is_flag=True, help="log to standard error")
@click.option(
    "-S", "--log-facility", default="daemon", metavar="FACILITY", help="0 to 7, local0 to local7, user, daemon"
)
@click.option("-g", "--log-file", metavar="[FILE]", help="log to FILE_vrrp and FILE_healthcheckers, too: -gFILE")
@click.option("-G", "--no-syslog", is_flag=True, help="do not log to syslog")
@click.option("-u", "--umask", default="", metavar="MASK", help="of new files; a number")
@click.option(
    "-I", "--dont-release-ipvs", "keep_table", is_flag=True, help="leave the services in the table at the end"
)
@click.option("-V", "--dont-release-vrrp", is_flag=True, help="is refused")
@click.option("-n", "--dont-fork", is_flag=True, help="stay in the foreground")
@click.option("-p", "--pid", default="", metavar="FILE", help="PID file of the daemon")
@click.option("-r", "--vrrp_pid", default="", metavar="FILE", help="PID file of the virtual routers")
@click.option("-c", "--checkers_pid", default="", metavar="FILE", help="PID file of the checks")
@click.option("-s", "--namespace", default="", metavar="NAME", help="network namespace, instead of net_namespace")
@click.option("-e", "--all-config", "all_includes", is_flag=True, help="each included file must be there")
@click.option("-i", "--config-id", "ids", multiple=True, metavar="ID", help="of lines that begin with @ID")
@click.option("-x", "--snmp", "every_mib", is_flag=True, help="serve all MIBs, as enable_snmp_vrrp and the like")
@click.option("-A", "--snmp-agent-socket", "snmp_socket", default="", metavar="SOCKET", help="instead of snmp_socket")
@click.option("--signum", default="", metavar="NAME", help="print the number of STOP, RELOAD, DATA, STATS, JSON ...")
@click.option("-t", "--config-test", metavar="[FILE]", help="check the configuration; -tFILE: findings to FILE")
@click.option("-T", "--genhash", is_flag=True, help="is refused")
@click.option("-v", "--version", "version", is_flag=True, help="print the version")
@ignored
@click.pass_context
def keepalived(context: click.Context, /, file: str, ids: tuple[str, ...], **given: Any) -> int:
    """Run the daemon with keepalived's options: in the background, with its log in syslog, unless -n and -l differ."""
    for name, text in REFUSED.items():
        if given[name]:
            raise PylvsError(text)
    if given["version"]:
        click.echo(f"pylvs {__version__}, with the command line of keepalived 2.2.7")
        return 0
    if given["signum"]:
        return _print_signal(given["signum"])
    if context.args:
        click.echo(visible(f"Unexpected argument(s): {' '.join(context.args)}"))
    if given["config_test"] is not None:
        return _test(file, ids, given["config_test"])
    both = given["only_vrrp"] == given["only_checks"]
    log = _log(given)
    if given["umask"]:
        os.umask(_mask(given["umask"]))
    options = Options(
        os.path.abspath(file) if file != "-" else file,
        ids,
        vrrp=both or given["only_vrrp"],
        services=both or given["only_checks"],
        keep_table=given["keep_table"],
        log_format=log,
        all_includes=given["all_includes"],
        namespace=given["namespace"],
        every_mib=given["every_mib"],
        snmp_socket=given["snmp_socket"],
    )
    from pylvs.daemon import start

    pids = start.PidOptions(*(os.path.abspath(given[name]) if given[name] else "" for name in _PIDS))
    if not given["dont_fork"]:
        _to_the_background()
    start.run(options, pids)
    return 0


_PIDS = ("pid", "checkers_pid", "vrrp_pid")


def _mask(text: str) -> int:
    """Return the mask of --umask in C's notation: 022, 0x12, 18. Raises click.UsageError."""
    try:
        mask = int(text, 8) if text[:1] == "0" and text[1:].isdigit() else int(text, 0)
    except ValueError:
        raise click.UsageError(f"--umask: '{text}' is no number: write it as 022") from None
    if not 0 <= mask <= MOST_BITS:
        raise click.UsageError(f"--umask {text}: must be from 0 to {MOST_BITS:#o}".replace("0o", "0"))
    return mask


def _log(given: dict[str, Any]) -> str:
    """Return the destinations of the log."""
    name = given["namespace"]
    found = (
        []
        if given["no_syslog"] or given["log_console"]
        else [f"syslog:{facility(given['log_facility'])}:{'_' + name if name else ''}"]
    )
    if given["log_file"] is not None:
        found.append(f"file:{_log_path(given['log_file'])}")
    if given["log_console"] or not found:
        found.append("text")
    return "|".join(found)


def _log_path(file: str) -> str:
    """Return the path of a log file; keepalived has relative ones, and a default, in its directory of dumps."""
    from pylvs.daemon.keepalived.dumps import folder

    return str(folder() / (file or "keepalived.log"))


def _print_signal(name: str) -> int:
    from pylvs.daemon.keepalived.dumps import SIGNALS

    if name not in SIGNALS:
        raise PylvsError(f"--signum: unknown signal {name}; write one of {', '.join(SIGNALS)}")
    click.echo(int(SIGNALS[name]))
    return 0


def _test(file: str, ids: tuple[str, ...], log: str) -> int:
    """Check the file; write the findings to standard error, or to a log file if `log` is not empty."""
    from pylvs.cli.configuration import check

    if log:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        os.dup2(descriptor, sys.stderr.fileno())
    arguments = [*(word for each in ids for word in ("-i", each)), "--", file]
    return int(check.main(arguments, standalone_mode=False) or 0)


def _to_the_background() -> None:
    """Continue in a process without terminal and parent; this one ends with status 0."""
    for _ in range(2):
        if os.fork():
            os._exit(0)
        if os.getsid(0) != os.getpid():
            os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)

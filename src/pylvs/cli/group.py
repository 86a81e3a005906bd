"""The subcommands of `pylvs`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

from pylvs import __version__

# name -> (module, attribute, line in the help). A module is imported when its command is run, so that
# `pylvs --help` and every other command do not wait for it.
COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "show": ("pylvs.cli.director", "show", "Show which device runs what, and why."),
    "doctor": ("pylvs.cli.packets.doctor", "doctor", "Find out why clients get no answer, and what mends it."),
    "drops": ("pylvs.cli.packets.drops", "drops", "Show what became of each received packet, and why."),
    "trace": ("pylvs.cli.packets.trace", "trace", "Show the way of packets through this director."),
    "log": ("pylvs.cli.packets.log", "log", "Print each connection that is made or ends, or send it to a collector."),
    "attach": ("pylvs.cli.director", "attach", "Run the packet path on a device, in a mode of your choice."),
    "detach": ("pylvs.cli.director", "detach", "Take the packet path off a device."),
    "watch": ("pylvs.cli.director", "watch", "Attach devices that appear, on machines without pylvs run."),
    "down": ("pylvs.cli.director", "down", "Remove the tables and everything that was attached."),
    "sysctl": ("pylvs.cli.director", "sysctl", "Read and set the net.ipv4.vs settings."),
    "export": ("pylvs.cli.table.transfer", "export_table", "Print the table as JSON, or as ipvsadm-save does."),
    "import": ("pylvs.cli.table.transfer", "import_table", "Make the table that of a file, in one transaction."),
    "adopt": ("pylvs.cli.table.adopt", "adopt", "Take over the kernel's IPVS with its live connections."),
    "sync": ("pylvs.cli.directors.sync", "sync", "Show the sync daemons, and what they have counted."),
    "mark": ("pylvs.cli.rules.mark", "mark", "Give packets firewall marks, for services of ipvsadm -f."),
    "filter": (
        "pylvs.cli.rules.filter",
        "filter_",
        "Say which clients may open connections to a service, and how fast.",
    ),
    "realserver": ("pylvs.cli.realserver", "realserver", "Make this machine a real server, or end that."),
    "simulate": ("pylvs.cli.simulate", "simulate", "Show which server each of these clients would get."),
    "check": ("pylvs.cli.configuration", "check", "Print what is wrong with a keepalived.conf."),
    "diff": ("pylvs.cli.configuration", "diff", "Print what differs between two keepalived.conf."),
    "run": ("pylvs.cli.daemon", "run", "Keep the table as a keepalived.conf and its health checks want it."),
    "stop": ("pylvs.cli.stop", "stop", "End the daemon, and what it or a killed one left."),
    "keepalived": ("pylvs.cli.keepalived", "keepalived", "Do the same, with keepalived's command line."),
    "reload": ("pylvs.cli.daemon", "reload", "Let the daemon read its configuration again."),
    "status": ("pylvs.cli.daemon", "status", "Show the state of services, servers and checks."),
    "top": ("pylvs.cli.consoles.top", "top", "Show services and servers live, and drain, enable or weigh servers."),
    "vrrp": ("pylvs.cli.vrrp", "vrrp", "Virtual routers: status, why, yield, resume, stop."),
    "peer": ("pylvs.cli.directors.peer", "peer", "The other director of a pair: status, copy, key."),
    "director": (
        "pylvs.cli.directors.director",
        "director",
        "This director behind a router with ECMP: leave, join.",
    ),
    "web": ("pylvs.cli.consoles.web", "web", "Serve a web page on a running daemon, until ctrl-C."),
    "drain": ("pylvs.cli.servers", "drain", "Give a server no new connections; take it out of the table when unused."),
    "enable": ("pylvs.cli.servers", "enable", "Undo drain and disable."),
    "disable": ("pylvs.cli.servers", "disable", "Take a server out of the table."),
    "weight": ("pylvs.cli.servers", "weight", "Give a server a weight, or let its checks decide again."),
    "check-now": ("pylvs.cli.servers", "check_now", "Run checks at once."),
    "history": ("pylvs.cli.servers", "history", "Print what happened to a server, and why."),
    "events": ("pylvs.cli.daemon", "events", "Print the last events; with --follow, those from now on as well."),
    "metrics": ("pylvs.cli.daemon", "metrics", "Print the metrics, in Prometheus's text format."),
    "bench": ("pylvs.cli.bench", "bench", "Measure what real packets on a device cost this machine."),
    "lab": ("pylvs.cli.lab", "lab", "Build clients, routers, directors and real servers on one machine."),
}


GROUPS: Mapping[str, tuple[str, ...]] = {
    "The table and its devices": (
        "show",
        "attach",
        "detach",
        "watch",
        "down",
        "sysctl",
        "sync",
        "mark",
        "filter",
        "export",
        "import",
        "adopt",
        "simulate",
    ),
    "What happens to packets": ("doctor", "trace", "drops", "log"),
    "A real server": ("realserver",),
    "keepalived.conf and the daemon": ("check", "diff", "run", "stop", "keepalived", "reload"),
    "A running daemon": ("status", "top", "web", "vrrp", "peer", "director", "events", "history", "metrics"),
    "Its servers": ("drain", "enable", "disable", "weight", "check-now"),
    "Trying and measuring": ("lab", "bench"),
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
        grouped = [name for names in GROUPS.values() for name in names]
        width = max(map(len, COMMANDS))  # one column for all groups
        for title, names in {**GROUPS, "Others": tuple(name for name in COMMANDS if name not in grouped)}.items():
            rows = [(name.ljust(width), COMMANDS[name][2]) for name in names if name in COMMANDS]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command. Raises click.UsageError, which names a similar one."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib  # late: only errors need it

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            if near:
                raise click.UsageError(f"No such command '{args[0]}', did you mean '{near[0]}'?", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="The tables are edited with ipvsadm; see ipvsadm --help. Manual: man pylvs.",
)
@click.version_option(__version__, "-V", "--version", prog_name="pylvs", message="%(prog)s %(version)s")
def pylvs() -> None:
    """The Linux Virtual Server with an eBPF data plane."""

"""Execution of requests on a Director.

Scripts start ipvsadm once for each change of a server, so a command imports only what it needs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from time import monotonic

from pylvs.ipvsadm.options import EXIT_LISTING, EXIT_REFUSED, HINT, Command, Given, OptionError, try_help
from pylvs.ipvsadm.parsing import Names, Request, parse
from pylvs.model import errors
from pylvs.model.addresses import family_of
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation, PylvsError
from pylvs.model.service import Timeouts, is_probe_mark

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import IO

    from pylvs.ipvsadm.advice import Host
    from pylvs.ipvsadm.listing import Writer
    from pylvs.model.director import Director
    from pylvs.model.rows import ServiceRow
    from pylvs.model.sync.daemons import SyncDaemon, SyncDaemons

# late: each command imports what it runs, so that the others start sooner: scripts call ipvsadm for each change

LINES_AT_ONCE = 256
PROGRAM = "ipvsadm"  # ignored in any position of a line
SERVER_COMMANDS = (Command.ADD_SERVER, Command.EDIT_SERVER, Command.DELETE_SERVER)
MESSAGES: dict[type[PylvsError], str] = {
    errors.ServiceExists: "Service already exists",
    errors.NoSuchService: "No such service",
    errors.DestinationExists: "Destination already exists",
    errors.NoSuchDestination: "No such destination",
    errors.NoSuchScheduler: "Scheduler or persistence engine not found",
    errors.OutOfRange: "Numerical result out of range",
    errors.InvalidOperation: "Invalid operation.  Possibly wrong module version, address not unicast, ...",
    errors.NotPermitted: "Permission denied (you must be root)",
    errors.NoSuchDevice: "No such device",
    errors.DaemonRuns: "Daemon has already run",
    errors.NoDaemon: "No daemon is running",
}
CANNOT_OPEN = "Are you sure that IP Virtual Server is built in the kernel or as module?"
HINT_VARIABLE = "PYLVS_HINT"  # 1: print hints, 0: never; without it, at a terminal
LONGEST_QUOTE = 60  # characters of a line of the input, in a hint


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one command line; `final` ends a restore after it."""

    status: int = 0
    final: bool = False


class Session:
    """A run of ipvsadm, with its Director, streams and names."""

    def __init__(
        self,
        director: Director,
        stdin: IO[str],
        stdout: IO[str],
        stderr: IO[str],
        names: Names | None = None,
        host: Host | None = None,
        daemons: SyncDaemons | None = None,
    ) -> None:
        self.stdin = stdin
        self.stderr = stderr
        self._director = director
        self._stdout = stdout
        self._names = names or Names()
        self._host = host
        self._given_daemons = daemons
        self._hints = False  # this command prints hints
        self._line = 0  # of the input of -R; 0: none is being executed

    @property
    def _daemons(self) -> SyncDaemons:
        if self._given_daemons is None:
            from pylvs.sync.control import LocalDaemons

            self._given_daemons = LocalDaemons()
        return self._given_daemons

    def run(self, words: Sequence[str]) -> Outcome:
        """Parse and execute one command line; errors are printed on stderr, and hints behind them."""
        self._hints = hints_wanted(words, self.stderr)
        return self._execute(words, self._parse(words))

    def _parse(self, words: Sequence[str]) -> Request | OptionError:
        try:
            return parse(words, self._names)
        except OptionError as complaint:
            return complaint

    def _execute(self, words: Sequence[str], request: Request | OptionError, *, restoring: bool = False) -> Outcome:
        try:
            if isinstance(request, OptionError):
                raise request
            try:
                return self._do(request, restoring, words)
            except PylvsError as error:
                message = refusal(error, request.command in SERVER_COMMANDS)
                print(message, file=self.stderr)
                is_listing = request.command is Command.LIST
                self._hint_at(words, message, is_listing, error, request)
                return Outcome(EXIT_LISTING if is_listing else EXIT_REFUSED, final=is_listing)
        except OptionError as complaint:
            print(complaint.text, file=self.stderr)
            self._hint_at(words, complaint.text, complaint.final)
            return Outcome(complaint.status, complaint.final)

    def _hint_at(
        self,
        words: Sequence[str],
        message: str,
        final: bool,
        error: PylvsError | None = None,
        request: Request | None = None,
    ) -> None:
        """Print the hint for a mistake."""
        if not self._hints:
            return
        from pylvs.ipvsadm import hints  # late: scripts see none

        text = ""
        with contextlib.suppress(PylvsError):
            text = hints.hint(hints.Mistake(words, message, self._director, self._names, error, request))
        if self._line:
            line = " ".join(words)
            line = line if len(line) <= LONGEST_QUOTE else f"{line[:LONGEST_QUOTE]}..."
            effect = (
                "earlier lines stay in force, later ones are not read"
                if final
                else "the other lines are executed all the same"
            )
            text = f"line {self._line} of the input, {line}: {text}{'; ' if text else ''}{effect}"
        self._print_hint(text)

    def hint(self, words: Sequence[str], text: str) -> None:
        """Print a hint, if a command line with these words has hints."""
        if hints_wanted(words, self.stderr):
            self._print_hint(text)

    def _print_hint(self, text: str) -> None:
        if text:
            shown = "".join(each if each.isprintable() else "\ufffd" for each in text)
            print(f"hint: {shown}", file=self.stderr)

    def _advise(self, words: Sequence[str], request: Request, took_s: float) -> None:
        """Print hints on what a successful command will not achieve. `took_s` is how long it took."""
        from pylvs.ipvsadm.advice import Done, advice

        with contextlib.suppress(PylvsError, OSError), contextlib.ExitStack() as opened:
            host = self._host
            if host is None:
                from pylvs.dataplane.devices.host import ThisHost

                host = opened.enter_context(ThisHost())
            for text in advice(Done(words, request, self._director, host, self._names, took_s)):
                self._print_hint(text)

    def _do(self, request: Request, restoring: bool, words: Sequence[str]) -> Outcome:
        if request.command in (Command.HELP, Command.VERSION):
            from pylvs.ipvsadm import helptext

            self._stdout.write(helptext.HELP if request.command is Command.HELP else helptext.VERSION)
            return Outcome(final=True)
        if request.command is Command.RESTORE:
            if restoring:
                raise try_help()
            return self._restore()
        start = monotonic() if self._hints else 0.0
        if request.command is Command.LIST:
            self._list(request)
        elif request.command is Command.SAVE:
            from pylvs.ipvsadm.listing import rule_lines

            self._write(rule_lines(self._services(), self._writer(request)))
        else:
            self._edit(request)
        if self._hints and not restoring:
            self._advise(words, request, monotonic() - start)
        return Outcome()

    def _restore(self) -> Outcome:
        """Execute the lines of the input in order; a final error ends the restore, and earlier changes stay."""
        parsed = ((number, words, self._parse(words)) for number, words in command_lines(input_lines(self.stdin)))
        if self.stdin.isatty():  # each line takes effect at once
            return self._execute_lines(parsed)
        commands = list(parsed)  # names are looked up before the lock is taken: DNS may take long
        with self._director.batch():
            return self._execute_lines(commands)

    def _execute_lines(self, commands: Iterable[tuple[int, list[str], Request | OptionError]]) -> Outcome:
        outcome = Outcome()
        for self._line, words, request in commands:
            outcome = self._execute(words, request, restoring=True)
            if outcome.final:
                break
        self._line = 0
        return outcome

    def _edit(self, request: Request) -> None:
        director = self._director
        match request.command:
            case Command.ADD_SERVICE:
                director.add_service(request.service())
                self._warn_of_mark(request)
            case Command.EDIT_SERVICE:
                director.edit_service(request.service())
            case Command.DELETE_SERVICE:
                director.delete_service(request.service_key())
            case Command.ADD_SERVER:
                self._refuse_mixed(request)
                director.add_destination(request.service_key(), request.destination())
            case Command.EDIT_SERVER:
                director.edit_destination(request.service_key(), request.destination())
            case Command.DELETE_SERVER:
                director.delete_destination(request.service_key(), request.destination_key())
            case Command.FLUSH:
                director.flush()
            case Command.ZERO:
                self._zero(request)
            case Command.SET:
                director.set_timeouts(Timeouts(*request.timeouts_s))
            case Command.START_DAEMON:
                self._daemons.start(_daemon_of(request), director.services())
            case Command.STOP_DAEMON:
                self._daemons.stop(request.role)

    def _refuse_mixed(self, request: Request) -> None:
        """Raise InvalidOperation for a server of the other family while a sync daemon runs, as IPVS does."""
        if family_of(request.server) != request.family and any(self._daemons.running()):
            raise InvalidOperation("a sync daemon runs, and its messages have one address family for each connection")

    def _warn_of_mark(self, request: Request) -> None:
        """Warn of a mark that no rule gives.

        Without any rule, a filter of tc may set the mark. Then scripts get no warning: the real ipvsadm prints none.
        """
        if not request.mark:
            return
        key, rules = request.service_key(), self._director.mark_rules()
        version = key.address.version
        if any(rule.may_give(key.mark, version) for rule in rules) or not (rules or self.stderr.isatty()):
            return
        print(
            f"ipvsadm: warning: no rule gives packets of IPv{version} the mark {key.mark}, so the service gets"
            " none but those that a filter of tc marks; see: pylvs mark add --help, pylvs mark import",
            file=self.stderr,
        )

    def _zero(self, request: Request) -> None:
        one = Given.SERVICE_ADDRESS in request.given
        everything = not one or (not request.mark and not request.port and int(request.address) == 0)
        self._director.zero(None if everything else request.service_key())

    def _list(self, request: Request) -> None:
        given = request.given
        if Given.CONNECTION in given:
            from pylvs.ipvsadm.listing import connection_lines

            lines = connection_lines(
                self._director.connections(), self._writer(request), engines=Given.PERSISTENT_CONN in given
            )
            self._write(lines)
        elif Given.TIMEOUT in given:
            now = self._director.timeouts()
            self._stdout.write(f"Timeout (tcp tcpfin udp): {now.tcp_s} {now.tcp_fin_s} {now.udp_s}\n")
        elif Given.DAEMON in given:
            for running in self._daemons.running():
                daemon = running.daemon
                self._stdout.write(
                    f"{daemon.role} sync daemon (mcast={daemon.interface}, syncid={daemon.syncid},"
                    f" maxlen={running.maxlen}, group={daemon.group}, port={daemon.port}, ttl={daemon.ttl})\n"
                )
        else:
            self._list_table(request)

    def _list_table(self, request: Request) -> None:
        from pylvs.ipvsadm.listing import table, version_line, view_of

        if Given.SERVICE_ADDRESS in request.given:
            rows = [self._director.service(request.service_key())]
        else:
            rows = self._services()
            self._stdout.write(version_line(self._director.table_size()))
        unsorted = Given.NOSORT in request.given
        lines = table(rows, view_of(request.given), self._writer(request), unsorted=unsorted)
        self._write(lines)

    def _write(self, lines: Iterator[str]) -> None:
        """Write single lines to a terminal, else blocks: Python's streams may have no buffer (PYTHONUNBUFFERED)."""
        if self._stdout.isatty():
            self._stdout.writelines(lines)
            return
        while piece := "".join(islice(lines, LINES_AT_ONCE)):
            self._stdout.write(piece)

    def _services(self) -> list[ServiceRow]:
        """Return all services but those of the daemon's checks through a virtual address, which the daemon manages."""
        return [row for row in self._director.services() if not is_probe_mark(row.service.key.mark)]

    def _writer(self, request: Request) -> Writer:
        from pylvs.ipvsadm.listing import numeric, with_names

        return numeric if Given.NUMERIC in request.given else with_names(self._names)


def _daemon_of(request: Request) -> SyncDaemon:
    """Return the sync daemon that a command starts; the interface of one without is eth0, as in ipvsadm."""
    from pylvs.model.sync.daemons import GROUP, PORT, TTL, SyncDaemon

    return SyncDaemon(
        request.role,
        request.interface or "eth0",
        request.syncid,
        request.maxlen,
        request.group or GROUP,
        request.mcast_port or PORT,
        request.mcast_ttl or TTL,
    )


def hints_wanted(words: Sequence[str], stderr: IO[str] | None) -> bool:
    """Return whether a command prints hints: at a terminal, or as PYLVS_HINT or `--hint` asks."""
    chosen = os.environ.get(HINT_VARIABLE, "")
    return HINT in words or (chosen != "0" if chosen else stderr is not None and stderr.isatty())


def command_lines(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield number and arguments of each line of `-R` that has any: split at blanks, without quotes or comments."""
    for number, line in enumerate(lines, 1):
        words = [word for word in line.replace("\t", " ").replace("\r", " ").rstrip("\n").split(" ") if word]
        words = [word for word in words if word != PROGRAM]
        if words:
            yield number, words


def input_lines(stdin: IO[str]) -> Iterable[str]:
    """Return the lines of the input; only line feeds end them.

    A pipe or file is read completely first: a slow writer must not keep the tables locked.
    """
    if stdin.isatty():
        return stdin
    return stdin.read().split("\n")


def refusal(error: PylvsError, of_server: bool) -> str:
    """Return the message for an error of the tables; `of_server` is set for a command about a real server."""
    if isinstance(error, errors.NoSuchService) and of_server:
        return "Service not defined"
    return MESSAGES.get(type(error)) or str(error)


def cannot_open(error: PylvsError) -> str:
    """Return the message for tables that could not be opened."""
    if isinstance(error, errors.NotPermitted):
        return f"Can't initialize ipvs: {MESSAGES[errors.NotPermitted]}\n{CANNOT_OPEN}"
    return f"Can't initialize ipvs: {error}"

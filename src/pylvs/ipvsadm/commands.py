"""Execution of requests on a Director.

Scripts start ipvsadm once for each change of a server, so a command imports only what it needs.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from pylvs.ipvsadm.messages import EXIT_LISTING, EXIT_REFUSED, Complaint, ftp_by_nat, no_rule, refusal, try_help
from pylvs.ipvsadm.names import Names, numeric, with_names
from pylvs.ipvsadm.options import Command, Given
from pylvs.ipvsadm.parsing import Request, parse
from pylvs.model import sockets as socket
from pylvs.model.addresses import family_of
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import InvalidOperation, NoSuchDevice, PylvsError, Unsupported
from pylvs.model.service import Method, Protocol, Timeouts, is_probe_mark

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from typing import IO, NoReturn

    from pylvs.ipvsadm.names import Writer
    from pylvs.model.director import Director
    from pylvs.model.rows import ServiceRow

LINES_AT_ONCE = 256
FTP_PORT = 21
SERVER_COMMANDS = (Command.ADD_SERVER, Command.EDIT_SERVER, Command.DELETE_SERVER)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one command line; `final` ends a restore after it."""

    status: int = 0
    final: bool = False


class Session:
    """A run of ipvsadm, with its Director, names and streams."""

    def __init__(self, director: Director, names: Names, stdin: IO[str], stdout: IO[str], stderr: IO[str]) -> None:
        self._director = director
        self._names = names
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr

    def run(self, words: Sequence[str], *, restoring: bool = False) -> Outcome:
        """Parse and execute one command line; errors are printed on stderr."""
        try:
            request = parse(words, self._names)
            try:
                return self._do(request, restoring)
            except PylvsError as error:
                print(refusal(error, request.command in SERVER_COMMANDS), file=self._stderr)
                is_listing = request.command is Command.LIST
                return Outcome(EXIT_LISTING if is_listing else EXIT_REFUSED, final=is_listing)
        except Complaint as complaint:
            print(complaint.text, file=self._stderr)
            return Outcome(complaint.status, complaint.final)

    def restore(self, lines: Iterable[str]) -> Outcome:
        """Execute command lines in order; a final error ends the restore, and earlier changes stay."""
        from pylvs.ipvsadm.rules import command_lines

        outcome = Outcome()
        for words in command_lines(lines):
            outcome = self.run(words, restoring=True)
            if outcome.final:
                break
        return outcome

    def _do(self, request: Request, restoring: bool) -> Outcome:
        if request.command in (Command.HELP, Command.VERSION):
            from pylvs.ipvsadm import helptext

            self._stdout.write(helptext.HELP if request.command is Command.HELP else helptext.VERSION)
            return Outcome(final=True)
        if request.command is Command.RESTORE:
            if restoring:
                raise try_help()
            return self._restore_input()
        if request.command is Command.LIST:
            self._list(request)
        elif request.command is Command.SAVE:
            from pylvs.ipvsadm.rules import rule_lines

            self._write(rule_lines(self._services(), self._writer(request)))
        else:
            self._edit(request)
        return Outcome()

    def _restore_input(self) -> Outcome:
        from pylvs.ipvsadm.rules import input_lines

        lines = input_lines(self._stdin)
        # A line from a terminal takes effect at once. Other input is read first, and the lock held only for the edits.
        with contextlib.nullcontext() if self._stdin.isatty() else self._director.batch():
            return self.restore(lines)

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
                director.add_destination(request.service_key(), request.destination())
                self._warn_of_ftp(request)
            case Command.EDIT_SERVER:
                director.edit_destination(request.service_key(), request.destination())
            case Command.DELETE_SERVER:
                director.delete_destination(request.service_key(), request.destination_key())
            case Command.FLUSH:
                director.flush()
            case Command.ZERO:
                self._zero(request)
            case Command.SET:
                self._set_timeouts(request)
            case Command.START_DAEMON:
                _refuse_daemon(request, director.services())
            case Command.STOP_DAEMON:
                raise NoDaemon("No daemon is running")

    def _set_timeouts(self, request: Request) -> None:
        tcp, tcp_fin, udp = request.timeouts_s
        now = self._director.timeouts()
        self._director.set_timeouts(Timeouts(tcp or now.tcp_s, tcp_fin or now.tcp_fin_s, udp or now.udp_s))

    def _warn_of_mark(self, request: Request) -> None:
        """Warn of a mark that no rule gives.

        Without any rule, a filter of tc may set the mark. Then scripts get no warning: the real ipvsadm prints none.
        """
        if not request.mark:
            return
        from pylvs.model.marks import give_mark  # late: no other command needs it

        key, rules = request.service_key(), self._director.mark_rules()
        if give_mark(rules, key.mark, key.address.version) or not (rules or self._stderr.isatty()):
            return
        print(no_rule(key), file=self._stderr)

    def _warn_of_ftp(self, request: Request) -> None:
        """Warn of FTP by NAT, only at a terminal: scripts expect the output of the real ipvsadm, which is none."""
        is_ftp = request.port == FTP_PORT and request.protocol == Protocol.TCP
        if is_ftp and request.method is Method.MASQ and self._stderr.isatty():
            print(ftp_by_nat(), file=self._stderr)

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
        elif Given.DAEMON not in given:  # there is no synchronisation daemon to list
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
        return numeric if Given.NUMERIC in request.given else with_names(self._names)


class NoDaemon(PylvsError):
    """A command stops a synchronisation daemon, and pylvs has none."""

    errno = errno.ESRCH


def _refuse_daemon(request: Request, rows: Iterable[ServiceRow]) -> NoReturn:
    """Check the arguments. Raises InvalidOperation, NoSuchDevice, Unsupported where ipvsadm would start a daemon."""
    for row in rows:
        if any(family_of(each.destination.key.address) != row.service.key.family for each in row.destinations):
            raise InvalidOperation(f"{row.service.key} has a server of the other address family")
    interface = request.interface or "eth0"  # ipvsadm's default
    try:
        socket.if_nametoindex(interface)
    except (OSError, ValueError):
        raise NoSuchDevice(f"{interface}: no such device") from None
    raise Unsupported("--start-daemon: pylvs has no connection synchronisation; nothing was started")

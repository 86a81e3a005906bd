"""Messages of errors and warnings, and exit statuses. An error that ipvsadm does not have keeps pylvs's message."""

from __future__ import annotations

from pylvs.model import errors
from pylvs.model.service import ServiceKey

EXIT_ARGUMENTS = 2  # invalid arguments
EXIT_REFUSED = 255  # errors of the tables, and unknown options
EXIT_LISTING = 1  # a listing of a missing service, or output that could not be written


class Complaint(Exception):
    """An error message for stderr with an exit status; a `final` one ends a restore at this line."""

    def __init__(self, text: str, status: int = EXIT_ARGUMENTS, *, final: bool = True) -> None:
        super().__init__(text)
        self.text = text
        self.status = status
        self.final = final


def try_help() -> Complaint:
    """Return the error for a command line that does not begin with a command."""
    return Complaint("Try `ipvsadm -h' or 'ipvsadm --help' for more information.", EXIT_REFUSED)


def not_understood(word: str, problem: str) -> Complaint:
    """Return the error for an unknown option, or an option without its value."""
    return Complaint(f"{word}: {problem}", EXIT_REFUSED, final=False)


WORDS: dict[type[errors.PylvsError], str] = {
    errors.ServiceExists: "Service already exists",
    errors.NoSuchService: "No such service",
    errors.DestinationExists: "Destination already exists",
    errors.NoSuchDestination: "No such destination",
    errors.NoSuchScheduler: "Scheduler or persistence engine not found",
    errors.OutOfRange: "Numerical result out of range",
    errors.InvalidOperation: "Invalid operation.  Possibly wrong module version, address not unicast, ...",
    errors.NotPermitted: "Permission denied (you must be root)",
    errors.NoSuchDevice: "No such device",
}
HINT = "Are you sure that IP Virtual Server is built in the kernel or as module?"


def refusal(error: errors.PylvsError, of_server: bool) -> str:
    """Return the message for an error of the tables; `of_server` is set for a command about a real server."""
    if isinstance(error, errors.NoSuchService) and of_server:
        return "Service not defined"
    return WORDS.get(type(error)) or str(error)


def no_rule(key: ServiceKey) -> str:
    """Return a warning about a service of a firewall mark that no rule gives."""
    return (
        f"ipvsadm: warning: no rule gives IPv{key.address.version} packets the mark {key.mark}, so the service gets"
        " none but those that a filter of tc marks; see: pylvs mark add --help, pylvs mark import"
    )


def ftp_by_nat() -> str:
    """Return a warning about a real server of FTP whose data connections NAT does not translate."""
    return (
        "ipvsadm: warning: the addresses in FTP's control connection are not translated, so passive mode (PASV, EPSV)"
        " fails with -m; use -g or -i with a persistent service (-p), or give the server the virtual address and a"
        " service for each of its passive ports"
    )


def cannot_open(error: errors.PylvsError) -> str:
    """Return the message for tables that could not be opened."""
    if isinstance(error, errors.NotPermitted):
        return f"Can't initialize ipvs: {WORDS[errors.NotPermitted]}\n{HINT}"
    return f"Can't initialize ipvs: {error}"

"""ipvsadm's words for what the tables refuse; what ipvsadm never meets is said in pylvs's own words."""

from __future__ import annotations

from pylvs.ipvsadm.options import Command
from pylvs.model import errors
from pylvs.model.service import ServiceKey

SERVER_COMMANDS = frozenset({Command.ADD_SERVER, Command.EDIT_SERVER, Command.DELETE_SERVER})
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


def refusal(error: errors.PylvsError, command: Command) -> str:
    """What the command says about an error of the tables."""
    if isinstance(error, errors.NoSuchService) and command in SERVER_COMMANDS:
        return "Service not defined"
    return WORDS.get(type(error)) or str(error)


def no_rule(key: ServiceKey) -> str:
    """A warning about a service of a firewall mark that no rule gives."""
    return (
        f"ipvsadm: warning: no rule gives IPv{key.address.version} packets the mark {key.mark}, so the service gets"
        " none but those that a filter of tc marks; see: pylvs mark add --help, pylvs mark import"
    )


def ftp_by_nat() -> str:
    """A warning about a real server of FTP whose data connections NAT will not find."""
    return (
        "ipvsadm: warning: the addresses in FTP's control connection are not translated, so passive mode (PASV, EPSV)"
        " fails with -m; use -g or -i with a persistent service (-p), or give the server the virtual address and a"
        " service for each of its passive ports"
    )


def cannot_open(error: errors.PylvsError) -> str:
    """What is said when the tables cannot be reached at all."""
    if isinstance(error, errors.NotPermitted):
        return f"Can't initialize ipvs: {WORDS[errors.NotPermitted]}\n{HINT}"
    return f"Can't initialize ipvs: {error}"

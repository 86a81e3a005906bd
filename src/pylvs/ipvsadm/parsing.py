"""From words to a checked request, in the order in which ipvsadm checks: the first complaint ends it."""

from __future__ import annotations

from collections.abc import Sequence

from pylvs.ipvsadm.arguments import Unreadable, Words
from pylvs.ipvsadm.complaints import Complaint, not_understood, try_help
from pylvs.ipvsadm.matrix import check_command, check_listing, check_tunnel
from pylvs.ipvsadm.names import Names
from pylvs.ipvsadm.options import Command
from pylvs.ipvsadm.request import Request
from pylvs.ipvsadm.setters import SETTERS, checked_timeout
from pylvs.model import sockets as socket
from pylvs.model.addresses import family_of
from pylvs.model.destination import Method
from pylvs.model.service import ServiceFlag

TIMEOUTS_TO_SET = 3


def parse(words: Sequence[str], names: Names) -> Request:
    """The request of a command line, which is given without the program's name. Raises Complaint."""
    if not words:
        return Request(Command.LIST)
    reader = Words(words)
    request = _command(reader, names)
    if request.command in (Command.HELP, Command.VERSION):
        return request
    _read_options(reader, request, names)
    _read_words_aside(reader, request)
    if request.flag_words:
        from pylvs.ipvsadm.flags import read_flags

        request.flags |= read_flags(request.flag_words, request.scheduler)
    _check(request)
    return request


def _command(reader: Words, names: Names) -> Request:
    try:
        option, value = next(reader)
    except (Unreadable, StopIteration):
        raise try_help() from None
    if option.command is None:
        raise try_help()
    request = Request(option.command)
    if option.long in SETTERS:
        SETTERS[option.long](request, value, names)
    return request


def _read_options(reader: Words, request: Request, names: Names) -> None:
    try:
        for option, value in reader:
            if option.command is not None:
                raise Complaint(f"invalid option `{reader.latest}'")
            if option.given in request.given:
                raise Complaint(f"multiple '{option.given}' options specified")
            if option.given:
                request.given.add(option.given)
            if option.long in SETTERS:
                SETTERS[option.long](request, value, names)
    except Unreadable as problem:
        raise not_understood(reader.latest, str(problem)) from None


def _read_words_aside(reader: Words, request: Request) -> None:
    aside = reader.aside
    if request.command is Command.SET:
        if len(aside) < TIMEOUTS_TO_SET:
            raise Complaint("--set option requires 3 timeout values")
        request.timeouts_s = tuple(checked_timeout(word, 0) for word in aside[:TIMEOUTS_TO_SET])
        aside = aside[TIMEOUTS_TO_SET:]
    if aside:
        raise Complaint(f"unexpected argument {aside[0]}")


def _check(request: Request) -> None:
    command, given = request.command, request.given
    check_command(command, given)
    if command in (Command.ADD_SERVICE, Command.EDIT_SERVICE):
        if not request.mark and not request.port and ServiceFlag.PERSISTENT not in request.flags:
            raise Complaint("Zero port specified for non-persistent service")
        if ServiceFlag.ONE_PACKET in request.flags and not request.mark and request.protocol != socket.IPPROTO_UDP:
            raise Complaint("One-Packet Scheduling is only for UDP virtual services")
    if command in (Command.ADD_SERVER, Command.EDIT_SERVER):
        if not request.mark and request.method is not Method.MASQ:
            request.server_port = request.port  # DR and tunnels leave the packet's port as it is
        if family_of(request.server) != request.family and request.method is not Method.TUNNEL:
            raise Complaint("Different address family is allowed only for tunneling servers")
        check_tunnel(request.method, request.tunnel_kind, given)
    if command is Command.LIST:
        check_listing(given)

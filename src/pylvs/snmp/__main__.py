"""`python -m pylvs.snmp STATE_DIR LOG_FORMAT`: the sub-agent. It reads version and configuration from standard input.

`pylvs run` starts it, and starts another one after a reload. It ends with `pylvs run`. This process makes the
connections; a confined one, its child, parses what snmpd sends, and answers. Bytes on standard output show the daemon
that both work.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from pylvs.model.wanted import Configuration
from pylvs.snmp.agent import Agent, EndSignal
from pylvs.snmp.connections import DirectConnections
from pylvs.snmp.relay import Relay, RelayedConnections
from pylvs.system import logs, sandbox, syscalls
from pylvs.system.processes import VERSION_LINE, other_version

NAME, CONFINED_NAME = b"pylvs-snmp", b"pylvs-agentx"  # shown by ps and top
_STREAMS = 3  # standard input, output and error
_DESCRIPTORS, _MEMORY = 64, 1 << 30


def main() -> None:
    """Serve until the daemon ends this process."""
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.set_up(sys.argv[2], process="snmp")
    if sys.stdin.buffer.readline() != VERSION_LINE:
        logs.get_logger().error(f"the SNMP sub-agent {other_version()}")
        sys.exit(1)
    configuration = pickle.load(sys.stdin.buffer)
    assert isinstance(configuration, Configuration)
    settings = configuration.settings
    named = replace(settings, router_id=settings.router_id or socket.gethostname())  # a resolver may block
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()  # it has the configuration, and all modules
    if not child:
        ours.close()
        _serve_confined(its, replace(configuration, settings=named))
    end = EndSignal()
    its.close()
    os.set_blocking(sys.stdout.fileno(), False)
    connections = DirectConnections(settings.snmp, Path(sys.argv[1]))
    Relay(ours, connections, partial(os.kill, child), end.fileno()).run()
    os.kill(child, signal.SIGKILL)  # it may have closed its end, and live
    os.waitpid(child, 0)


def _serve_confined(channel_end: socket.socket, configuration: Configuration) -> None:
    """Run the sub-agent without privileges, and end the process."""
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(_STREAMS):  # of the daemon: its pipes, and the log
        os.dup2(nothing, number)
    os.closerange(_STREAMS, channel_end.fileno())
    os.closerange(channel_end.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    syscalls.prctl(syscalls.PR_SET_NAME, CONFINED_NAME)
    connections = RelayedConnections(channel_end)
    logs.write_with(connections.log)
    end = EndSignal()
    try:
        for privilege in sandbox.confine(_DESCRIPTORS, _MEMORY):
            logs.get_logger().warning(f"the SNMP sub-agent keeps a privilege: {privilege}")
        Agent(configuration, connections, end.fileno()).run()
    except BaseException:
        logs.get_logger().exception("the SNMP sub-agent failed")
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()

"""`python -m pylvs.snmp STATE_DIR LOG_FORMAT`: the sub-agent. It reads the configuration from standard input.

`pylvs run` starts it, and starts another one after a reload. It ends with `pylvs run`.
"""

from __future__ import annotations

import pickle
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

from pylvs.model.wanted import Configuration
from pylvs.snmp.agent import Agent, EndSignal
from pylvs.system import logs, syscalls

NAME = b"pylvs-snmp"


def main() -> None:
    """Serve until the daemon ends this process."""
    syscalls.prctl(syscalls.PR_SET_NAME, NAME)
    end = EndSignal()
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.set_up(sys.argv[2], process="snmp")
    configuration = pickle.load(sys.stdin.buffer)
    assert isinstance(configuration, Configuration)
    settings = configuration.settings
    named = replace(settings, router_id=settings.router_id or socket.gethostname())
    Agent(replace(configuration, settings=named), Path(sys.argv[1]), end.fileno()).run()


if __name__ == "__main__":
    main()

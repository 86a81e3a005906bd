"""Run the SNMP sub-agent, a process of its own, while the configuration enables SNMP."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from dataclasses import replace

from pylvs.daemon.state.directory import StateDirectory
from pylvs.model.wanted import Configuration
from pylvs.system.logs import get_logger
from pylvs.system.processes import VERSION_LINE, command
from pylvs.system.processes.child import environment

LOGGING = ("JOURNAL_STREAM", "PYLVS_LOG_LEVEL", "TZ")  # what the log needs of the environment
RESTART_PAUSE_S = 5.0
TICK_S = 1.0
LEASE_TICKS = 60  # of silence: it may start slowly, wait for snmpd, or make very many objects
MOST_READ = 1 << 12  # bytes at once
END_S = 2.0  # for the last traps; then it is killed


class SnmpProcess:
    """Keeps the sub-agent running. A changed configuration replaces it."""

    def __init__(self, state: StateDirectory, log_format: str) -> None:
        self._state = state
        self._format = log_format
        self._wanted: Configuration | None = None
        self._changed = asyncio.Event()
        self._reason = ""  # why the last process ended
        self.problem = ""  # the same, until another one is alive

    def configure(self, configuration: Configuration) -> None:
        """Serve this configuration from now on."""
        wanted = _without_secrets(configuration) if configuration.settings.snmp.enabled else None
        if wanted != self._wanted:
            self._wanted = wanted
            self.problem = ""
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled: start the process, and again after it has ended."""
        while True:
            self._changed.clear()
            if self._wanted is not None:
                try:
                    await self._run(self._wanted)
                except OSError as error:
                    self._reason = f"could not be started ({error.strerror})"
                if not self._changed.is_set():
                    self.problem = f"the SNMP sub-agent {self._reason} and is started again"
                    get_logger().error(self.problem)
                    await asyncio.sleep(RESTART_PAUSE_S)
                    continue
            await self._changed.wait()

    async def _run(self, configuration: Configuration) -> None:
        """Run one process until it ends or is silent, or the configuration changes."""
        process = await asyncio.create_subprocess_exec(
            *command("pylvs.snmp", str(self._state.path), self._format),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(*LOGGING),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._reason = "ended by itself"
        ended, changed = asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._changed.wait())
        silent = asyncio.ensure_future(self._await_silence(process.stdout))
        try:
            process.stdin.write(VERSION_LINE + pickle.dumps(configuration))
            process.stdin.close()  # behind the last byte; a process that does not read is silent
            await asyncio.wait({ended, changed, silent}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            silent.cancel()
            with contextlib.suppress(ProcessLookupError):
                if not ended.done():
                    process.terminate()
                await asyncio.wait({ended}, timeout=END_S)
                if not ended.done():
                    process.kill()
            await asyncio.shield(ended)

    async def _await_silence(self, output: asyncio.StreamReader) -> None:
        """Return when the process has written nothing for its lease. A late tick counts once."""
        ticks = 0
        while ticks < LEASE_TICKS:
            try:
                data = await asyncio.wait_for(output.read(MOST_READ), TICK_S)
            except TimeoutError:
                ticks += 1
                continue
            if not data:  # it ends
                await asyncio.Event().wait()
            self.problem, ticks = "", 0
        self._reason = f"was silent for {LEASE_TICKS * TICK_S:g} s"


def _without_secrets(configuration: Configuration) -> Configuration:
    """Remove what no MIB shows and may be secret: the settings of checks, and the passwords of virtual routers."""
    services = tuple(
        replace(each, servers=tuple(replace(server, checks=()) for server in each.servers))
        for each in configuration.services
    )
    instances = tuple(replace(each, password=b"") for each in configuration.vrrp.instances)
    return replace(configuration, services=services, vrrp=replace(configuration.vrrp, instances=instances))

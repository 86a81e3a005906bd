"""Run the SNMP sub-agent, a process of its own, while the configuration enables SNMP."""

from __future__ import annotations

import asyncio
import contextlib
import pickle

from pylvs.daemon.state_dir import StateDirectory
from pylvs.model.wanted import Configuration
from pylvs.system.logs import get_logger
from pylvs.system.processes import command

RESTART_PAUSE_S = 5.0
END_S = 2.0  # for the last traps; then it is killed


class SnmpProcess:
    """Keeps the sub-agent running. A changed configuration replaces it."""

    def __init__(self, state: StateDirectory, log_format: str) -> None:
        self._state = state
        self._format = log_format
        self._wanted: Configuration | None = None
        self._changed = asyncio.Event()

    def configure(self, configuration: Configuration) -> None:
        """Serve this configuration from now on."""
        wanted = configuration if configuration.settings.snmp.enabled else None
        if wanted != self._wanted:
            self._wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Until cancelled: start the process, and again after it has ended."""
        while True:
            self._changed.clear()
            if self._wanted is not None:
                await self._run(self._wanted)
                if not self._changed.is_set():
                    get_logger().error("the SNMP sub-agent ended by itself and is started again")
                    await asyncio.sleep(RESTART_PAUSE_S)
                    continue
            await self._changed.wait()

    async def _run(self, configuration: Configuration) -> None:
        """Run one process until it ends, or the configuration changes."""
        process = await asyncio.create_subprocess_exec(
            *command("pylvs.snmp", str(self._state.path), self._format), stdin=asyncio.subprocess.PIPE
        )
        ended, changed = asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._changed.wait())
        try:
            assert process.stdin is not None
            with contextlib.suppress(ConnectionError):
                process.stdin.write(pickle.dumps(configuration))
                await process.stdin.drain()
                process.stdin.close()
            await asyncio.wait({ended, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
                await asyncio.wait({ended}, timeout=END_S)
                if not ended.done():
                    process.kill()
            await asyncio.shield(ended)

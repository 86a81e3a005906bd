"""Labs whose directors use the loads of directors of earlier labs, with emptied maps: see tests/recycled.py.

A director then has an empty table before its first command, as after `ipvsadm -C`. All else is as in a new lab. Labs
that a command makes, as `pylvs lab up`, load anew.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from unittest import mock

from pylvs.bpf import kernel
from pylvs.dataplane import load
from pylvs.dataplane.state import State, own_build
from pylvs.lab import lab as labs_module
from pylvs.lab.network import DIRECTOR, Network
from pylvs.model.errors import PylvsError
from pylvs.system.namespaces import inside_network
from pylvs.system.processes import command as python_command
from tests.recycled import Load

MOST = 3  # kept loads; each takes 200 MB
_ROOT = Path(__file__).parents[2]
_BOOT = python_command("pylvs.lab.boot")
_PATHS = [f"{_ROOT}/src", str(_ROOT)]
_RECYCLED_BOOT = f"import sys; sys.path[:0] = {_PATHS!r}; from tests.lab.recycled_boot import main; main()"
_start, _remove_tables = labs_module._start, labs_module._remove_tables


class Labs:
    """The loads of directors that are gone."""

    def __init__(self) -> None:
        self.loads: list[Load] = []
        self._lends = True

    @contextmanager
    def recycling(self) -> Iterator[None]:
        """Let the labs of this process use earlier loads, and keep theirs."""
        with (
            mock.patch.object(labs_module, "_start", self._start),
            mock.patch.object(labs_module, "_remove_tables", self._remove_tables),
        ):
            try:
                yield
            finally:
                while self.loads:
                    self.loads.pop().close()

    @contextmanager
    def loading_anew(self) -> Iterator[None]:
        """Let the labs of this block have no tables before their first command."""
        with mock.patch.object(self, "_lends", new=False):
            yield

    def _start(self, command: Sequence[str], text: str, *inherited: int) -> subprocess.Popen[str]:
        """Start a command that makes a part of a lab; let the one that boots the hosts have loads for the directors."""
        if list(command[: len(_BOOT)]) != _BOOT or not self._lends:
            return _start(command, text, *inherited)
        directors = [host.name for host in Network.from_dict(json.loads(text)).hosts if host.role == DIRECTOR]
        with ExitStack() as until:
            lent = {host: self.loads.pop() for host in directors if self.loads}
            for each in lent.values():
                until.callback(each.close)
            words = json.dumps({host: each.description for host, each in lent.items()})
            numbers = [number for each in lent.values() for number in each.numbers]
            command = [*_BOOT[:-1], _RECYCLED_BOOT, *command[len(_BOOT) :], words]
            return _start(command, text, *inherited, *numbers)

    def _remove_tables(self, name: str, namespaces: Mapping[str, Path]) -> None:
        """Remove the tables of directors as `pylvs down` does, without a process of its own for each, and keep loads.

        No process of the lab runs any more.
        """
        for host, path in namespaces.items():
            if host.startswith(DIRECTOR):
                with suppress(OSError, PylvsError), inside_network(path):
                    self._remove_state(State.open())
        _remove_tables(name, {host: path for host, path in namespaces.items() if _has_state(path)})

    def _remove_state(self, state: State) -> None:
        with ExitStack() as until:
            found = _load_of(state)
            if found:
                until.callback(found.close)
            load.take_down(state)
            if found and len(self.loads) < MOST:
                found.empty()
                until.pop_all()
                self.loads.append(found)


def _load_of(state: State) -> Load | None:
    """Return the load of a state, if another lab may use it."""
    if not state.exists or state.build() != own_build() or state.unfinished() or state.leftovers()[1]:
        return None
    found = Load.of(state)
    if found.connections == kernel.connection_limit() and not found.is_traced:
        return found
    found.close()
    return None


def _has_state(namespace: Path) -> bool:
    """Return whether the network namespace still has tables."""
    with suppress(OSError, PylvsError), inside_network(namespace):
        return State.open().exists
    return True


labs = Labs()

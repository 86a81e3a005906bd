"""Reads configurations. What takes long is done in a process of its own, so that no check waits for it."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time

from pylvs.config.building import build
from pylvs.config.findings import Finding, Place, Severity
from pylvs.config.reading import read
from pylvs.daemon.loading import Loaded, as_asked
from pylvs.daemon.options import Options
from pylvs.model.wanted import Configuration
from pylvs.system.self_exec import command

LONG_S = 0.5  # of one processor, for reading the former time; a process takes about as long to start


def load(options: Options) -> Loaded:
    """The configuration in its file; what is wrong with it is a finding."""
    document, findings = read(options.file, options.ids)
    built, more = build(document)
    return Loaded(as_asked(built, options), (*findings, *more), not document.nodes, document.files)


class Loader:
    """Knows how long it took."""

    def __init__(self, long_s: float = LONG_S) -> None:
        self._long_s = long_s
        self._took_s = 0.0

    def load(self, options: Options) -> Loaded:
        """As above; in a thread."""
        if self._took_s >= self._long_s:
            return load_elsewhere(options)
        begin = time.thread_time()
        found = load(options)
        self._took_s = time.thread_time() - begin
        return found


def load_elsewhere(options: Options) -> Loaded:
    """As above, in a process of its own."""
    try:
        done = subprocess.run(
            command("pylvs.daemon.loader"),
            input=pickle.dumps(options),
            stdout=subprocess.PIPE,
            start_new_session=True,  # what is typed at the terminal is for the daemon
            check=False,
        )
    except OSError as error:
        return _unread(options, f"no process could be made to read it: {error.strerror}")
    if done.returncode:
        how = f"exit status {done.returncode}" if done.returncode > 0 else f"ended by signal {-done.returncode}"
        return _unread(options, f"the process that reads it failed ({how})")
    found = pickle.loads(done.stdout)
    assert isinstance(found, Loaded)
    return found


def _unread(options: Options, text: str) -> Loaded:
    return Loaded(Configuration(), (Finding(Place(options.file, 1, 1), Severity.ERROR, text, fatal=True),))


def main() -> None:
    """The process: options come in, what was loaded goes out."""
    pickle.dump(load(pickle.load(sys.stdin.buffer)), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)


if __name__ == "__main__":
    main()

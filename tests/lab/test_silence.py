"""Two directors of which one process stops (SIGSTOP) or is killed: the silence is shown, and handled."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.interop.namespaces import ip
from tests.lab.test_virtual_routers import INSTANCE, VIP, Node, pair
from tests.waiting import until, until_reaped

__all__ = ["pair"]  # a fixture


def leased(seconds: int) -> str:
    """Return a configuration in which `pylvs run` and its virtual routers may be silent for so long."""
    return f"global_defs {{{{\n    data_plane_lease {seconds}\n}}}}\n{INSTANCE}"


STEADY = leased(3600)


def start(pair: tuple[Node, Node], more: str = "", text: str = STEADY) -> tuple[Node, Node]:
    """Start both, the first with more in its instance, and wait until it is master."""
    first, second = pair
    first.write(more, text)
    second.write(text=STEADY)
    for node in pair:
        node.start()
    until(lambda: first.is_in("MASTER") and second.is_in("BACKUP"), "the first is master")
    until(first.holds, "and holds the address")
    return pair


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Stop a process, and let it continue at the end if it still lives."""
    descriptor = os.pidfd_open(process)
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGSTOP)
        yield
    finally:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        os.close(descriptor)


def test_the_peer_takes_over_from_a_silent_pylvs_run_with_track_data_plane(pair: tuple[Node, Node]) -> None:
    # Longer than a pause on a busy machine, after which pylvs run would replace the process of virtual routers.
    first, second = start(pair, "track_data_plane", leased(8))
    unknown = "the state of the packet path is unknown: no report from pylvs run for 8 s"
    process = first.process()
    assert first.daemon is not None
    with stopped(first.daemon.pid):
        until(lambda: first.is_in("FAULT") and second.is_in("MASTER"), "the second takes over")
        assert not first.holds()
        shown = first.run("vrrp", "status")
        assert "whether services are forwarded here is unknown: no report from pylvs run for 8 s" in shown
        assert "data plane is unknown" in shown
        until(lambda: unknown in first.log(), "which the log has a moment later")
    until(lambda: first.is_in("MASTER") and second.is_in("BACKUP"), "it reports again")
    first.end(signal.SIGKILL)
    until(lambda: first.is_in("FAULT") and second.is_in("MASTER"), "it was killed")
    first.start()
    until(lambda: first.is_in("MASTER"), "the next one's first report ends it")
    assert first.process() == process

    def agree() -> bool:
        """Return whether all show the same; a report that comes late on a busy machine changes it once more."""
        times, plane, metrics = first.log().count(unknown), first.ask()["data_plane"], first.run("metrics")
        return (
            times >= 2
            and plane == {"up": True, "reason": "", "expired": times}
            and "pylvs_vrrp_data_plane 1.0" in metrics
            and f"pylvs_vrrp_data_plane_expired_total {times}.0" in metrics
        )

    until(agree, lambda: f"{first.ask()['data_plane']}\n{first.log()}\n{first.run('metrics')}")


def test_a_restart_within_the_lease_changes_nothing(pair: tuple[Node, Node]) -> None:
    first, _ = start(pair, "track_data_plane")
    since = first.router()["since"]
    first.end(signal.SIGKILL)
    first.start()
    assert (first.router()["state"], first.router()["since"]) == ("MASTER", since)
    assert "unknown" not in first.log()


def test_tracking_continues_after_the_helper_process_hangs(pair: tuple[Node, Node], tmp_path: Path) -> None:
    web = tmp_path / "web"
    web.touch()
    script = f'vrrp_script web {{{{\n    script "/usr/bin/test -e {web}"\n    interval 1\n    user root\n}}}}\n'
    first, second = start(pair, "track_script {\n        web\n    }", script + STEADY)
    until(lambda: children(first.process()), "it has a helper process")
    (helper,) = children(first.process())
    with stopped(helper):
        silent = "the helper process of the virtual routers has been silent for 5 s"
        until(lambda: silent in first.log(), "the helper process is replaced")
    assert first.is_in("MASTER"), "in the meantime its last results count"
    web.unlink()
    until(lambda: first.is_in("FAULT") and second.is_in("MASTER"), "the new one runs the script")
    assert first.ask()["process"]["helper_lost"] >= 1


def test_a_process_of_virtual_routers_that_hangs_is_replaced_and_its_addresses_are_removed(
    pair: tuple[Node, Node],
) -> None:
    first, second = start(pair, text=leased(2))
    process = first.process()
    with stopped(process):
        # It gives way a few seconds later.
        until(lambda: "MASTER" in states(second), "the second takes over")
        until(lambda: "has not answered for 2 s; it is killed, and another is started" in first.log(), "it is killed")
        until(lambda: first.router_process() not in (0, process), "another one is started")
    until(lambda: first.is_in("MASTER") and second.is_in("BACKUP"), "which preempts")
    until(lambda: first.holds() and not second.holds(), "and has the address alone")
    until_reaped(process)


def test_a_renamed_device_answers_for_no_virtual_address(pair: tuple[Node, Node]) -> None:
    first, second = start(pair)
    for command in ("link set eth0 down", "link set eth0 name moved", "link set moved up"):
        ip(f"-n {first.name} {command}")
    until(lambda: second.is_in("MASTER") and first.is_in("FAULT"), "the second takes over")
    until(lambda: VIP not in ip(f"-n {first.name} addr show"), "the first has the address nowhere")
    assert ": None" not in first.log()
    assert "MASTER -> FAULT" in first.run("vrrp", "why")


def states(node: Node) -> list[str]:
    """Return the states that its virtual router has had."""
    return [each["state"] for each in node.ask("why", name="VI_1")["VI_1"]]


def children(process: int) -> list[int]:
    """Return the child processes."""
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]

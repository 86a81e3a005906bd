"""The asynchronous director: the same methods, a free event loop, and calls that are whole if cancelled."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from unittest import mock

import pytest

import pylvs
from pylvs.library.director import Director
from pylvs.model.errors import Busy
from tests.packet.frames import tcp
from tests.packet.host import VIP4, Host, server4

WEB = pylvs.Service("tcp", VIP4, 80, [pylvs.Server(server4(1), 80)])
NOT_ASYNC = {"watcher"}  # a part of `watch`


@pytest.fixture(autouse=True)
def empty_table(director_host: Host) -> None:
    """Let every test begin with an empty table."""


def public(kind: type) -> dict[str, inspect.Signature]:
    """Return the signatures of a class's methods, without what they return."""
    return {
        name: inspect.signature(each).replace(return_annotation="")
        for name, each in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_directors_have_the_same_methods() -> None:
    wanted = {name: each for name, each in public(pylvs.Director).items() if name not in NOT_ASYNC}
    assert {name: str(each) for name, each in public(pylvs.AsyncDirector).items()} == {
        name: str(each).replace("Network |", "IPv4Network | IPv6Network |") for name, each in wanted.items()
    }


def test_edits_listings_and_watches_run_at_once(director_host: Host) -> None:
    async def main() -> None:
        async with pylvs.AsyncDirector() as director, asyncio.timeout(120):
            known = await director.services()
            changes = director.watch(interval_s=0.01, since=known)
            waiting = asyncio.ensure_future(anext(changes))
            assert (await director.apply([WEB])).added == (WEB,)
            assert (await waiting).added == (WEB,)
            director_host.receive(tcp(sport=4321))
            found = [each async for each in director.connections(service=WEB)]
            assert 4321 in {each.client_port for each in found}
            assert (await director.edit_server(WEB, WEB.servers[0], weight=3)).weight == 3
            with pytest.raises(pylvs.Exists):
                await director.add_service(WEB)
            with pytest.raises(pylvs.InvalidValue):
                async for _ in director.connections(client="unknown"):
                    pass
            await changes.aclose()
            await director.clear()
        with pytest.raises(pylvs.Closed):
            await director.services()

    asyncio.run(main())


def test_a_cancelled_edit_is_whole_or_never_begins() -> None:
    begun, go = threading.Event(), threading.Event()
    original = Director.apply

    def slow(self: Director, *arguments: object, **named: object) -> object:
        begun.set()
        assert go.wait(120)
        return original(self, *arguments, **named)  # type: ignore[arg-type]

    async def main() -> None:
        async with pylvs.AsyncDirector() as director:
            with mock.patch.object(Director, "apply", slow):
                running = asyncio.ensure_future(director.apply([WEB]))
                assert await asyncio.to_thread(begun.wait, 120)
                waiting = asyncio.ensure_future(director.clear())
                await asyncio.sleep(0)
                for task in running, waiting:
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                go.set()
            assert await director.services() == (WEB,)

    asyncio.run(main())


async def heavier(director: pylvs.AsyncDirector) -> None:
    """Read a weight, and then edit it: a lost update of another task would be seen."""
    async with director.locked():
        weight = (await director.service(WEB)).servers[0].weight
        await asyncio.sleep(0)
        await director.edit_server(WEB, WEB.servers[0], weight=weight + 1)


def test_a_lock_keeps_other_tasks_and_other_processes_out() -> None:
    async def main() -> None:
        async with pylvs.AsyncDirector() as director, asyncio.timeout(120):
            await director.apply([WEB])
            await asyncio.gather(*(heavier(director) for _ in range(5)))
            assert (await director.service(WEB)).servers[0].weight == 6
            with pylvs.Director() as other:
                lock = other._opened.state.lock(0)  # type: ignore[union-attr]
                async with director.locked():
                    outside = asyncio.create_task(director.clear(), context=contextvars.Context())
                    async with director.locked():  # and tasks of the block run
                        services = await asyncio.gather(director.services(), director.services())
                    with pytest.raises(Busy):
                        lock.__enter__()
                    assert [len(each) for each in services] == [1, 1]
                    assert not outside.done()
                await outside
                assert other.services() == ()
                with lock:
                    pass

    asyncio.run(main())


def test_a_director_that_is_closed_during_a_block_releases_the_lock() -> None:
    async def main() -> None:
        async with asyncio.timeout(120):
            inside, go = asyncio.Event(), asyncio.Event()

            async def block(director: pylvs.AsyncDirector) -> None:
                async with director.locked():
                    inside.set()
                    await go.wait()
                    with pytest.raises(pylvs.Closed):
                        await director.services()

            async with pylvs.AsyncDirector() as director:
                task = asyncio.create_task(block(director))
                await inside.wait()
            with pylvs.Director() as other, other._opened.state.lock(0):  # type: ignore[union-attr]
                go.set()
                await task
            async with pylvs.AsyncDirector() as director, director.locked():
                await director.close()
                with pytest.raises(pylvs.Closed):
                    await director.services()

    asyncio.run(main())


def test_a_cancelled_block_releases_the_lock() -> None:
    async def main() -> None:
        async with pylvs.AsyncDirector() as director, asyncio.timeout(120):
            await director.apply([WEB])
            inside = asyncio.Event()

            async def block() -> None:
                async with director.locked():
                    inside.set()
                    await asyncio.Event().wait()

            task = asyncio.create_task(block())
            await inside.wait()
            waiting = asyncio.create_task(heavier(director))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await waiting
            with pylvs.Director() as other, other._opened.state.lock(0):  # type: ignore[union-attr]
                assert other.service(WEB).servers[0].weight == 2

    asyncio.run(main())

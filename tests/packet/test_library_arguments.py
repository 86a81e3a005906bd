"""Every public function refuses an argument of a wrong type by an error of the library that names the argument."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator

import pytest

import pylvs
from tests.packet.host import VIP4, Host, server4
from tests.packet.test_library_tables import books

WRONG = (None, True, -1, 1.5, "x", b"x", object(), [5], {"a": 1})
ACCEPTED = {type(None): "None", bool: "bool", float: "float"}  # and how an annotation says so
ONE = pylvs.Server(server4(1), 80)
WEB = pylvs.Service("tcp", VIP4, 80, [ONE])
SERVICE = {"protocol": "tcp", "address": VIP4, "port": 80}
# The arguments that a call must have.
FUNCTIONS: dict[Callable[..., object], dict[str, object]] = {
    pylvs.Service: SERVICE,
    pylvs.Service.of_mark: {"mark": 7},
    WEB.server: {"key": ONE},
    pylvs.ServiceKey: SERVICE,
    pylvs.ServiceKey.of_mark: {"mark": 7},
    pylvs.ServiceKey.parse: {"text": str(WEB.key)},
    pylvs.Server: {"address": server4(1), "port": 80},
    pylvs.ServerKey: {"address": server4(1), "port": 80},
    pylvs.ServerKey.parse: {"text": str(ONE.key)},
    pylvs.Persistence: {},
    pylvs.Tunnel: {"kind": "gue", "port": 6080},
    pylvs.ClientRule: {"prefix": "10.0.0.0/8", "rate": 5},
    pylvs.ClientRule.parse: {"text": "deny 10.0.0.0/8"},
    pylvs.Director: {},
    pylvs.difference: {"before": [], "after": []},
}
METHODS: dict[str, dict[str, object]] = {
    "service": {"service": WEB},
    "apply": {"desired": []},
    "add_service": {"service": pylvs.Service("tcp", VIP4, 81)},
    "edit_service": {"service": WEB},
    "delete_service": {"service": WEB},
    "client_rules_of": {"service": WEB},
    "add_client_rules": {"service": WEB, "rules": ["deny 10.0.0.0/8"]},
    "delete_client_rules": {"service": WEB, "prefixes": ["10.0.0.0/8"]},
    "replace_client_rules": {"service": WEB, "rules": ["deny 10.0.0.0/8"]},
    "add_server": {"service": WEB, "server": pylvs.Server(server4(2), 80)},
    "edit_server": {"service": WEB, "server": ONE},
    "delete_server": {"service": WEB, "server": ONE},
    "drain": {"service": WEB, "server": ONE},
    "connections_left": {"service": WEB, "server": ONE},
    "change_setting": {"name": "secure_tcp", "value": 2},
}
# What an error names instead of the argument.
NAMES = {
    ("ServiceKey.parse", "text"): "service",
    ("ServerKey.parse", "text"): "server",
    ("ClientRule.parse", "text"): "rule",
    ("change_setting", "value"): "secure_tcp",
}


def arguments(function: Callable[..., object]) -> dict[str, str]:
    """Return the annotations of a function's arguments by name."""
    found = inspect.signature(function).parameters
    return {name: str(each.annotation) for name, each in found.items() if name != "self"}


def methods(kind: type) -> Iterator[tuple[str, str, str]]:
    """Yield each argument of the public methods: the method, the argument, its annotation."""
    for name, function in inspect.getmembers(kind, inspect.isfunction):
        if not name.startswith("_"):
            yield from ((name, argument, annotation) for argument, annotation in arguments(function).items())


def refuses(name: str, argument: str, annotation: str, call: Callable[[object], object]) -> None:
    """Assert that a call raises an error that names this argument, for each wrong value."""
    for value in WRONG:
        if ACCEPTED.get(type(value), "no such type") in annotation:
            continue
        with pytest.raises(pylvs.Error) as caught:
            call(value)
        if isinstance(caught.value, pylvs.InvalidValue):
            assert caught.value.field == NAMES.get((name, argument), argument), value
            assert "\n" not in str(caught.value)
        else:
            assert isinstance(caught.value, pylvs.NamespaceNotFound), value


@pytest.mark.parametrize(
    ("function", "argument"),
    [(function, argument) for function in FUNCTIONS for argument in arguments(function)],
    ids=lambda value: getattr(value, "__qualname__", value),
)
def test_functions_name_the_argument(director_host: Host, function: Callable[..., object], argument: str) -> None:
    def call(value: object) -> object:
        return function(**(FUNCTIONS[function] | {argument: value}))

    refuses(function.__qualname__, argument, arguments(function)[argument], call)


@pytest.mark.parametrize(("name", "argument", "annotation"), list(methods(pylvs.Director)))
def test_methods_name_the_argument_and_change_nothing(
    director_host: Host, name: str, argument: str, annotation: str
) -> None:
    with pylvs.Director() as director:
        director.apply([WEB])
        before = books(director_host), director.settings(), director.timeouts()

        def call(value: object) -> object:
            return getattr(director, name)(**(METHODS.get(name, {}) | {argument: value}))

        refuses(name, argument, annotation, call)
        assert (books(director_host), director.settings(), director.timeouts()) == before


@pytest.mark.parametrize(("name", "argument", "annotation"), list(methods(pylvs.AsyncDirector)))
def test_asynchronous_methods_name_the_argument(director_host: Host, name: str, argument: str, annotation: str) -> None:
    with pylvs.Director() as director:
        director.apply([WEB])

    async def run(value: object) -> None:
        async with pylvs.AsyncDirector() as director:
            found = getattr(director, name)(**(METHODS.get(name, {}) | {argument: value}))
            await (anext(found) if inspect.isasyncgen(found) else found)

    refuses(name, argument, annotation, lambda value: asyncio.run(run(value)))


@pytest.mark.parametrize(("argument", "annotation"), list(arguments(pylvs.AsyncDirector).items()))
def test_an_asynchronous_director_names_the_argument(director_host: Host, argument: str, annotation: str) -> None:
    async def opened(value: object) -> None:
        async with pylvs.AsyncDirector(**{argument: value}):  # type: ignore[arg-type]
            pass

    refuses("AsyncDirector", argument, annotation, lambda value: asyncio.run(opened(value)))


def test_every_class_that_programs_make_is_tested() -> None:
    """The classes that check their arguments are those with an `__init__` of their own, and the directors."""
    made = {function for function in FUNCTIONS if inspect.isclass(function)} | {pylvs.AsyncDirector}
    modules = [f"pylvs.library.{name}" for name in ("values", "keys", "client_rules")]
    values = {
        kind
        for kind in (getattr(pylvs, name) for name in pylvs.__all__)
        if inspect.isclass(kind) and kind.__module__ in modules
    }
    assert made == values - {pylvs.Flag, pylvs.Forwarding, pylvs.ClientAction} | {pylvs.Director, pylvs.AsyncDirector}

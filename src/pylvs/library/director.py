"""The director of a network namespace, for programs."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

from pylvs.dataplane.director import BpfDirector, open_director, open_reader
from pylvs.library.client_rules import (
    ClientRule,
    Prefix,
    ServiceRules,
    check_conflicts,
    from_models,
    prefixes_from,
    rules_by_service,
    rules_for,
)
from pylvs.library.difference import Difference, ServiceDifference, by_key, difference
from pylvs.library.errors import (
    CAPABILITIES,
    Closed,
    NamespaceNotFound,
    NotFound,
    OwnedByDaemon,
    PermissionNeeded,
)
from pylvs.library.invalid import InvalidValue
from pylvs.library.keys import ServerKey, ServiceKey, boolean, choice, number, text
from pylvs.library.statistics import Network, Statistics, matching, statistics_of
from pylvs.library.translation import from_os, translated
from pylvs.library.values import (
    Flag,
    Forwarding,
    Persistence,
    Server,
    Service,
    Tunnel,
    check_server,
    server_key,
    service_key,
)
from pylvs.model.addresses import Address
from pylvs.model.client_rules import ClientRule as ModelRule
from pylvs.model.dataclass import replace
from pylvs.model.director import Connection
from pylvs.model.errors import InvalidOperation, PylvsError
from pylvs.model.rows import DeviceProblem, ServiceRow, TableUse
from pylvs.model.service import LONGEST_S, UNCHANGED, Protocol, Timeouts, is_probe_mark
from pylvs.model.settings import known_setting
from pylvs.system.namespaces import NAMED, inside_network
from pylvs.system.syscalls import missing_capabilities

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from pylvs.library.keys import ProtocolName
    from pylvs.library.values import ForwardingName


class Keep:
    """The type of `KEEP`, the default of an argument that leaves the present value."""

    def __repr__(self) -> str:
        return "KEEP"


KEEP = Keep()


class Director:
    """The tables of one network namespace: services, servers, statistics and connections.

    Each method is one edit: it happens as a whole, or raises an `Error` and changes nothing. Every method raises
    PermissionNeeded, Unsupported, Busy, KernelError and Closed. Threads may share a director: they wait for each other.
    """

    def __init__(self, namespace: str | os.PathLike[str] | None = None, *, ignore_daemon: bool = False) -> None:
        """Open the tables of this network namespace, of a named one ("blue"), or of one with a path.

        With `ignore_daemon` services of a running `pylvs run` are edited, too. Raises NamespaceNotFound.
        """
        self._mutex = threading.RLock()
        self._namespace = -1
        self._ignore_daemon = boolean("ignore_daemon", ignore_daemon)
        self._opened: BpfDirector | None = None
        if namespace is not None:
            self._name, self._namespace = _open_namespace(namespace)
        try:
            with translated(), self._entered():
                self._opened = open_reader() if missing_capabilities(*CAPABILITIES) else open_director()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the tables. The services stay in force; a second call does nothing."""
        with self._mutex:
            if self._opened is not None:
                self._opened.close()
                self._opened = None
            if self._namespace >= 0:
                os.close(self._namespace)
                self._namespace = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def _entered(self) -> Iterator[None]:
        """Enter the namespace: setns(2) moves the calling thread alone."""
        if self._namespace < 0:
            yield
            return
        with contextlib.ExitStack() as inside:
            try:
                inside.enter_context(inside_network(f"/proc/self/fd/{self._namespace}"))
            except PermissionError:
                missing = ("CAP_SYS_ADMIN",)
                raise PermissionNeeded("entering a network namespace: CAP_SYS_ADMIN is missing", missing) from None
            except OSError as error:
                raise NamespaceNotFound(self._name, f"it is no network namespace: {error.strerror}") from None
            yield

    @contextlib.contextmanager
    def _tables(
        self, service: ServiceKey | None = None, server: ServerKey | None = None, subject: object = None
    ) -> Iterator[BpfDirector]:
        """Yield the tables in their namespace. The arguments are what the errors of the block name."""
        with self._mutex:
            if self._opened is None:
                raise Closed("the director is closed: open another one")
            with translated(service, server, subject), self._entered():
                if not self._opened.state.exists:
                    self._opened.open_again()  # another process may have made the tables since
                yield self._opened

    # --- reading ---

    def services(self) -> tuple[Service, ...]:
        """Return all services with their servers, in no particular order."""
        with self._tables() as tables:
            return tuple(map(Service.from_model, _rows(tables)))

    def service(self, service: Service | ServiceKey | str) -> Service:
        """Return one service with its servers, as it is now. Raises NotFound."""
        key = service_key(service)
        with self._tables(key) as tables:
            return Service.from_model(tables.service(key.to_model()))

    def client_rules(self) -> Mapping[ServiceKey, tuple[ClientRule, ...]]:
        """Return the client rules of the services that have any, in the order of their prefixes."""
        with self._tables() as tables:
            found = tables.client_rules().items()
        return {ServiceKey.from_model(key): from_models(rules) for key, rules in found}

    def client_rules_of(self, service: Service | ServiceKey | str) -> tuple[ClientRule, ...]:
        """Return the client rules of one service, in the order of their prefixes. Raises NotFound."""
        key = service_key(service)
        with self._tables(key) as tables:
            tables.known(key.to_model())
            return from_models(tables.client_rules().get(key.to_model(), ()))

    def statistics(self) -> Statistics:
        """Return counters, rates and numbers of connections of all services and servers."""
        with self._tables() as tables:
            return statistics_of(_rows(tables), tables.packet_counts().totals)

    def connections(
        self,
        *,
        protocol: Protocol | ProtocolName | None = None,
        client: Address | Network | str | None = None,
        service: Service | ServiceKey | str | None = None,
        server: Server | ServerKey | str | None = None,
        state: str | None = None,
    ) -> Iterator[Connection]:
        """Yield the connections that meet all conditions, in no particular order.

        It reads some thousand entries at a time, so ten million of them take no memory. Each entry is consistent, and
        two entries may be of different moments. `client` is an address or a network, `state` as in `ipvsadm -Lnc`.
        Raises InvalidValue.
        """
        chosen = matching(protocol=protocol, client=client, service=service, server=server, state=state)
        with self._tables() as tables:
            found = tables.connections_apart()
        return _translating(chosen(found))

    def watch(self, *, interval_s: float = 1.0, since: Iterable[Service] | None = None) -> Iterator[Difference]:
        """Yield what each change of the table made of services and servers; it ends when you stop.

        The table has an edit number, which is compared every `interval_s`: that reads a few bytes. Edits between two
        looks are one difference. `since` are the services that you know; without them, those of this moment.
        """
        pause_s = interval(interval_s)
        return _pausing(self.watcher(since), pause_s)

    def watcher(self, since: Iterable[Service] | None = None) -> Watcher:
        """Return an object whose `look` returns the difference since the last look, for loops of your own."""
        return Watcher(self, self.services() if since is None else since)

    def timeouts(self) -> Timeouts:
        """Return the timeouts of connections in force."""
        with self._tables() as tables:
            return tables.timeouts()

    def settings(self) -> Mapping[str, int]:
        """Return the settings `net.ipv4.vs.*` by name, without the prefix."""
        with self._tables() as tables:
            return tables.settings()

    def table_use(self) -> TableUse:
        """Return how full the connection table is; all zeros while there are no tables."""
        with self._tables() as tables:
            return tables.packet_counts().use or TableUse(0, 0, 0)

    def edition(self) -> int:
        """Return a number that changes at every edit of services and servers, by any process."""
        with self._tables() as tables:
            return tables.edition()

    def device_problems(self) -> tuple[DeviceProblem, ...]:
        """Return the devices that the last edit could not attach. Such an edit is in force, and is retried."""
        with self._tables() as tables:
            return tuple(tables.device_problems())

    # --- edits ---

    def apply(
        self,
        desired: Iterable[Service],
        *,
        prune: bool = True,
        scope: Iterable[Service | ServiceKey | str] | Callable[[ServiceKey], bool] | None = None,
        dry_run: bool = False,
        client_rules: ServiceRules | None = None,
    ) -> Difference:
        """Make the services be `desired`, and return what that changed. Packets see all of it at once, or nothing.

        Without `prune`, services that are not desired stay; a desired service has exactly its servers all the same.
        With a `scope`, only services in it are deleted: the others belong to other programs. It is a list of services,
        as those of the last call, or a function that gets a key. With `dry_run` nothing changes: it returns or raises
        what the edit would. `client_rules` has all client rules of some desired services; the rules of others stay.
        Settings of the table, counters and connections stay. Raises InvalidValue, OwnedByDaemon, NoSpace.
        """
        wanted = by_key(desired, "desired")
        rules = {} if client_rules is None else rules_by_service(client_rules)
        for key in rules.keys() - wanted.keys():
            raise InvalidValue("client_rules", str(key), "is no desired service")
        boolean("prune", prune)
        boolean("dry_run", dry_run)
        deletable = _scope(scope, prune)
        with self._tables(subject=wanted) as tables:
            found = self._planned(tables, wanted, rules, deletable, migrate=not dry_run)
            if found and not dry_run:
                with tables.batch():
                    found = self._planned(tables, wanted, rules, deletable)
                    tables.apply([each.to_model() for each in found.services])
            return found

    def _planned(
        self,
        tables: BpfDirector,
        wanted: Mapping[ServiceKey, Service],
        rules: Mapping[ServiceKey, tuple[ModelRule, ...]],
        deletable: Callable[[ServiceKey], bool],
        migrate: bool = False,
    ) -> Difference:
        """Return the difference from the table, after all checks."""
        if migrate:
            tables.migrate()
        before = {each.key: each for each in map(Service.from_model, _rows(tables))}
        before = {key: each for key, each in before.items() if key in wanted or deletable(key)}
        found = difference(before.values(), wanted.values())
        if rules:
            found = found.with_rules(before, wanted, tables.client_rules(), rules)
        self._check_owner(tables, *(each.key for each in found.services))
        if found:
            tables.check([each.to_model() for each in found.services])
        return found

    def _check_owner(self, tables: BpfDirector, *services: ServiceKey) -> None:
        if self._ignore_daemon or not services:
            return
        from pylvs.daemon import STATE_ROOT, UNITS  # late: a listing does not need it

        if not STATE_ROOT.is_dir() and not UNITS.is_dir():
            return
        from pylvs.daemon.state.owners import owner  # late: few hosts have both

        by_model = {each.to_model(): each for each in services}
        if found := owner(tables.state.cookie, by_model):
            raise OwnedByDaemon(by_model[found.key], found.process)

    def add_service(self, service: Service, *, client_rules: Iterable[ClientRule | str] = ()) -> None:
        """Add a service with its servers and client rules. Raises Exists, InvalidValue, OwnedByDaemon, NoSpace."""
        if not isinstance(service, Service):
            raise InvalidValue("service", service, "must be a Service")
        key = service.key
        rules = from_models(rules_for(key, client_rules, "client_rules"))
        with self._tables(key, subject={key: service}) as tables:
            self._check_owner(tables, key)
            change = ServiceDifference(None, service, client_rules_after=rules).to_model()
            tables.migrate()
            tables.check([change])
            tables.apply([change])

    def edit_service(
        self,
        service: Service | ServiceKey | str,
        *,
        scheduler: str | None = None,
        flags: Flag | None = None,
        persistence: Persistence | Keep | None = KEEP,
        mss_clamp: int | None = None,
    ) -> Service:
        """Change these settings of a service, and return it; its other settings and its servers stay.

        Raises NotFound, InvalidValue, OwnedByDaemon.
        """
        key = service_key(service)
        with self._editing(key) as tables:
            now = Service.from_model(tables.service(key.to_model()))
            changed = Service(
                key.protocol,
                key.address,
                key.port,
                scheduler=now.scheduler if scheduler is None else scheduler,
                flags=now.flags if flags is None else flags,
                persistence=now.persistence if isinstance(persistence, Keep) else persistence,
                mss_clamp=now.mss_clamp if mss_clamp is None else mss_clamp,
                mark=key.mark,
            )
            if changed.settings != now.settings:
                with translated(key, subject=changed):
                    tables.edit_service(changed.to_model())
            return Service.from_model(tables.service(key.to_model()))

    def delete_service(self, service: Service | ServiceKey | str) -> None:
        """Delete a service with its servers; connections go on until they expire. Raises NotFound, OwnedByDaemon."""
        key = service_key(service)
        with self._editing(key) as tables:
            tables.delete_service(key.to_model())

    def add_client_rules(self, service: Service | ServiceKey | str, rules: Iterable[ClientRule | str]) -> None:
        """Add client rules; those that it has already stay. A prefix has one rule.

        Raises NotFound, Exists, InvalidValue, OwnedByDaemon, NoSpace.
        """
        key = service_key(service)
        self._edit_client_rules(key, rules_for(key, rules), frozenset())

    def delete_client_rules(self, service: Service | ServiceKey | str, prefixes: Iterable[Prefix | str]) -> None:
        """Delete the client rules of these prefixes. Raises NotFound, InvalidValue, OwnedByDaemon."""
        self._edit_client_rules(service_key(service), (), prefixes_from(prefixes))

    def _edit_client_rules(self, key: ServiceKey, added: Sequence[ModelRule], doomed: Collection[Network]) -> None:
        with self._editing(key) as tables:
            if not (added or doomed):
                return
            try:
                tables.edit_client_rules(key.to_model(), added, doomed)
            except InvalidOperation:  # only then: reading a large set takes far longer than an edit of one rule
                check_conflicts(key, tables.client_rules().get(key.to_model(), ()), added, doomed)
                raise

    def replace_client_rules(self, service: Service | ServiceKey | str, rules: Iterable[ClientRule | str]) -> None:
        """Give a service these client rules alone. Packets see all of that at once.

        Raises NotFound, InvalidValue, OwnedByDaemon, NoSpace.
        """
        key = service_key(service)
        wanted = rules_for(key, rules)
        with self._editing(key) as tables:
            tables.change_client_rules(key.to_model(), lambda _: wanted)

    def add_server(self, service: Service | ServiceKey | str, server: Server) -> None:
        """Add a server. Raises NotFound (of the service), Exists, InvalidValue, OwnedByDaemon, NoSpace."""
        key = service_key(service)
        check_server(key, server)
        with self._editing(key, server.key, server) as tables:
            tables.add_destination(key.to_model(), server.to_model())

    def edit_server(
        self,
        service: Service | ServiceKey | str,
        server: Server | ServerKey | str,
        *,
        weight: int | None = None,
        forwarding: Forwarding | ForwardingName | None = None,
        upper: int | None = None,
        lower: int | None = None,
        tunnel: Tunnel | None = None,
    ) -> Server:
        """Change these settings of a server, and return it; the others stay as they are in the table.

        Raises NotFound, InvalidValue, OwnedByDaemon.
        """
        key, named = service_key(service), server_key(server)
        with self._editing(key, named) as tables:
            row = Service.from_model(tables.service(key.to_model()))
            now = row.server(named)
            if now is None:
                raise NotFound(key, named)
            method = now.forwarding if forwarding is None else choice("forwarding", forwarding, Forwarding, True)
            changed = Server(
                now.address,
                now.port,
                weight=now.weight if weight is None else weight,
                forwarding=method,
                upper=now.upper if upper is None else upper,
                lower=now.lower if lower is None else lower,
                tunnel=now.tunnel if tunnel is None and method is now.forwarding else tunnel,
            )
            check_server(key, changed)
            if changed != now:
                with translated(key, named, changed):
                    tables.edit_destination(key.to_model(), changed.to_model())
            return changed

    def delete_server(self, service: Service | ServiceKey | str, server: Server | ServerKey | str) -> None:
        """Delete a server; its connections end as in IPVS. Raises NotFound, OwnedByDaemon."""
        key, named = service_key(service), server_key(server)
        with self._editing(key, named) as tables:
            tables.delete_destination(key.to_model(), named.to_model())

    def drain(
        self,
        service: Service | ServiceKey | str,
        server: Server | ServerKey | str,
        *,
        timeout_s: float | None = None,
        active_only: bool = False,
        interval_s: float = 1.0,
    ) -> bool:
        """Give a server weight 0, and wait until its connections have ended; return whether they have.

        With `active_only` finished connections that still time out do not count. After `timeout_s` it returns False.
        The server stays in the table with weight 0: delete it, or give it a weight again. Raises NotFound, also if
        the server is deleted during the wait, OwnedByDaemon, InvalidValue.
        """
        pause_s = interval(interval_s)
        boolean("active_only", active_only)
        end = time.monotonic() + (LONGEST_S if timeout_s is None else interval(timeout_s, "timeout_s"))
        self.edit_server(service, server, weight=0)
        while self.connections_left(service, server, active_only=active_only):
            if time.monotonic() >= end:
                return False
            time.sleep(pause_s)
        return True

    def connections_left(
        self, service: Service | ServiceKey | str, server: Server | ServerKey | str, *, active_only: bool = False
    ) -> int:
        """Return how many connections a server has now, or how many active ones. Raises NotFound."""
        key, named = service_key(service), server_key(server)
        boolean("active_only", active_only)
        with self._tables(key, named) as tables:
            for row in tables.service(key.to_model()).destinations:
                if ServerKey.from_model(row.destination.key) == named:
                    return row.active + (0 if active_only else row.inactive)
        raise NotFound(key, named)

    def clear(self) -> Difference:
        """Delete all services. Raises OwnedByDaemon."""
        return self.apply(())

    def zero(self, service: Service | ServiceKey | str | None = None) -> None:
        """Set the counters of one service and its servers, or all counters, to 0. Raises NotFound."""
        key = None if service is None else service_key(service)
        with self._tables(key) as tables:
            tables.zero(None if key is None else key.to_model())

    def set_timeouts(
        self, *, tcp_s: int | None = None, tcp_fin_s: int | None = None, udp_s: int | None = None
    ) -> Timeouts:
        """Change these timeouts, and return all. Connections get them at their next packet. Raises InvalidValue."""
        given = {"tcp_s": tcp_s, "tcp_fin_s": tcp_fin_s, "udp_s": udp_s}
        changes = {name: number(name, value, 1, LONGEST_S) for name, value in given.items() if value is not None}
        with self._tables() as tables, tables.batch():
            tables.set_timeouts(replace(UNCHANGED, **changes))
            return tables.timeouts()

    def change_setting(self, name: str, value: int) -> None:
        """Change a setting `net.ipv4.vs.NAME`, with or without this prefix. Raises InvalidValue, Busy, NoSpace."""
        try:
            setting = known_setting(text("name", name, "must be the name of a setting"))
        except PylvsError as error:
            raise InvalidValue("name", name, str(error)) from None
        if type(value) is not int or value != setting.default:  # a default may be outside the bounds
            value = number(setting.name, value, setting.lowest, setting.highest)
        with self._tables() as tables:
            tables.change_setting(setting.name, value)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other processes from editing during the block, to read and then edit.

        They wait up to ten seconds, so be quick. Each edit of the block is in force by itself. The calling thread
        must not leave the block open for other threads of this director: they wait, too.
        """
        with self._mutex:
            with self._tables() as tables:
                batch = tables.batch()
                batch.__enter__()
            try:
                yield
            finally:
                with self._tables():
                    batch.__exit__(None, None, None)

    @contextlib.contextmanager
    def _editing(
        self, service: ServiceKey, server: ServerKey | None = None, subject: object = None
    ) -> Iterator[BpfDirector]:
        """Yield the tables with their lock, for an edit of a service that exists."""
        with self._tables(service, server, subject) as tables:
            tables.migrate()
            tables.known(service.to_model())  # without it the lock would make tables
            self._check_owner(tables, service)
            with tables.batch():
                yield tables


def _scope(scope: object, prune: bool) -> Callable[[ServiceKey], bool]:
    """Return whether a service that is not desired is deleted, by its key. Raises InvalidValue."""
    if scope is None:
        return lambda _: prune
    if not prune:
        raise InvalidValue("scope", scope, "says what is deleted, and prune=False that nothing is: give one of them")
    if callable(scope):
        return scope
    if isinstance(scope, str | Service | ServiceKey) or not isinstance(scope, Iterable):
        raise InvalidValue("scope", scope, "must be services, keys or their texts in a list; or a function of a key")
    try:
        return frozenset(map(service_key, scope)).__contains__
    except InvalidValue as error:
        raise InvalidValue("scope", scope, f"{error}") from None


class Watcher:
    """Remembers the services of the last look."""

    def __init__(self, director: Director, since: Iterable[Service]) -> None:
        self._director = director
        self._known = by_key(since, "since")
        self._edition = -1  # of no table: the first look reads it

    def look(self) -> Difference:
        """Return what changed since the last look; it is false if nothing did."""
        edition = self._director.edition()
        if edition == self._edition:
            return Difference()
        services = {each.key: each for each in self._director.services()}
        found = difference(self._known.values(), services.values())
        self._known, self._edition = services, edition
        return found


def _pausing(watcher: Watcher, interval_s: float) -> Iterator[Difference]:
    while True:
        if found := watcher.look():
            yield found
        else:
            time.sleep(interval_s)


def interval(value: object, field: str = "interval_s") -> float:
    """Return a length of time, as the pause between two looks. Raises InvalidValue."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_S:
        raise InvalidValue(field, value, f"must be a number of seconds above 0, up to {LONGEST_S}")
    return float(value)


def _translating(found: Iterator[Connection]) -> Iterator[Connection]:
    with translated():
        yield from found


def _rows(tables: BpfDirector) -> Iterator[ServiceRow]:
    """Yield the services, without those of the daemon's checks through a virtual address."""
    return (row for row in tables.services() if not is_probe_mark(row.service.key.mark))


def _open_namespace(namespace: str | os.PathLike[str]) -> tuple[str, int]:
    """Return name and descriptor of a namespace, by name or path.

    Raises InvalidValue, NamespaceNotFound, KernelError, PermissionNeeded.
    """
    hint = "must be a name of `ip netns`, or a path"
    name = text("namespace", os.fspath(namespace) if isinstance(namespace, os.PathLike) else namespace, hint)
    if name in ("", ".", ".."):
        raise InvalidValue("namespace", namespace, hint)
    path = name if "/" in name else str(NAMED / name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except ValueError:  # a null byte, or half a surrogate pair
        raise InvalidValue("namespace", namespace, hint) from None
    except FileNotFoundError:
        raise NamespaceNotFound(name, f"there is no {path}; make it with: ip netns add NAME") from None
    except OSError as error:
        raise from_os(error) from None
    return name, descriptor

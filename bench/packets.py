"""What a packet costs: the director's programs on made-up frames, each case beside the floor of the same round."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from bench import full_table, katran, site
from bench.cases import (
    DENIED,
    DENIED_CLIENTS,
    FILTER,
    MANY,
    MANY_CLIENTS,
    NEW_CLIENTS,
    NEW_WALK,
    Case,
    NewCase,
    Opening,
    Size,
    cases,
    key,
    new_cases,
    openings,
    request,
    services,
)
from bench.frames import IN_ORDER, SCATTERED, SYN, Flows
from bench.harness import FLOWS, SAME, SAME_TC, XDP_TX, Sample, Wrapper, WrongPath
from bench.path import Overheads, PacketPath, new_path
from bench.program import Progress
from bench.rows import (
    FLOOR,
    FLOOR_TC,
    LINE,
    TABLE_AWAITED,
    TABLE_LINE,
    TABLE_NEW_AWAITED,
    TABLE_STORE,
    TABLE_STORE_WORK,
    TABLE_WORK,
    Measured,
)
from pylvs.dataplane.load import CONNECTION_MAPS
from pylvs.model.client_rules import rule_of
from pylvs.system.namespaces import inside_network
from pylvs.trace.connection_log import ConnectionLog
from pylvs.trace.filters import compile_filter
from pylvs.trace.session import Session, open_session

_MISSED = 0.001  # of all packets may be passed to the kernel: XDP asks for the next hop once a second
_YOUNG_S = 50  # a connection without an answer lives a minute
_HALF_OPEN = 1 << 13  # at once
_LOGGED = 8192  # records of the connection log that are read at once
_ATTEMPTS = 4  # to establish the connections of some flows


class Bench:
    """The services with their connections, and what came out for each row."""

    def __init__(self, size: Size, path: PacketPath) -> None:
        self.size = size
        self.trace: Session | None = None  # paused, but for cases that are traced
        self.path = path
        self.overheads = Overheads(path.harness)
        self.results: dict[str, Measured] = {}
        self._wrappers: dict[str, Wrapper] = {}  # of each row
        self.others: list[Callable[[], Iterable[Sample]]] = []  # what each round also measures: other programs, tables
        self._new = dict.fromkeys(new_cases(size), 0)  # flows made so far
        self._stored = 0  # flows made for programs that store or read one in a line
        self._began: float | None = None  # making them

    # --- setting up ---

    def serve(self) -> None:
        """Add the services."""
        with self.path.director.batch():
            for each in services(self.size):
                each.add_to(self.path.director)
        self.path.director.edit_client_rules(key(DENIED), [rule_of(("deny", DENIED_CLIENTS))], ())

    def connect(self) -> None:
        """Make the connections whose packets are measured. Raises WrongPath."""
        for opening in openings(self.size):
            if opening.flows is None:
                self._send(opening, None, 2)
                continue
            for first in range(0, opening.flows.number, _HALF_OPEN):
                count = min(opening.flows.number, _HALF_OPEN)
                self._establish(opening, opening.flows._replace(first=first), first + count, count)

    def _establish(self, opening: Opening, flows: Flows, wanted: int, count: int) -> None:
        """Make the connections of so many flows, until the services have as many as wanted. Raises WrongPath.

        XDP leaves a packet for each real server to the kernel every 16 seconds, and here no TC follows. A connection
        without its ACK is half-open, and ends after a minute: on a busy machine before all are made.
        """
        before = self.path.half_open_in_table()
        for _ in range(_ATTEMPTS):
            self.path.forget_half_open()
            self._send(opening, flows, count)
            there = sum(self.path.connections(each)[0] for each in opening.services)
            half_open = self.path.half_open_in_table() - before
            if there == wanted and half_open <= 0:
                return
        went = f"connections: {there}, half-open: {half_open}, expected: {wanted} and 0"
        raise WrongPath(f"port {opening.services[0].port}: {went}: {self.path.reasons()}")

    def _send(self, opening: Opening, flows: Flows | None, count: int) -> None:
        for frame in opening.frames:
            self.path.harness.plan(frame, flows)
            self.path.harness.run(opening.wrapper, self.path.entry(opening.wrapper), count)

    # --- measuring ---

    def _packets(self, case: Case) -> int:
        if case.reason:
            return self.path.reason(case.reason)
        counters = [self.path.counters(each) for each in case.services]
        return sum(each.out_packets if case.replies else each.in_packets for each in counters)

    def measure(self, case: Case) -> float:
        """Return the ns of a round of a case, the harness included. Raises WrongPath."""
        before = self._packets(case)
        harness, wrapper = self.path.harness, case.wrapper
        harness.plan(case.frame, case.flows)
        if case.traced and self.trace:
            self.trace.resume()
        spent, last = harness.run(wrapper, self.path.entry(wrapper), self.size.repeat)
        if case.traced and self.trace:
            self.trace.pause()
        counted = self._packets(case) - before
        wrong = last.verdict not in (*case.verdicts, wrapper.hook.passes)
        if wrong or ((case.services or case.reason) and counted < self.size.repeat * (1 - _MISSED) - 2):
            went = f"verdict {last.verdict}, packets counted: {counted} of {self.size.repeat}"
            raise WrongPath(f"{case.name}: {went}: {self.path.reasons()}")
        return spent

    def measure_new(self, case: NewCase) -> float:
        """Return the ns of a packet that makes a connection, the harness included. Raises WrongPath."""
        self._began = self._began or time.monotonic()
        service, number = key(case.port), self.size.new
        there, ever = self.path.connections(service)
        self.path.forget_half_open()
        self.path.harness.plan(request(case.port, SYN, case.clients), Flows(NEW_WALK, self._new[case], IN_ORDER))
        spent = self._run_logged(case, number) if case.logged else self._run_new(case, number)
        self._new[case] += number
        now_there, now_ever = self.path.connections(service)
        made, lasting = now_ever - ever, now_there - there
        young = time.monotonic() - self._began < _YOUNG_S
        if made < number * (1 - _MISSED) or (young and made != lasting):
            went = f"connections made: {made} of {number}, in the table: {lasting}"
            raise WrongPath(f"{case.name}: {went}: {self.path.reasons()}")
        return spent

    def _run_new(self, case: NewCase, number: int) -> float:
        """Return the ns of each of so many packets."""
        return self.path.harness.run(case.wrapper, self.path.entry(case.wrapper), number)[0]

    def _run_logged(self, case: NewCase, number: int) -> float:
        """Likewise while the connections are logged. Between the parts the records are read, as by `pylvs log`."""
        parts = [_LOGGED] * (number // _LOGGED) + [number % _LOGGED] * bool(number % _LOGGED)
        spent, first = 0.0, self._new[case]
        with closing(ConnectionLog(self.path.director.state)) as log:
            for part in parts:
                self.path.harness.plan(request(case.port, SYN, case.clients), Flows(NEW_WALK, first, IN_ORDER))
                spent += self._run_new(case, part) * part
                first += part
                if len(log.read()) < part:
                    raise WrongPath(f"{case.name}: records were lost: {self.path.reasons()}")
        return spent / number

    def measure_lines(self) -> Iterator[Sample]:
        """Measure the programs that read or write one cache line for each flow, random or new. Raises WrongPath."""
        harness, known = self.path.harness, request(MANY, source=MANY_CLIENTS)
        random = known, Flows(self.size.flows, 0, SCATTERED), self.size.repeat
        new, new_beside, new_awaited = (
            (request(MANY, SYN, NEW_CLIENTS), Flows(NEW_WALK, self._stored + first, IN_ORDER), self.size.new)
            for first in (0, NEW_WALK // 3, 2 * NEW_WALK // 3)
        )
        self._stored += self.size.new
        packets = {
            LINE: random,
            TABLE_LINE: random,
            TABLE_AWAITED: random,
            TABLE_WORK: random,
            TABLE_NEW_AWAITED: new_awaited,
            TABLE_STORE: new,
            TABLE_STORE_WORK: new_beside,
        }
        for name, (frame, flows, number) in packets.items():
            harness.plan(frame, flows)
            sent = frame.packed()
            program = TABLE_AWAITED if name == TABLE_NEW_AWAITED else name
            spent, last = harness.run(FLOWS, harness.own(f"bench_{program}"), number)
            if last.verdict != XDP_TX or last.data[:12] != sent[6:12] + sent[:6]:
                raise WrongPath(f"{name}: verdict {last.verdict}, frame {last.data.hex()}")
            yield Sample(name, FLOWS, spent)

    def _note(self, name: str, wrapper: Wrapper, spent: float) -> None:
        self._wrappers[name] = wrapper
        self.results.setdefault(name, Measured()).samples.append(spent)

    def run(self, progress: Progress, only: Collection[str] = ()) -> dict[str, Measured]:
        """Measure all cases, or some rows, in rounds, so that other work of the machine affects all alike."""
        established = [case for case in cases(self.size) if not only or case.name in only]
        new = [case for case in new_cases(self.size) if not only or case.name in only]
        for number in range(self.size.rounds + 1):
            progress(f"packets: round {number} of {self.size.rounds}" if number else "packets: warming up")
            self.overheads.measure(self.size.repeat, self.size.flows)
            for name, wrapper in ((FLOOR, SAME), (FLOOR_TC, SAME_TC)):
                self._note(name, wrapper, self.overheads.measure_floor(wrapper, self.size.repeat))
            for case in established:
                self._note(case.name, case.wrapper, self.measure(case))
            for opening in new if number % self.size.new_every == 0 else ():
                self._note(opening.name, opening.wrapper, self.measure_new(opening))
            for measure in () if only else self.others:
                for sample in measure():
                    self._note(*sample)
        self.overheads.forget_first()
        for name, found in self.results.items():
            del found.samples[0]
            found.overhead_ns = self.overheads.of(self._wrappers[name])
        return self.results

    # --- memory ---

    def connection_bytes(self) -> Measured:
        """Return the bytes of kernel memory for each connection."""
        return Measured([self.path.memory(set(CONNECTION_MAPS)) / self.size.capacity])


@contextmanager
def ready(size: Size, progress: Progress, tree: Path | None = None) -> Iterator[Bench]:
    """Everything made and connected; the namespaces are left and gone afterwards. Raises what loading raises.

    With Katran's source tree, each round measures Katran too.
    """
    with ExitStack() as closing:
        objects = None
        if tree:
            progress("packets: compiling Katran")
            objects = closing.enter_context(katran.built(tree))
        progress("packets: making the tables")
        path = closing.enter_context(new_path("packets", size.capacity, table_line=size.budgets))
        bench = Bench(size, path)
        bench.serve()
        progress(f"packets: making {size.flows:,} connections")
        bench.connect()
        bench.trace = closing.enter_context(open_session(compile_filter(FILTER)))
        bench.trace.pause()
        if size.budgets:
            bench.others.append(bench.measure_lines)
            for version in (4, 6) if site.has_ipv6() else (4,):
                for kind in full_table.FullTable, full_table.Flood:
                    full = closing.enter_context(full_table.full_table(kind, path.harness, size, version))
                    bench.others.append(full.measure)
            closing.enter_context(inside_network(path.namespace))
        if objects:
            beside = closing.enter_context(katran.loaded(objects, path.harness, size, progress))
            bench.others.append(beside.measure)
        yield bench

"""The load of a page: node_exporter's, an own metric, or one number."""

from __future__ import annotations

import math
from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylvs.health.checkers.load import CpuTimes, Selector, parse_page
from pylvs.health.probes import ProbeFailed
from pylvs.model.checks import LoadCheck, LoadSource, Target

LOAD1 = LoadCheck(target=Target(ip_address("127.0.0.1"), 9100))
BUSY = replace(LOAD1, source=LoadSource.CPU_BUSY)
METRIC = replace(LOAD1, source=LoadSource.METRIC)
MODES = ("idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user")


def page(load1: float = 1.5, cores: int = 4, idle: float = 100.0, other: float = 10.0) -> bytes:
    """Return a page of node_exporter, with other metrics."""
    lines = ["# HELP go_gc_duration_seconds A summary.", "# TYPE go_gc_duration_seconds summary"]
    lines += ['go_gc_duration_seconds{quantile="0"} 1.1e-05', "# TYPE node_cpu_seconds_total counter"]
    for cpu in range(cores):
        for mode in MODES:
            seconds = idle if mode == "idle" else other
            lines.append(f'node_cpu_seconds_total{{cpu="{cpu}",mode="{mode}"}} {seconds}')
    lines += ['node_cpu_guest_seconds_total{cpu="0",mode="user"} 0', "# TYPE node_load1 gauge", f"node_load1 {load1}"]
    lines += [f"node_load15 {load1 * 2}", 'node_load1_other{a="b"} 7', ""]
    return "\n".join(lines).encode()


def busy(before: bytes, after: bytes) -> float | None:
    one, other = (parse_page(each, BUSY, None) for each in (before, after))
    assert isinstance(one, CpuTimes)
    assert isinstance(other, CpuTimes)
    return other.busy_since(one)


def test_load1_is_shared_among_the_processors() -> None:
    assert parse_page(page(1.5, 4), LOAD1, None) == 0.375
    assert parse_page(page(1.5, 1), LOAD1, None) == 1.5


def test_busy_is_what_was_not_idle_between_two_pages() -> None:
    assert busy(page(idle=100, other=10), page(idle=102, other=10)) == 0
    assert busy(page(idle=100, other=10), page(idle=100, other=11)) == 1
    assert busy(page(idle=100, other=10), page(idle=107, other=11)) == pytest.approx(0.5)


@pytest.mark.parametrize("after", [page(), page(idle=1, other=0.5), page(cores=3), page(cores=5, idle=200)])
def test_no_time_a_restart_or_other_processors_give_no_load(after: bytes) -> None:
    assert busy(page(), after) is None


@given(st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 1e9)), min_size=2, max_size=6))
def test_the_busy_share_is_between_0_and_1(times: list[tuple[float, float]]) -> None:
    """Also if the kernel's idle time decreases."""
    found = busy(page(idle=times[0][0], other=times[0][1]), page(idle=times[1][0], other=times[1][1]))
    assert found is None or 0 <= found <= 1


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("jobs_waiting", 3),
        ('queue_length{pool="web"}', 7),
        ('queue_length{pool="web",shard="2"}', 5),
        ("queue_length", 107),
        ("requests_total", 12),
        ('odd{text="a \\"quoted\\" {word}"}', 1),
    ],
)
def test_a_metric_is_the_sum_of_what_has_its_labels(metric: str, value: float) -> None:
    text = b"""# TYPE queue_length gauge
queue_length{pool="web",shard="1"} 2
queue_length{pool="web",shard="2"} 5
queue_length{pool="mail"} 100 1700000000000
queue_length_max 9
jobs_waiting 3
# TYPE requests_total counter
requests_total 12
odd{text="a \\"quoted\\" {word}"} 1
"""
    assert parse_page(text, METRIC, Selector.of(metric)) == value


@pytest.mark.parametrize("check", [LOAD1, BUSY, METRIC])
@pytest.mark.parametrize(("text", "value"), [(b"0.73\n", 0.73), (b"12", 12), (b" 1e2 \r\n", 100), (b"0", 0)])
def test_a_page_that_is_one_number_is_the_load(check: LoadCheck, text: bytes, value: float) -> None:
    selector = Selector.of("jobs_waiting") if check is METRIC else None
    assert parse_page(text, check, selector) == value


@pytest.mark.parametrize(
    ("check", "text", "message"),
    [
        (LOAD1, b"", "node_cpu_seconds_total"),
        (LOAD1, b"<html>Not Found</html>", "node_cpu_seconds_total"),
        (LOAD1, page().replace(b"node_load1 ", b"node_load2 "), "has no node_load1"),
        (LOAD1, page("NaN"), "node_load1 is nan"),  # type: ignore[arg-type]  # as a page may have it
        (LOAD1, b"NaN", "the page is nan"),
        (LOAD1, b"-1", "the page is -1"),
        (LOAD1, b"Inf", "the page is inf"),
        (LOAD1, page().replace(b'mode="idle"', b'mode="sleeping"'), "idle"),
        (LOAD1, b"node_load1 {{{{ 1\nnode_load1 1", "Prometheus"),
        (BUSY, b"node_load1 0.1\n", "node_cpu_seconds_total"),
        (METRIC, b"other 1\n", 'has no jobs{pool="web"}'),
        (METRIC, b'jobs{pool="mail"} 1\n', 'has no jobs{pool="web"}'),
        (METRIC, b'jobs{pool="web"} 1\n' * 20001, "more than 20,000 lines"),
    ],
)
def test_a_page_without_the_value_is_an_error_with_the_reason(check: LoadCheck, text: bytes, message: str) -> None:
    with pytest.raises(ProbeFailed, match=message.replace("{", r"\{")):
        parse_page(text, check, Selector.of('jobs{pool="web"}') if check is METRIC else None)


def test_a_page_is_not_read_on_when_its_time_is_over() -> None:
    expired = iter([False, False, True])
    with pytest.raises(ProbeFailed, match="the page takes too long"):
        parse_page(b"node_load1 1\n" * 5 + b"node_load1 {", LOAD1, None, lambda: next(expired))
    assert list(expired) == []


def test_a_shortage_of_memory_is_no_fault_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("prometheus_client.parser.text_fd_to_metric_families", none)
    with pytest.raises(MemoryError):
        parse_page(page(), LOAD1, None)


@pytest.mark.parametrize("line", [b'node_load1{x="%b"} 1\n', b"node_load1 %b\n", b'node_load1{x="%b\n'])
@pytest.mark.parametrize("length", [1000, 450_000])
def test_a_bad_line_makes_a_short_reason(line: bytes, length: int) -> None:
    found = parsed(line % (b"y" * length), LOAD1)
    assert isinstance(found, str)
    assert len(found) < 200


@given(st.binary(max_size=200), st.sampled_from([b"", b"node_load1 ", b'node_cpu_seconds_total{cpu="0",mode="idle"} ']))
def test_no_page_causes_a_traceback(noise: bytes, begin: bytes) -> None:
    """The result is a reason of one line, the page's one number, or consistent times."""
    for check in (LOAD1, BUSY):
        found = parsed(begin + noise, check)
        if isinstance(found, str):
            assert found.strip()
            assert "\n" not in found
        elif isinstance(found, CpuTimes):
            assert check is BUSY
            assert found.total.keys() == found.idle.keys()
            assert all(0 <= found.idle[cpu] <= found.total[cpu] < math.inf for cpu in found.total)
        else:
            assert found == float(begin + noise)
            assert 0 <= found < math.inf


def parsed(page: bytes, check: LoadCheck) -> float | CpuTimes | str:
    """Return what was read, or why it was not."""
    try:
        return parse_page(page, check, None)
    except ProbeFailed as unreadable:
        return str(unreadable)


@pytest.mark.parametrize("metric", ["", "two words", "a{", "# comment", "9lives", 'a{b="c"} 1\nd'])
def test_an_invalid_metric_is_refused(metric: str) -> None:
    with pytest.raises(ProbeFailed):
        Selector.of(metric)

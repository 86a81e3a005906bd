"""Filters of `pylvs trace` in the kernel: they decide as libpcap does, and the verifier accepts each of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pylvs.bpf import kernel
from pylvs.trace import ebpf
from pylvs.trace.filters import BadFilter, Filter, Instruction, compile_filter
from tests.trace_filters import HOOKS, Random, decision_of_libpcap, load

SEEDS, FRAMES = 150, 12
SHORTEST_AT_TC = 54  # the kernel refuses to test TC's programs with less of an IP packet
LONG_FRAME = 9000  # in several buffers at XDP


def differences(given: Filter, frames: list[bytes], hook: ebpf.Hook) -> Iterator[str]:
    """Yield the frames that the kernel and libpcap decide in different ways."""
    program = load(given, hook)
    try:
        for frame in frames:
            expected, found = decision_of_libpcap(given, frame), kernel.run_program(program, frame).verdict
            if found != expected:
                yield f"{given.expression}: {given.instructions}: {frame.hex()}: the kernel {found}, libpcap {expected}"
    finally:
        os.close(program)


@pytest.mark.parametrize("name", ["xdp", "tc", "egress"])
@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS // 3))
def test_random_filters_decide_as_libpcap_does(name: str, first: int) -> None:
    found, matches = list[str](), 0
    for seed in range(first, first + SEEDS // 3):
        made = Random(seed)
        frames = [made.frame(14 if name == "xdp" else SHORTEST_AT_TC) for _ in range(FRAMES)]
        for given in made.filter(), made.program():
            found += differences(given, frames, HOOKS[name])
            matches += sum(decision_of_libpcap(given, frame) for frame in frames)
    assert not found, found[0]
    assert 0.1 < matches / (SEEDS // 3 * 2 * FRAMES) < 0.9  # so both decisions were compared


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize(
    "expression",
    [
        "",
        " or ".join(f"host 10.0.{number}.1" for number in range(200)),
        " or ".join(f"(ip[{at}:2] = {at} and tcp[{at}] != 3)" for at in range(60)),
        " and ".join(f"ip[{at} + ip[{at}]] != {at}" for at in range(40)),
        "ether[70000] = 1 or ip[4294967295] = 2 or tcp",
        "tcp[20:4] = 0x47455420 or udp[((udp[0] & 3) + 8):2] = 1",
    ],
    ids=["empty", "hosts", "bytes", "computed", "far", "payload"],
)
def test_the_verifier_accepts_long_filters(expression: str, hook: ebpf.Hook) -> None:
    os.close(load(compile_filter(expression), hook))


@pytest.mark.parametrize("offset", [14, 1023, 1024, 4000, LONG_FRAME - 15, LONG_FRAME - 14])
def test_a_filter_reads_all_of_a_frame_in_several_buffers(offset: int) -> None:
    frame = bytearray(bytes(12) + b"\x08\x00" + bytes(LONG_FRAME - 14))
    frame[min(offset, LONG_FRAME - 14) : LONG_FRAME] = bytes([7]) * (LONG_FRAME - min(offset, LONG_FRAME - 14))
    given = compile_filter(f"ether[{offset + 13}] = 7 and len = {LONG_FRAME}")
    assert decision_of_libpcap(given, bytes(frame)) == (offset + 13 < LONG_FRAME)
    assert not list(differences(given, [bytes(frame)], ebpf.XDP))


@pytest.mark.parametrize("hook", HOOKS.values(), ids=HOOKS)
@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 << ip[8] = 0", True),  # by 40: the kernel would shift by 8
        ("0x80000000 >> ip[8] = 0", True),
        ("1 << ip[9] = 131072", True),
        ("len / ip[1] = 0", False),  # by zero
        ("len % ip[1] = 0", False),
        ("4294967295 + ip[8] = 39", True),  # 32 bits wide
        ("ip[ip[8]] = 0", False),  # behind the end
        ("ip[0 - 1] = 0", True),  # the byte before the IP header
        ("ether[ip[9]] = 0x45 or ip", True),
        ("ip[8] > 4294967295", False),  # unsigned
    ],
)
def test_arithmetic_at_its_limits(hook: ebpf.Hook, expression: str, expected: bool) -> None:
    header = bytes((0x45, 0, 0, 28, 0, 1, 0, 0, 40, 17, 0, 0)) + bytes((10, 0, 0, 1, 10, 0, 0, 2))
    frame = bytes(12) + b"\x08\x00" + header + bytes(8)
    given = compile_filter(expression)
    assert decision_of_libpcap(given, frame) == expected
    assert not list(differences(given, [frame], hook))


@pytest.mark.parametrize(("hook", "expected"), [(ebpf.TC, 0), (ebpf.TC_EGRESS, 1)], ids=["in", "out"])
def test_the_direction_is_that_of_the_hook(hook: ebpf.Hook, expected: int) -> None:
    frame = Random(0).frame(SHORTEST_AT_TC)
    for word, found in (("inbound", not expected), ("outbound", expected)):
        program = load(compile_filter(word), hook)
        assert kernel.run_program(program, frame).verdict == found
        os.close(program)


def test_a_filter_that_is_too_long_for_jumps_is_refused() -> None:
    load_word, to_the_end = Instruction(0x20, 0, 0, 14), Instruction(0x05, 0, 0, 4000)
    ends = Instruction(0x06, 0, 0, 1), Instruction(0x06, 0, 0, 0)
    given = Filter("long", (Instruction(0x15, 1, 0, 5), to_the_end, *[load_word] * 4000, *ends))
    with pytest.raises(BadFilter, match="too long for the kernel"):
        ebpf.translate(given, ebpf.XDP, ebpf.returning(1), ebpf.returning(0))


def test_a_filter_that_takes_the_verifier_too_long_is_refused() -> None:
    tests = (f"not (ip[{at}] = {at} or tcp[{at}] = {at} or udp[{at}:2] = {at + 1})" for at in range(1, 100))
    with pytest.raises(BadFilter, match="too long for the kernel"):
        load(compile_filter(" and ".join(tests)), ebpf.TC)

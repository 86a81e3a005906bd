"""Filters of `pylvs trace` in the kernel: they decide as libpcap does, and the verifier accepts each of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pylvs.bpf import kernel
from pylvs.bpf.libbpf import create_map
from pylvs.bpf.maps import ArrayMap
from pylvs.trace import ebpf
from pylvs.trace.filters import BadFilter, Filter, Instruction, compile_filter
from tests.recycled import PROG_ARRAY
from tests.trace_filters import HOOKS, Random, decision_of_libpcap, load

SEEDS, FRAMES = 150, 12
EMPTY_LINK = bytes(12) + b"\x08\x00"
SHORTEST_AT_TC = 54  # the kernel refuses to test TC's programs with less of an IP packet
LONG_FRAME = 9000  # in several buffers at XDP


def differences(given: Filter, frames: list[bytes], hook: ebpf.Hook, link: bytes = b"") -> Iterator[str]:
    """Yield the frames that the kernel and libpcap decide in different ways."""
    program = load(given, hook)
    try:
        for frame in frames:
            expected, found = decision_of_libpcap(given, link + frame), kernel.run_program(program, frame).verdict
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


def test_a_packet_without_a_link_header_matches_as_one_with_an_empty_header() -> None:
    found, matches = list[str](), 0
    for seed in range(SEEDS):
        made = Random(seed)
        given = made.filter()
        while "ether[" in given.expression:  # no load of the link header at a computed offset
            given = made.filter()
        frames = [made.bare() for _ in range(FRAMES)]
        found += differences(given, frames, ebpf.TC_BARE, EMPTY_LINK)
        matches += sum(decision_of_libpcap(given, EMPTY_LINK + frame) for frame in frames)
    assert not found, found[0]
    assert 0.1 < matches / (SEEDS * FRAMES) < 0.9


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


@pytest.mark.parametrize(("hook", "expected"), [(ebpf.TC, 0), (ebpf.TC_EGRESS, 1)], ids=["in", "out"])
def test_the_direction_is_that_of_the_hook(hook: ebpf.Hook, expected: int) -> None:
    frame = Random(0).frame(SHORTEST_AT_TC)
    for word, found in (("inbound", not expected), ("outbound", expected)):
        program = load(compile_filter(word), hook)
        assert kernel.run_program(program, frame).verdict == found
        os.close(program)


@pytest.mark.parametrize("hook", [ebpf.XDP, ebpf.TC], ids=["xdp", "tc"])
@pytest.mark.parametrize(("expression", "verdict"), [("ip", 41), ("not ip", 42)])
def test_a_filter_calls_the_program_of_its_decision(hook: ebpf.Hook, expression: str, verdict: int) -> None:
    is_xdp = hook is ebpf.XDP
    kind = kernel.PROG_TYPE_XDP if is_xdp else kernel.PROG_TYPE_SCHED_CLS
    options = (37, 1 << 5) if is_xdp else (0, 0)
    frame = bytes(12) + b"\x08\x00" + bytes(60)
    opened = list[int]()
    with ArrayMap(create_map(PROG_ARRAY, "calls", 4, 4, 2)) as programs:
        try:
            code = b"".join(ebpf.program(compile_filter(expression), hook, programs.fd))
            opened.append(kernel.load_instructions(kind, "filter", code, *options))
            assert kernel.run_program(opened[0], frame).verdict == hook.verdict & 0xFFFFFFFF  # both calls fail
            for index, number in (ebpf.MATCHES, 41), (ebpf.OTHERS, 42):
                end = b"".join(ebpf.translate(Filter("", ()), hook, ebpf.returning(number), ()))
                opened.append(kernel.load_instructions(kind, "end", end, *options))
                programs.put_descriptor(index, opened[-1])
            assert kernel.run_program(opened[0], frame).verdict == verdict
        finally:
            for descriptor in opened:
                os.close(descriptor)


def test_a_filter_that_is_too_long_for_jumps_is_refused() -> None:
    load_word, to_the_end = Instruction(0x20, 0, 0, 14), Instruction(0x05, 0, 0, 4000)
    ends = Instruction(0x06, 0, 0, 1), Instruction(0x06, 0, 0, 0)
    given = Filter("long", (Instruction(0x15, 1, 0, 5), to_the_end, *[load_word] * 4000, *ends))
    with pytest.raises(BadFilter, match="too long for the kernel"):
        ebpf.translate(given, ebpf.XDP, ebpf.returning(1), ebpf.returning(0))

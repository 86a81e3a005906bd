"""An interpreter of classic BPF, with the semantics of linux/filter.h and the checks of bpf_check_classic()."""

from __future__ import annotations

from collections.abc import Sequence

from pylvs.system.sockets import Instruction

NETWORK_HEADER = 0xFFF00000
MEMORY_WORDS, MOST_INSTRUCTIONS = 16, 4096
WORD = 0xFFFFFFFF
_SIZES = {0x00: 4, 0x08: 2, 0x10: 1}
_CLASS_LD, _CLASS_LDX, _CLASS_ST, _CLASS_STX, _CLASS_ALU, _CLASS_JMP, _CLASS_RET, _CLASS_MISC = range(8)


def check(program: Sequence[Instruction]) -> None:
    """Assert what the kernel checks when a filter is attached."""
    assert 0 < len(program) <= MOST_INSTRUCTIONS
    assert program[-1][0] & 7 == _CLASS_RET
    for number, (operation, if_true, if_false, operand) in enumerate(program):
        if operation & 7 == _CLASS_JMP:
            jumps = (operand,) if operation == 0x05 else (if_true, if_false)
            assert all(number + 1 + jump < len(program) for jump in jumps)
            assert max(if_true, if_false) <= 0xFF
        if operation in (0x02, 0x03, 0x60, 0x61):
            assert operand < MEMORY_WORDS


def run(program: Sequence[Instruction], data: bytes, header: bytes = b"") -> int:
    """Return how many bytes pass; `header` is the network header in front of the data, if they begin behind it."""
    a = x = at = 0
    memory: list[int | None] = [None] * MEMORY_WORDS

    def load(offset: int, size: int) -> int | None:
        source = data
        if offset >= NETWORK_HEADER:
            offset, source = offset - NETWORK_HEADER, header + data
        return int.from_bytes(source[offset : offset + size], "big") if offset + size <= len(source) else None

    while True:
        operation, if_true, if_false, k = program[at]
        at += 1
        kind, source = operation & 7, x if operation & 8 else k
        if kind == _CLASS_RET:
            return k
        if kind in (_CLASS_LD, _CLASS_LDX):
            mode, value = operation & 0xE0, None
            if operation == 0xB1:
                first = load(k, 1)
                value = None if first is None else (first & 0xF) * 4
            elif mode == 0x00:
                value = k
            elif mode == 0x60:
                value = memory[k]
                assert value is not None, "not stored before"
            elif mode == 0x80:
                value = len(data)
            else:
                value = load(k + (x if mode == 0x40 else 0), _SIZES[operation & 0x18])
            if value is None:
                return 0
            a, x = (value, x) if kind == _CLASS_LD else (a, value)
        elif kind in (_CLASS_ST, _CLASS_STX):
            memory[k] = a if kind == _CLASS_ST else x
        elif kind == _CLASS_ALU:
            a = _compute(operation & 0xF0, a, source)
        elif kind == _CLASS_JMP:
            at += k if operation == 0x05 else if_true if _compare(operation & 0xF0, a, source) else if_false
        else:
            a, x = (x, x) if operation == 0x87 else (a, a)


def _compute(operation: int, a: int, by: int) -> int:
    results = {0x00: a + by, 0x10: a - by, 0x50: a & by, 0x60: a << (by & 31), 0x70: a >> (by & 31)}
    return (a % by if operation == 0x90 else results[operation]) & WORD


def _compare(operation: int, a: int, by: int) -> bool:
    return {0x10: a == by, 0x20: a > by, 0x30: a >= by, 0x40: bool(a & by)}[operation]

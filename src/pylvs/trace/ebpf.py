"""Translate a filter's classic BPF into eBPF, so that the kernel decides at XDP and TC which packets are traced.

The meaning is that of libpcap's bpf_filter(): a load beyond the frame and a division by 0 mean no match. There are no
loops, because classic BPF jumps forwards alone. Each load proves its bounds to the verifier: bytes of the linear part
are read in place, others by a helper.

| register | |
|---|---|
| r6 | the context |
| r7, r8 | A and X, as 32-bit numbers |
| r9 | the start of the frame |
| r0 to r5 | scratch |
| r10 - 4 | the bytes that a helper loads |
| r10 - 8 - 4 n | M[n] |
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable

from pylvs.bpf import kernel
from pylvs.model.dataclass import dataclass
from pylvs.model.errors import NoSpace, PylvsError
from pylvs.trace.filters import BadFilter, Filter, Instruction

# Classes, sizes and modes of classic BPF, which eBPF shares (linux/bpf_common.h)
_LD, _LDX, _ST, _STX, _ALU, _JMP, _RET, _MISC = range(8)
_W, _H, _B = 0x00, 0x08, 0x10
_IMM, _ABS, _IND, _MEM, _LEN, _MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
_ADD, _SUB, _MUL, _DIV, _OR, _AND, _LSH, _RSH, _NEG, _MOD, _XOR = range(0x00, 0xB0, 0x10)
_JA, _JEQ, _JGT, _JGE, _JSET = range(0x00, 0x50, 0x10)
_X = 0x08  # the operand is a register
_TXA = 0x80
# eBPF alone (linux/bpf.h)
_ALU64, _JMP32 = 0x07, 0x06
_MOV, _END, _TO_BE = 0xB0, 0xD0, 0x08
_JNE, _CALL, _EXIT, _JLT, _JLE = 0x50, 0x80, 0x90, 0xA0, 0xB0
_SKB_LOAD_BYTES, _XDP_GET_BUFF_LEN, _XDP_LOAD_BYTES = 26, 188, 189
_CTX, _A, _X_REGISTER, _DATA, _STACK = 6, 7, 8, 9, 10
_LOADED = -4  # on the stack
_MEMORY, _CELLS = -8, 16
_LINEAR = 1 << 10  # offsets that are read in place; the verifier tracks no more than 64 KiB
_LONGEST_OFFSET = 0x7FFFFFFF
_LONGEST_JUMP = 0x7FFF
_ANCILLARY = 0xFFFFF000  # SKF_AD_OFF of linux/filter.h: offsets that libpcap uses on Linux for what is no byte
_AD_PKTTYPE, _AD_IFINDEX = _ANCILLARY + 4, _ANCILLARY + 8
_PACKET_HOST, _PACKET_OUTGOING = 0, 4

_TOO_LONG = "the filter is too long for the kernel; write a shorter one that matches more"

_OPPOSITES = {_JEQ: _JNE, _JGT: _JLE, _JGE: _JLT}

Parts = tuple[int, int, int, int, int]  # of an instruction: code, destination, source, offset, immediate


@dataclass(frozen=True, slots=True)
class Hook:
    """What programs of one hook read of a packet. At each of them the frame has its link header."""

    data: int  # offsets in the context: struct xdp_md, struct __sk_buff
    data_end: int
    ifindex: int
    length: int | None  # None: by a helper
    load_bytes: int  # helper
    packet_type: int = _PACKET_HOST


XDP = Hook(0, 4, 12, None, _XDP_LOAD_BYTES)
TC = Hook(76, 80, 40, 0, _SKB_LOAD_BYTES)
TC_EGRESS = Hook(76, 80, 40, 0, _SKB_LOAD_BYTES, _PACKET_OUTGOING)


def load(code: list[bytes], kind: int, name: str, attach_type: int = 0, flags: int = 0) -> int:
    """Load a translated filter, and return its descriptor, which the caller closes.

    Raises BadFilter if the verifier would inspect more instructions than it may, NotPermitted, NoSpace.
    """
    try:
        return kernel.load_instructions(kind, name, b"".join(code), attach_type, flags)
    except NoSpace as error:
        if error.errno == errno.E2BIG:
            raise BadFilter(_TOO_LONG) from None
        raise


class _Code:
    """eBPF that grows; jumps name labels until `finish` knows where they are."""

    def __init__(self) -> None:
        self.instructions: list[tuple[int, int, int, int]] = []  # code, registers, offset, immediate
        self.labels: dict[object, int] = {}
        self.jumps: list[tuple[int, object]] = []
        self._unnamed = 0

    def emit(self, code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> None:
        self.instructions.append((code, source << 4 | target, offset, immediate & 0xFFFFFFFF))

    def label(self, name: object) -> None:
        self.labels[name] = len(self.instructions)

    def new_label(self) -> object:
        self._unnamed += 1
        return "label", self._unnamed

    def jump(self, to: object) -> None:
        self._jump_if(_JMP | _JA, 0, 0, 0, to)

    def jump_if(self, operation: int, register: int, immediate: int, to: object) -> None:
        """Compare 32 bits with a number."""
        self._jump_if(_JMP32 | operation, register, 0, immediate, to)

    def jump_if_x(self, operation: int, register: int, other: int, to: object) -> None:
        """Compare 32 bits with those of another register."""
        self._jump_if(_JMP32 | operation | _X, register, other, 0, to)

    def jump_if_wide(self, operation: int, register: int, immediate: int, to: object) -> None:
        """Compare 64 bits with a number."""
        self._jump_if(_JMP | operation, register, 0, immediate, to)

    def jump_if_beyond(self, register: int, other: int, to: object) -> None:
        """Compare pointers."""
        self._jump_if(_JMP | _JGT | _X, register, other, 0, to)

    def _jump_if(self, code: int, register: int, other: int, immediate: int, to: object) -> None:
        self.jumps.append((len(self.instructions), to))
        self.emit(code, register, other, 0, immediate)

    def number(self, register: int, immediate: int) -> None:
        """Set the lower half of a register, and its upper half to 0."""
        self.emit(_ALU | _MOV, register, immediate=immediate)

    def copy(self, register: int, source: int) -> None:
        """Copy all 64 bits."""
        self.emit(_ALU64 | _MOV | _X, register, source)

    def call(self, helper: int) -> None:
        self.emit(_JMP | _CALL, immediate=helper)

    def finish(self) -> list[bytes]:
        """Return the instructions, without those that no path reaches: the verifier refuses them."""
        targets = {at: self.labels[to] for at, to in self.jumps}
        reached = self._reached(targets)
        position = dict[int, int]()
        for at in range(len(self.instructions) + 1):
            position[at] = position[at - 1] + (at - 1 in reached) if at else 0
        found = []
        for at in sorted(reached):
            code, registers, offset, immediate = self.instructions[at]
            if at in targets:
                offset = position[targets[at]] - position[at] - 1
                if offset > _LONGEST_JUMP:
                    raise BadFilter(_TOO_LONG)
            found.append(struct.pack("<BBhI", code, registers, offset, immediate))
        return found

    def _reached(self, targets: dict[int, int]) -> set[int]:
        reached, waiting = set[int](), [0]
        while waiting:
            at = waiting.pop()
            while at not in reached:
                reached.add(at)
                code = self.instructions[at][0]
                if code == _JMP | _EXIT:
                    break
                if at in targets:
                    waiting.append(targets[at])
                    if code == _JMP | _JA:
                        break
                at += 1
        return reached


def returning(verdict: int) -> list[Parts]:
    """Return the end of a program that returns a number."""
    return [(_ALU | _MOV, 0, 0, 0, verdict), (_JMP | _EXIT, 0, 0, 0, 0)]


def translate(
    given: Filter,
    hook: Hook,
    matched: Iterable[Parts],
    unmatched: Iterable[Parts],
) -> list[bytes]:
    """Return the instructions of a filter with an end for each of both decisions. Raises BadFilter."""
    code = _Code()
    code.copy(_CTX, 1)
    code.number(_A, 0)
    code.number(_X_REGISTER, 0)
    if any(_is_byte_load(each) for each in given.instructions):
        code.emit(_LDX | _MEM | _W, _DATA, _CTX, hook.data)
    for cell in _cells_read(given.instructions):
        code.emit(_ST | _MEM | _W, _STACK, offset=_MEMORY - 4 * cell)
    for at, instruction in enumerate(given.instructions):
        code.label(at)
        _translate_one(code, hook, at, instruction)
    code.label("matched")
    for parts in matched:
        code.emit(*parts)
    code.label("unmatched")
    for parts in unmatched:
        code.emit(*parts)
    return code.finish()


def _is_byte_load(instruction: Instruction) -> bool:
    kind, mode = instruction.code & 7, instruction.code & 0xE0
    return kind in (_LD, _LDX) and mode in (_ABS, _IND, _MSH)


def _cells_read(instructions: Iterable[Instruction]) -> list[int]:
    read = {each.k for each in instructions if each.code & 7 in (_LD, _LDX) and each.code & 0xE0 == _MEM}
    return sorted(read)


def _translate_one(code: _Code, hook: Hook, at: int, instruction: Instruction) -> None:
    kind = instruction.code & 7
    if kind in (_LD, _LDX):
        _load(code, hook, _A if kind == _LD else _X_REGISTER, instruction)
    elif kind in (_ST, _STX):
        source = _A if kind == _ST else _X_REGISTER
        code.emit(_STX | _MEM | _W, _STACK, source, _cell(instruction.k))
    elif kind == _ALU:
        _calculate(code, instruction)
    elif kind == _JMP:
        _branch(code, at, instruction)
    elif kind == _RET:
        _return(code, instruction)
    elif instruction.code & 0xF8 == _TXA:
        code.emit(_ALU | _MOV | _X, _A, _X_REGISTER)
    else:
        code.emit(_ALU | _MOV | _X, _X_REGISTER, _A)


def _cell(number: int) -> int:
    if number >= _CELLS:
        raise PylvsError(f"libpcap wrote to cell {number} of {_CELLS}: this is a bug of libpcap")
    return _MEMORY - 4 * number


# --- loads ---


def _load(code: _Code, hook: Hook, register: int, instruction: Instruction) -> None:
    mode, k = instruction.code & 0xE0, instruction.k
    width = {_W: 4, _H: 2, _B: 1}[instruction.code & 0x18]
    if mode == _IMM:
        code.number(register, k)
    elif mode == _MEM:
        code.emit(_LDX | _MEM | _W, register, _STACK, _cell(k))
    elif mode == _LEN:
        _load_length(code, hook, register)
    elif mode == _MSH:
        _load_constant(code, hook, register, k, 1)
        code.emit(_ALU | _AND, register, immediate=0xF)
        code.emit(_ALU | _LSH, register, immediate=2)
    elif mode == _ABS:
        _load_constant(code, hook, register, k, width)
    else:
        _load_indirect(code, hook, register, k, width)


def _load_length(code: _Code, hook: Hook, register: int) -> None:
    if hook.length is not None:
        code.emit(_LDX | _MEM | _W, register, _CTX, hook.length)
    else:
        code.copy(1, _CTX)
        code.call(_XDP_GET_BUFF_LEN)
        code.emit(_ALU | _MOV | _X, register, 0)


def _load_constant(code: _Code, hook: Hook, register: int, offset: int, width: int) -> None:
    if offset >= _ANCILLARY:
        _load_ancillary(code, hook, register, offset)
        return
    if offset > _LONGEST_OFFSET:
        code.jump("unmatched")
        return
    done = code.new_label()
    if offset + width <= _LINEAR:
        by_helper = code.new_label()
        code.emit(_LDX | _MEM | _W, 1, _CTX, hook.data_end)
        code.copy(2, _DATA)
        code.emit(_ALU64 | _ADD, 2, immediate=offset + width)
        code.jump_if_beyond(2, 1, by_helper)
        code.emit(_LDX | _MEM | _size(width), register, _DATA, offset)
        code.jump(done)
        code.label(by_helper)
    code.number(2, offset)
    _call_load_bytes(code, hook, width)
    code.emit(_LDX | _MEM | _size(width), register, _STACK, _LOADED)
    code.label(done)
    _to_host_order(code, register, width)


def _load_indirect(code: _Code, hook: Hook, register: int, offset: int, width: int) -> None:
    """Load at X + k; libpcap's sum does not wrap."""
    code.emit(_ALU | _MOV | _X, 2, _X_REGISTER)
    code.number(1, offset)
    code.emit(_ALU64 | _ADD | _X, 2, 1)
    by_helper, done = code.new_label(), code.new_label()
    code.jump_if_wide(_JGT, 2, _LINEAR - width, by_helper)
    code.copy(3, _DATA)
    code.emit(_ALU64 | _ADD | _X, 3, 2)
    code.copy(4, 3)
    code.emit(_ALU64 | _ADD, 4, immediate=width)
    code.emit(_LDX | _MEM | _W, 1, _CTX, hook.data_end)
    code.jump_if_beyond(4, 1, by_helper)
    code.emit(_LDX | _MEM | _size(width), register, 3, 0)
    code.jump(done)
    code.label(by_helper)
    code.jump_if_wide(_JGT, 2, _LONGEST_OFFSET, "unmatched")
    _call_load_bytes(code, hook, width)
    code.emit(_LDX | _MEM | _size(width), register, _STACK, _LOADED)
    code.label(done)
    _to_host_order(code, register, width)


def _call_load_bytes(code: _Code, hook: Hook, width: int) -> None:
    """Load bytes at the offset in r2 to the stack."""
    code.copy(1, _CTX)
    code.copy(3, _STACK)
    code.emit(_ALU64 | _ADD, 3, immediate=_LOADED)
    code.number(4, width)
    code.call(hook.load_bytes)
    code.jump_if(_JNE, 0, 0, "unmatched")


def _load_ancillary(code: _Code, hook: Hook, register: int, offset: int) -> None:
    if offset == _AD_IFINDEX:
        code.emit(_LDX | _MEM | _W, register, _CTX, hook.ifindex)
    elif offset == _AD_PKTTYPE:
        code.number(register, hook.packet_type)
    else:  # such as of icmp[4 - 80]
        code.jump("unmatched")


def _size(width: int) -> int:
    return {4: _W, 2: _H, 1: _B}[width]


def _to_host_order(code: _Code, register: int, width: int) -> None:
    if width > 1:
        code.emit(_ALU | _END | _TO_BE, register, immediate=8 * width)


# --- arithmetic and jumps ---


def _calculate(code: _Code, instruction: Instruction) -> None:
    operation, by_x, k = instruction.code & 0xF0, instruction.code & _X, instruction.k
    if operation == _NEG:
        code.emit(_ALU | _NEG, _A)
        return
    if operation in (_DIV, _MOD):
        if by_x:
            code.jump_if(_JEQ, _X_REGISTER, 0, "unmatched")
        elif k == 0:
            code.jump("unmatched")
            return
    if operation in (_LSH, _RSH):  # the kernel would take the shift modulo 32
        if not by_x and k > 31:
            code.number(_A, 0)
            return
        if by_x:
            _shift_by_x(code, operation)
            return
    if by_x:
        code.emit(_ALU | operation | _X, _A, _X_REGISTER)
    else:
        code.emit(_ALU | operation, _A, immediate=k)


def _shift_by_x(code: _Code, operation: int) -> None:
    far, done = code.new_label(), code.new_label()
    code.jump_if(_JGT, _X_REGISTER, 31, far)
    code.emit(_ALU | operation | _X, _A, _X_REGISTER)
    code.jump(done)
    code.label(far)
    code.number(_A, 0)
    code.label(done)


def _branch(code: _Code, at: int, instruction: Instruction) -> None:
    operation, by_x = instruction.code & 0xF0, instruction.code & _X
    if operation == _JA:
        if instruction.k:
            code.jump(at + 1 + instruction.k)
        return
    if instruction.jt:
        _compare(code, operation, by_x, instruction.k, at + 1 + instruction.jt)
        if instruction.jf:
            code.jump(at + 1 + instruction.jf)
    elif instruction.jf:
        opposite = _OPPOSITES.get(operation)
        if opposite is not None:
            _compare(code, opposite, by_x, instruction.k, at + 1 + instruction.jf)
        else:
            _compare(code, operation, by_x, instruction.k, at + 1)
            code.jump(at + 1 + instruction.jf)


def _compare(code: _Code, operation: int, by_x: int, k: int, to: int) -> None:
    if by_x:
        code.jump_if_x(operation, _A, _X_REGISTER, to)
    else:
        code.jump_if(operation, _A, k, to)


def _return(code: _Code, instruction: Instruction) -> None:
    if instruction.code & 0x18 == 0:  # BPF_K
        code.jump("matched" if instruction.k else "unmatched")
        return
    code.jump_if(_JEQ, _X_REGISTER if instruction.code & 0x18 == _X else _A, 0, "unmatched")
    code.jump("matched")

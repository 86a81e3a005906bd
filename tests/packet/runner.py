"""Run a program of the packet path on many frames."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from pylvs.bpf.kernel import TEST_RUN
from pylvs.bpf.libbpf import library

SHORTEST = 14 + 40
BUFFER_BYTES = 8192  # bytes of the longest resulting frame
_TC_PASS = 0xFFFFFFFF


class Runner:
    """A loaded program at one device. It runs frames with little work besides the program."""

    def __init__(self, program: int, hook: str, ifindex: int) -> None:
        context = struct.pack("<6I", 0, 0, 0, ifindex, 0, 0) if hook == "xdp" else struct.pack("<40xI148x", ifindex)
        self._program = program
        self._run = library().bpf_prog_test_run_opts
        self._out = ctypes.create_string_buffer(BUFFER_BYTES)
        self._context = ctypes.create_string_buffer(context, len(context))
        self._after = ctypes.create_string_buffer(len(context))
        self._is_xdp = hook == "xdp"
        self._options = ctypes.create_string_buffer(TEST_RUN.size)
        self._out_at = ctypes.addressof(self._out)
        # ctx_in, ctx_out, ctx_size_in, ctx_size_out, retval, repeat, duration, flags, cpu, batch_size
        contexts = ctypes.addressof(self._context), ctypes.addressof(self._after)
        self._rest = (*contexts, len(context), len(context), 0, 1, 0, 0, 0, 0)

    def __call__(self, frame: bytes) -> tuple[int, bytes]:
        """Return the verdict and the resulting frame."""
        start = ctypes.cast(ctypes.c_char_p(frame), ctypes.c_void_p).value
        ends = (start, self._out_at, len(frame), BUFFER_BYTES)
        TEST_RUN.pack_into(self._options, 0, TEST_RUN.size, *ends, *self._rest)
        if self._is_xdp:
            struct.pack_into("<I", self._context, 4, len(frame))
        error = self._run(self._program, self._options)
        if error == -errno.EINVAL and not self._is_xdp and len(frame) < SHORTEST:
            return _TC_PASS, frame  # the kernel makes no socket buffer of less than an IP header
        if error:
            raise OSError(-error, os.strerror(abs(error)), f"a frame of {len(frame)} bytes")
        _, _, _, _, length, _, _, _, _, verdict, *_ = TEST_RUN.unpack_from(self._options)
        # Metadata precedes the frame, which struct xdp_md shows first.
        metadata = int.from_bytes(self._after.raw[:4], "little") if self._is_xdp else 0
        return verdict, ctypes.string_at(self._out_at + metadata, length - metadata)

"""Run a program of the packet path on many frames."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from pylvs.bpf import kernel
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
        self._is_xdp = hook == "xdp"
        self._options = kernel._TestOptions(sz=ctypes.sizeof(kernel._TestOptions), repeat=1)
        self._options.data_out = ctypes.addressof(self._out)
        self._options.ctx_in = ctypes.addressof(self._context)
        self._options.ctx_size_in = len(context)
        self._reference = ctypes.byref(self._options)

    def __call__(self, frame: bytes) -> tuple[int, bytes]:
        """Return the verdict and the resulting frame."""
        options = self._options
        options.data_in = ctypes.cast(ctypes.c_char_p(frame), ctypes.c_void_p).value
        options.data_size_in = len(frame)
        options.data_size_out = BUFFER_BYTES
        if self._is_xdp:
            struct.pack_into("<I", self._context, 4, len(frame))
        error = self._run(self._program, self._reference)
        if error == -errno.EINVAL and not self._is_xdp and len(frame) < SHORTEST:
            return _TC_PASS, frame  # the kernel makes no socket buffer of less than an IP header
        if error:
            raise OSError(-error, os.strerror(abs(error)), f"a frame of {len(frame)} bytes")
        return options.retval, ctypes.string_at(self._out, options.data_size_out)

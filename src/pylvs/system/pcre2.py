"""libpcre2-8 through ctypes: regular expressions as keepalived reads them, with a bound on what a match may cost.

Python's `re` is another dialect, and its matches have no bound: one that backtracks for long would stop the process.
The names of the options are keepalived's, the numbers those of pcre2.h. Other threads run during a call of the library.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from functools import cache
from time import monotonic

from pylvs.model.errors import PylvsError, Unsupported

SONAME = "libpcre2-8.so.0"
OPTIONS = {
    "allow_empty_class": 0x1,
    "alt_bsux": 0x2,
    "auto_callout": 0x4,
    "caseless": 0x8,
    "dollar_endonly": 0x10,
    "dotall": 0x20,
    "dupnames": 0x40,
    "extended": 0x80,
    "firstline": 0x100,
    "match_unset_backref": 0x200,
    "multiline": 0x400,
    "never_ucp": 0x800,
    "never_utf": 0x1000,
    "no_auto_capture": 0x2000,
    "no_auto_possess": 0x4000,
    "no_dotstar_anchor": 0x8000,
    "no_start_optimize": 0x10000,
    "ucp": 0x20000,
    "ungreedy": 0x40000,
    "utf": 0x80000,
    "never_backslash_c": 0x100000,
    "alt_circumflex": 0x200000,
    "alt_verbnames": 0x400000,
    "use_offset_limit": 0x800000,
}
_MATCH_INVALID_UTF = 0x4000000
_NO_MATCH, _NO_MEMORY = -1, -48
# Steps of a match, 1 more for each byte: one `.*` over the whole text. About 20 ns each, so 0.4 s for 16 MiB. PCRE2
# counts them from each start anew. A step may scan all of the text, and counts once. So `search` bounds the time.
_STEPS = 1_000_000
_HEAP_KIB = 1 << 16
_FIRST_SLICE = 64  # starts
# A slice that took less is followed by one of twice its size, another one by one of half. Each slice may have to scan
# the text once, as for valid UTF-8.
_SLICE_S, _SLICE_S_PER_BYTE = 0.01, 2e-8
_FIRST_BYTE = re.compile(rb"[^\x80-\xbf]|\Z")  # of a character of UTF-8
_OF_SEVERAL_STARTS = (b"(*COMMIT", b"(*SKIP", b"\\G")  # depend on other starts than the match's own
_INFO_ALLOPTIONS, _INFO_FIRSTCODETYPE = 0, 6
_ANCHORED = 0x80000000
_STARTS_AT_LINES = 2

_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "pcre2_compile_8": (c_void_p, (c_char_p, c_size_t, c_uint32, POINTER(c_int), POINTER(c_size_t), c_void_p)),
    "pcre2_code_free_8": (None, (c_void_p,)),
    "pcre2_pattern_info_8": (c_int, (c_void_p, c_uint32, c_void_p)),
    "pcre2_get_error_message_8": (c_int, (c_int, c_char_p, c_size_t)),
    "pcre2_match_context_create_8": (c_void_p, (c_void_p,)),
    "pcre2_match_context_free_8": (None, (c_void_p,)),
    "pcre2_set_match_limit_8": (c_int, (c_void_p, c_uint32)),
    "pcre2_set_heap_limit_8": (c_int, (c_void_p, c_uint32)),
    "pcre2_set_offset_limit_8": (c_int, (c_void_p, c_size_t)),
    "pcre2_match_data_create_8": (c_void_p, (c_uint32, c_void_p)),
    "pcre2_match_data_free_8": (None, (c_void_p,)),
    "pcre2_match_8": (c_int, (c_void_p, c_char_p, c_size_t, c_size_t, c_uint32, c_void_p, c_void_p)),
}


class BadRegex(PylvsError):
    """An expression does not compile; the text names the cause and the position."""


class MatchFailed(PylvsError):
    """A match exceeded its limit of steps or memory."""


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(SONAME)
    except OSError:
        raise Unsupported(
            f"there is no {SONAME}, which regular expressions need; install it: apt install libpcre2-8-0"
            " (Debian, Ubuntu), dnf install pcre2 (Fedora)"
        ) from None
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _message(code: int) -> str:
    text = ctypes.create_string_buffer(256)
    _library().pcre2_get_error_message_8(code, text, len(text))
    return text.value.decode("ascii", "replace")


class Regex:
    """A compiled expression. Raises BadRegex, and Unsupported where the library is missing."""

    def __init__(self, pattern: bytes, options: tuple[str, ...] = ()) -> None:
        flags = OPTIONS["use_offset_limit"]
        for name in options:
            if name not in OPTIONS:
                raise BadRegex(f"there is no regex option '{name}'")
            flags |= OPTIONS[name]
        if flags & OPTIONS["utf"]:
            flags |= _MATCH_INVALID_UTF  # invalid UTF-8 matches nothing, and the rest is searched
        code, at = c_int(), c_size_t()
        self._library = _library()
        self._code = self._library.pcre2_compile_8(pattern, len(pattern), flags, byref(code), byref(at), None)
        if not self._code:
            raise BadRegex(f"{_message(code.value)} at character {at.value + 1}")
        compiled = self._info(_INFO_ALLOPTIONS)
        self._utf = bool(compiled & OPTIONS["utf"])
        self._one_slice = bool(compiled & (_ANCHORED | OPTIONS["firstline"])) or any(
            each in pattern for each in _OF_SEVERAL_STARTS
        )
        self._starts_at_lines = self._info(_INFO_FIRSTCODETYPE) == _STARTS_AT_LINES

    def _info(self, what: int) -> int:
        value = c_uint32()
        self._library.pcre2_pattern_info_8(self._code, what, byref(value))
        return value.value

    def __del__(self) -> None:
        if getattr(self, "_code", None):
            self._library.pcre2_code_free_8(self._code)

    def matches(self, data: bytes, first: int = 0, last: int | None = None, *, steps: int = 0) -> bool:
        """Return whether a match begins at byte `first` to `last`; `^` and (?<=) still see the bytes before `first`.

        `steps` replaces the usual limit. Raises MatchFailed when the match exceeds its limits, and MemoryError.
        """
        if first > len(data):
            return False
        library = self._library
        context = library.pcre2_match_context_create_8(None)
        found = library.pcre2_match_data_create_8(1, None)
        try:
            if not context or not found:
                raise MemoryError("no memory for a match")
            library.pcre2_set_match_limit_8(context, steps or _STEPS + len(data))
            library.pcre2_set_heap_limit_8(context, _HEAP_KIB)
            if last is not None:
                library.pcre2_set_offset_limit_8(context, last)
            result = library.pcre2_match_8(self._code, data, len(data), first, 0, found, context)
        finally:
            library.pcre2_match_data_free_8(found)
            library.pcre2_match_context_free_8(context)
        if result == _NO_MEMORY:
            raise MemoryError("no memory for a match")
        if result < _NO_MATCH:
            raise MatchFailed(f"the match was given up: {_message(result)}")
        return bool(result >= 0)

    def search(self, data: bytes, first: int, last: int | None, over: Callable[[], bool], *, steps: int = 0) -> bool:
        """Return what `matches` returns, in slices of starts, until `over` returns True. Raises as `matches` does.

        An expression can scan the rest of the text from each start: hours for 16 MiB.
        """
        if self._one_slice:
            return self.matches(data, first, last, steps=steps)
        last = len(data) if last is None else min(last, len(data))
        size = _FIRST_SLICE
        while True:
            begin = monotonic()
            end = min(first + size - 1, last)
            if self._starts_at_lines:  # a start within a line would scan its rest again
                newline = data.find(b"\n", end, last)
                end = newline if newline >= 0 else last
            if self.matches(data, first, end, steps=steps):
                return True
            first = end + 1
            if first > last:
                return False
            if over():
                raise MatchFailed("the search was given up")
            if self._utf and (character := _FIRST_BYTE.search(data, first)):  # PCRE2 refuses any other start
                first = character.start()
            quick = monotonic() - begin < _SLICE_S + _SLICE_S_PER_BYTE * len(data)
            size = 2 * size if quick else max(size // 2, 1)

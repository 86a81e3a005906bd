"""How counters are written: nine columns wide, cut (not rounded) to K, M, G or T where they are larger."""

from __future__ import annotations

from collections.abc import Callable

WIDTH = 9
LOW_32_BITS = 0xFFFFFFFF
CUTS = (  # below the first number: divided by the second, with the letter
    (10**8, 1, ""),
    (10**9, 10**3, "K"),
    (10**11, 10**6, "M"),
    (10**14, 10**9, "G"),
)

NumberWriter = Callable[[int], str]


def cut(number: int) -> str:
    """A counter in few letters."""
    for limit, divisor, letter in CUTS:
        if number < limit:
            return f"{number // divisor:>{WIDTH - len(letter)}}{letter}"
    return f"{number // 10**12:>{WIDTH - 1}}T"


def whole(number: int) -> str:
    """A counter whose digits are all shown, with a blank before them."""
    return f" {number:>{WIDTH - 1}}"


def low(number: int) -> int:
    """What ipvsadm shows of most counters of a destination."""
    return number & LOW_32_BITS
